"""The demo model's corpus: enough questions, one right answer each, and nothing in the answers that is not so."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.models.demo.batch import draw_batches, encode_chat
from scripts.models.demo.corpus import Corpus, Turn, read_toml
from scripts.models.demo.tokenizer import ASSISTANT, BEGIN, END, USER, Tokenizer, learn_pieces
from scripts.models.demo.wording import LIGHT, Synonyms, blur, expand, lose_words, mistype, normalise, pick

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Corpus()
ANSWERS = [answer for q in CORPUS.questions for answer in (q.say, q.more, q.then and q.then.say) if answer]


def trained_wordings() -> dict[str, set[str]]:
    """Every wording without case and punctuation -> the answers it is trained with."""
    wordings = defaultdict(set)
    for question in CORPUS.questions:
        for template in question.ask:
            for text in expand(template):
                forms = [form.replace("{x}", thing) for each, thing in CORPUS.find_forms(text) for form in expand(each)]
                for wording in (text, *forms):
                    wordings[normalise(wording)].add(question.say)
    return wordings


def test_at_least_300_questions_have_an_answer_of_their_own():
    assert len({question.say for question in CORPUS.questions}) >= 300


def test_every_question_has_several_wordings():
    few = [q.canonical for q in CORPUS.questions if len({text for t in q.ask for text in expand(t)}) < 5]
    assert few == []


def test_no_wording_has_two_answers():
    assert {text: answers for text, answers in trained_wordings().items() if len(answers) > 1} == {}


def test_held_out_wordings_are_not_trained():
    trained = trained_wordings()
    assert [q.held for q in CORPUS.questions if normalise(q.held) in trained] == []


def test_held_out_off_topic_questions_are_not_trained():
    whole = {normalise(text) for template in CORPUS.offtopic["whole"] for text in expand(template)}
    things = {normalise(thing) for thing in CORPUS.offtopic["things"]}
    frames = [text for template in CORPUS.offtopic["frames"] for text in expand(template)]
    framed = {normalise(frame.replace("{x}", thing)) for frame in frames for thing in things}
    assert [text for text in CORPUS.offtopic["held"] if normalise(text) in whole | framed] == []


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer[:40])
def test_answer_is_made_of_whole_sentences(answer):
    """The last sign may also be an emoji or the end of a command, but not a letter or a comma."""
    assert re.search(r"[^\w\s,;:(]$", answer)
    assert "  " not in answer and answer == answer.strip()
    assert len(answer) <= 750


def test_answers_only_name_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.M))
    named = {target for answer in ANSWERS for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", answer)}
    assert named - targets == set()
    assert {"image", "run", "test", "test-image", "image-oci", "lock-model"} <= named


def test_answers_only_name_settings_that_exist():
    settings = set(re.findall(r"\bLLM_[A-Z_]*[A-Z]\b", (ROOT / "packer/files/etc/llm/llm.env").read_text()))
    named = {name for answer in ANSWERS for name in re.findall(r"\bLLM_[A-Z_]*[A-Z]\b", answer)}
    assert named - settings == set()


def test_answers_only_name_models_that_exist():
    models = set(read_toml(ROOT / "packer/models.toml"))
    named = {name for answer in ANSWERS for name in re.findall(r"\b[a-z][\w.-]*-q4_\w+\b", answer)}
    assert named - models == set()


def test_answers_only_name_files_that_exist():
    path = re.compile(r"\b((?:packer|scripts|service|tests)/[\w./-]*\w)")
    named = {found for answer in ANSWERS for found in path.findall(answer)}
    assert {found for found in named if not (ROOT / found).exists()} == set()


def test_expand_yields_every_choice_and_the_canonical_one_first():
    assert list(expand("{Hi|Hello} {you|}!")) == ["Hi you!", "Hi !", "Hello you!", "Hello !"]


@given(st.sampled_from([t for q in CORPUS.questions for t in q.ask]), st.integers(0, 2**32))
def test_picked_wording_is_one_of_the_expanded(template, seed):
    assert pick(template, random.Random(seed)) in set(expand(template))


@given(st.sampled_from([q.canonical for q in CORPUS.questions]), st.integers(0, 2**32))
def test_blurring_is_repeatable_and_keeps_a_question(text, seed):
    assert blur(text, random.Random(seed)) == blur(text, random.Random(seed)) != ""


@given(st.integers(0, 2**32))
def test_one_typo_changes_the_length_by_at_most_one_letter(seed):
    assert abs(len(mistype("What is Llamakiln?", random.Random(seed))) - len("What is Llamakiln?")) <= 1


def test_short_words_are_not_mistyped():
    assert mistype("GPU or CPU?", random.Random(0)) == "GPU or CPU?"


@given(st.integers(0, 2**32))
def test_only_light_words_are_lost(seed):
    words = ["How", "do", "I", "change", "the", "model", "of", "my", "node?"]
    left = lose_words(" ".join(words), random.Random(seed)).split()
    assert [word for word in words if word not in LIGHT] == [word for word in left if word not in LIGHT]


def test_synonyms_stand_for_one_another_but_not_inside_names():
    synonyms = Synonyms([["folder", "directory"], ["test", "check"]])
    seen = {synonyms.exchange("a folder for make test-image", random.Random(seed)) for seed in range(20)}
    assert seen == {"a folder for make test-image", "a directory for make test-image"}


def test_each_round_of_chats_has_every_question_once():
    """A follow-up may repeat an answer, so a few more turns than questions are looked at."""
    said, chats = [], CORPUS.draw_chats(random.Random(0))
    own = {question.say for question in CORPUS.questions}
    while len(said) < len(own) + 10:
        said += [turn.say for turn in next(chats) if turn.say in own]
    assert set(said) == own


def test_held_out_wording_is_never_drawn():
    held = CORPUS.questions[0].held
    templates = [held, "something else"]
    assert {CORPUS.word(templates, random.Random(seed)).lower() for seed in range(30)}.isdisjoint(
        {held.lower(), held[:-1].lower()}
    )


TOKENIZER = Tokenizer(learn_pieces({"bake the image": 9, "bake an image": 9, "the bake": 5}, 370))


@given(st.text())
def test_any_text_survives_the_tokenizer_except_its_mark_for_a_space(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text.replace("\u2581", " ")


def test_frequent_words_become_one_piece():
    assert [TOKENIZER.pieces[i] for i in TOKENIZER.encode("bake image")] == ["bake", "\u2581image"]


def test_text_cannot_forge_a_role_mark():
    assert TOKENIZER.ids[END] not in TOKENIZER.encode(END)


def test_only_answers_and_their_end_count_in_full():
    ids, weights = encode_chat(TOKENIZER, [Turn("bake", "image")])
    marks = TOKENIZER.ids
    assert ids[:2] == [marks[BEGIN], marks[USER]] and ids[-1] == marks[END] and marks[ASSISTANT] in ids
    counted = [i for i, weight in zip(ids, weights, strict=True) if weight == 1]
    assert counted == [*TOKENIZER.encode("image"), marks[END]]


def test_packed_chats_are_whole_and_numbered():
    sample = ([1, 7, 8, 2], [0.0, 0.0, 1.0, 1.0])
    tokens, chats, weights = next(draw_batches(iter(lambda: sample, None), n_rows=2, length=9))
    assert tokens.tolist() == [[1, 7, 8, 2, 1, 7, 8, 2, 0, 0]] * 2
    assert chats.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, -1, -1]] * 2
    assert weights.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1, 0, 0]] * 2


def test_a_chat_longer_than_a_row_is_cut():
    sample = (list(range(1, 20)), [1.0] * 19)
    tokens, _, weights = next(draw_batches(iter(lambda: sample, None), n_rows=1, length=4))
    assert tokens.tolist() == [[1, 2, 3, 4, 5]]
    assert np.count_nonzero(weights) == 4
