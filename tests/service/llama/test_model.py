"""llama.cpp itself, with the demo model and the library set in LLM_LIB_DIR (`make test` sets it)."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service import store
from service.chat.constraint import Constrainer, Grammar
from service.chat.prompt import Prompter
from service.config import MAX_AUTO_CONTEXT
from service.errors import ConstraintFailed, ModelError, ModelFatal, NoRoom
from service.llama import library
from service.llama.model import LlamaModel, read_ahead
from service.protocol import NO_TOKEN, Chunk
from service.request import SamplingParams
from tests.service.door import run_service, wait_until

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "packer/models/demo.gguf"
GREEDY = SamplingParams(max_tokens=32, temperature=0)


@pytest.fixture(scope="module", autouse=True)
def chosen_library() -> None:
    assert "LLM_LIB_DIR" in os.environ, "LLM_LIB_DIR must name a directory of library sets; `make test` sets it"
    if "llama_cpp" not in sys.modules:
        library.load(Path(os.environ["LLM_LIB_DIR"]), "auto")


def make(path: Path = DEMO, **changes: Any) -> LlamaModel:
    """One thread: the barriers of two cost minutes when other work has the cores."""
    values: dict[str, Any] = {"n_context": None, "max_auto_context": MAX_AUTO_CONTEXT, "n_threads": 1}
    return LlamaModel(path, **{**values, **changes})


@pytest.fixture
def model() -> Iterator[LlamaModel]:
    model = make()
    yield model
    model.close()


def generate(
    model: LlamaModel, tokens: list[int], n: int, params: SamplingParams = GREEDY, seed: int = 0, start: int = 0
) -> list[int]:
    """What the engine does, in its simplest form, in sequence 0. start: tokens that are computed already."""
    sampler = model.make_sampler(params, seed, tokens)
    said: list[int] = []
    tokens = list(tokens)
    try:
        while len(said) < n:
            part = tokens[start : start + model.max_batch]
            end = start + len(part)
            model.decode([Chunk(0, start, part, int(end == len(tokens)))])
            start = end
            if start == len(tokens):
                said.append(sampler.sample(len(part) - 1))
                tokens.append(said[-1])
    finally:
        sampler.close()
        model.forget(0, 0)
    return said


def test_facts_of_the_file_are_read(model: LlamaModel):
    assert model.chat_template and "messages" in model.chat_template
    assert model.eos_text and model.is_end(model.tokenize(model.eos_text, add_special=False, parse_special=True)[0])
    assert 64 <= model.n_context <= MAX_AUTO_CONTEXT
    assert model.description


@pytest.mark.parametrize("text", ["What is Llamakiln?", "a\n\nb", "naïve café", "🦙 50 €", " x ", "\x00"])
def test_text_survives_the_way_through_tokens(model: LlamaModel, text: str):
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(model.token_bytes(token) for token in tokens).decode().strip(" ") == text.strip(" ")


def test_special_tokens_are_read_only_where_they_may_be(model: LlamaModel):
    as_marker = model.tokenize(model.eos_text, add_special=False, parse_special=True)
    as_text = model.tokenize(model.eos_text, add_special=False, parse_special=False)
    assert len(as_marker) == 1 < len(as_text)
    assert model.token_bytes(as_marker[0]) == b""


def test_long_text_is_tokenized_whole(model: LlamaModel):
    text = "the node answers. " * 5000
    tokens = model.tokenize(text, add_special=True, parse_special=False)
    assert len(tokens) > 5000


def test_greedy_answer_is_always_the_same(model: LlamaModel):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    assert generate(model, tokens, 12) == generate(model, tokens, 12)


def test_seed_decides_the_draw(model: LlamaModel):
    tokens = Prompter(model).encode("a")
    hot = SamplingParams(max_tokens=9, temperature=2.0, top_p=1.0, top_k=0, min_p=0)
    draws = [tuple(generate(model, tokens, 9, hot, seed)) for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1] and len(set(draws)) > 1


def test_top_k_of_one_is_greedy(model: LlamaModel):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "hello"}])
    narrow = SamplingParams(max_tokens=9, temperature=1.0, top_k=1)
    assert generate(model, tokens, 9, narrow, seed=5) == generate(model, tokens, 9)


def test_forgotten_sequence_leaves_nothing_behind(model: LlamaModel):
    prompter = Prompter(model)
    question, other = prompter.encode("What is Llamakiln?"), prompter.encode("Something else")
    alone = generate(model, question, 8)
    generate(model, other, 8)
    assert generate(model, question, 8) == alone


def compute_among_others(n_others: int, n_rows: int) -> Any:
    """Logits after 20 + n_rows tokens of a sequence. n_others cells of another lie before and between its own."""
    tokens = [3 + i % 50 for i in range(20 + n_rows)]
    model = make(has_flash_attention=True, max_batch=128, n_cells=512)
    for i in range(3):
        if n_others:
            model.decode([Chunk(1, i * n_others, [7] * n_others)])
        part = tokens[20:] if i == 2 else tokens[10 * i : 10 * i + 10]
        model.decode([Chunk(0, 10 * i, part, 1)])
    pointer = model._lib.llama_get_logits_ith(model._context.handle, len(part) - 1)
    logits = np.ctypeslib.as_array(pointer, (model.n_vocab,)).copy()
    model.close()
    return logits


@pytest.mark.parametrize("n_rows", [1, 5, 70])
def test_cells_of_others_change_no_bit(n_rows: int):
    """They are never touched (scripts/llama/grouped_attention.h)."""
    assert (compute_among_others(100, n_rows) == compute_among_others(0, n_rows)).all()


def test_prompt_of_several_batches_says_the_same():
    tokens: list[int] = []
    answers = []
    for max_batch in (8, 128):
        model = make(max_batch=max_batch)
        tokens = tokens or Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln? " * 3}])
        answers.append(generate(model, tokens, 4))
        model.close()
    assert len(tokens) > 8 and answers[0] == answers[1]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "a step of 0 rows: must be 1 to"),
        ([Chunk(0, 0, [1] * 1000)], "a step of 1000 rows: must be 1 to"),
        ([Chunk(0, 0, [10**8])], "llama_decode answered -1 for 1 tokens: invalid batch"),
        ([Chunk(0, 0, [1]), Chunk(1, 0, [1, -5])], "llama_decode answered -1 for 3 tokens: invalid batch"),
    ],
)
def test_refused_step_is_an_error_and_the_model_goes_on(model: LlamaModel, chunks: list[Chunk], message: str):
    before = generate(model, [1, 2, 3], 3)
    with pytest.raises(ModelError, match=message) as caught:
        model.decode(chunks)
    assert not isinstance(caught.value, ModelFatal)
    assert generate(model, [1, 2, 3], 3) == before


def test_full_cache_is_an_error_and_the_model_goes_on():
    """llama.cpp rounds the context up to 256 cells, so it is full later than n_context says."""
    model = make(n_context=64, n_cells=64, max_batch=64)
    try:
        with pytest.raises(NoRoom, match="answered 1 for 64 tokens: no room in the KV cache"):
            for start in range(0, 1024, 64):
                model.decode([Chunk(0, start, [1] * 64)])
        assert start == model.n_cells
        model.forget(0, 0)
        assert len(generate(model, [1, 2, 3], 3)) == 3
    finally:
        model.close()


def test_streams_in_one_step_say_what_each_says_alone(model: LlamaModel):
    prompts = [
        Prompter(model).encode_chat([{"role": "user", "content": word}]) for word in ("What is Llamakiln?", "Hi")
    ]
    alone = [generate(model, prompt, 8) for prompt in prompts]
    samplers = [model.make_sampler(GREEDY, 0, prompt) for prompt in prompts]
    said: list[list[int]] = [[], []]
    chunks = [Chunk(i, 0, prompt, 1) for i, prompt in enumerate(prompts)]
    for _ in range(8):
        model.decode(chunks)
        row = -1
        for i, chunk in enumerate(chunks):
            row += len(chunk.tokens)
            said[i].append(samplers[i].sample(row))
        chunks = [Chunk(i, len(prompts[i]) + len(said[i]) - 1, said[i][-1:], 1) for i in range(2)]
    for sampler in samplers:
        sampler.close()
    assert said == alone


def test_copy_continues_like_the_original(model: LlamaModel):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    alone = generate(model, tokens, 8)
    model.decode([Chunk(5, 0, tokens[:-1])])
    model.copy(5, 0, len(tokens) - 1)
    assert model.forget(5, 0)
    assert generate(model, tokens, 8, start=len(tokens) - 1) == alone


def test_vocabulary_outlives_the_model_for_whoever_still_reads_it():
    """SIGTERM while a worker tokenised: the weights were freed under it, and the process ended with a segfault."""
    model, freed = make(), []
    tokens = model.tokenize("What is it?", add_special=True, parse_special=True)
    weakref.finalize(model, freed.append, "freed")
    model.close()
    assert model.tokenize("What is it?", add_special=True, parse_special=True) == tokens
    assert b"".join(map(model.token_bytes, tokens)).strip() == b"What is it?"
    assert not model.is_end(tokens[-1]) and not freed
    del model
    assert freed  # nothing else keeps it: a thread that is inside one of its calls does


def test_saved_state_is_taken_back_by_the_next_start(model: LlamaModel, tmp_path: Path):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    alone = generate(model, tokens, 8)
    model.decode([Chunk(3, 0, tokens[:-1])])
    store.seal(tmp_path / "state.bin", b"tokens", model.save(3))
    other = make()
    assert other.restore(0, store.unseal(tmp_path / "state.bin", b"tokens"))
    assert generate(other, tokens, 8, start=len(tokens) - 1) == alone
    other.close()


YES_OR_NO = Grammar("x", gbnf='root ::= ("yes" | "no") "!"')


def bind(model: LlamaModel, grammar: Grammar, **params: Any) -> SamplingParams:
    constrainer = Constrainer(model, check=lambda text, is_json: None)
    return SamplingParams(**{"max_tokens": 99, "temperature": 0, **params, "constraint": constrainer.make(grammar)})


def again(params: SamplingParams) -> SamplingParams:
    """For another answer."""
    assert params.constraint is not None
    return replace(params, constraint=params.constraint.copy())


def test_grammar_binds_the_answer(model: LlamaModel):
    tokens = Prompter(model).encode("Is it?")
    bound = bind(model, YES_OR_NO, temperature=1.5)
    answers = [until_end(model, tokens, again(bound), seed) for seed in (*range(5), 3)]
    assert set(answers) <= {b"yes!", b"no!"} and answers[3] == answers[5]


def until_end(model: LlamaModel, tokens: list[int], params: SamplingParams, seed: int = 0) -> bytes:
    sampler, said = model.make_sampler(params, seed, tokens), b""
    model.decode([Chunk(0, 0, tokens, 1)])
    row, n = len(tokens) - 1, len(tokens)
    while not model.is_end(token := sampler.sample(row)) and n < 200:
        said += model.token_bytes(token)
        model.decode([Chunk(0, n, [token], 1)])
        row, n = 0, n + 1
    sampler.close()
    model.forget(0, 0)
    return said


PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["😀", "a\nb"]}, "age": {"type": "integer", "minimum": 0, "maximum": 10}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1.5, "top_k": 1},
        {"temperature": 2.0, "top_p": 0.1, "repeat_penalty": 1.5},
        {"frequency_penalty": 2.0, "presence_penalty": 2.0},
        {"logit_bias": ((5, 100.0), (6, -100.0))},
    ],
)
def test_json_schema_binds_the_answer_with_any_sampling(model: LlamaModel, params: dict[str, Any]):
    tokens, bound = Prompter(model).encode("Is it?"), bind(model, Grammar("x", schema=PERSON), **params)
    for seed in range(3):
        said = json.loads(until_end(model, tokens, again(bound), seed))
        assert list(said) == ["name", "age"] and said["name"] in ("😀", "a\nb") and 0 <= said["age"] <= 10


def test_without_a_refusal_a_constraint_changes_nothing(model: LlamaModel):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    free = SamplingParams(max_tokens=99, temperature=0.7)
    bound = bind(model, Grammar("x", gbnf="root ::= .*"), temperature=0.7)
    assert until_end(model, tokens, bound, 4) == until_end(model, tokens, free, 4) != b""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answer_whose_end_is_banned_ends_all_the_same(model: LlamaModel, temperature: float):
    """json_object with logit_bias false on the end token ended the process."""
    ends = tuple((token, -math.inf) for token in range(model.n_vocab) if model.is_end(token))
    bound = bind(model, Grammar("x", gbnf='root ::= "yes"'), temperature=temperature, logit_bias=ends)
    tokens = Prompter(model).encode("Is it?")
    model.decode([Chunk(0, 0, tokens, 1)])
    sampler, said, row = model.make_sampler(bound, 0, tokens), b"", len(tokens) - 1
    for n in range(len(tokens), len(tokens) + 3):
        token = sampler.sample(row)
        if token == NO_TOKEN:
            break
        said += model.token_bytes(token)
        model.decode([Chunk(0, n, [token], 1)])
        row = 0
    assert token == NO_TOKEN or sampler.sample(row) == NO_TOKEN
    assert said == b"yes"


def test_answer_that_can_neither_go_on_nor_end_fails(model: LlamaModel):
    banned = tuple((token, -math.inf) for token in range(model.n_vocab) if model.token_bytes(token)[:1] in (b"y", b"n"))
    tokens = Prompter(model).encode("Is it?")
    model.decode([Chunk(0, 0, tokens, 1)])
    sampler = model.make_sampler(bind(model, YES_OR_NO, logit_bias=banned), 0, tokens)
    with pytest.raises(ConstraintFailed, match="banned by logit_bias"):
        sampler.sample(len(tokens) - 1)


def test_every_token_may_be_banned(model: LlamaModel):
    """llama.cpp aborts the process when nothing is left to draw from."""
    everything = SamplingParams(max_tokens=9, logit_bias=tuple((token, -math.inf) for token in range(model.n_vocab)))
    tokens = Prompter(model).encode("Is it?")
    model.decode([Chunk(0, 0, tokens, 1)])
    assert model.make_sampler(everything, 0, tokens).sample(len(tokens) - 1) == NO_TOKEN


def test_logprobs_add_up_and_name_the_choice(model: LlamaModel):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    model.decode([Chunk(0, 0, tokens, 1)])
    sampler = model.make_sampler(GREEDY, 0, tokens)
    token = sampler.sample(len(tokens) - 1)
    entry = model.logprob(len(tokens) - 1, token, model.n_vocab)
    sampler.close()
    assert entry.top[0][0] == token and entry.top[0][2] == entry.logprob
    assert math.isclose(sum(math.exp(logprob) for _, _, logprob in entry.top), 1, rel_tol=1e-6)
    assert model.logprob(len(tokens) - 1, token, 0).top == ()


def test_bias_can_forbid_a_token(model: LlamaModel):
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    first = generate(model, tokens, 1)[0]
    assert (
        generate(model, tokens, 1, SamplingParams(max_tokens=1, temperature=0, logit_bias=((first, -100.0),)))[0]
        != first
    )


@pytest.mark.parametrize("name", ["repeat_penalty", "frequency_penalty", "presence_penalty"])
def test_penalty_breaks_a_loop(model: LlamaModel, name: str):
    loop = model.tokenize("a a a a a a a a a a a a", add_special=True, parse_special=False)
    biased = tuple((token, 50.0) for token in set(loop[1:]))  # without a penalty it says nothing else
    assert len(set(generate(model, loop, 6, SamplingParams(6, temperature=0, logit_bias=biased)))) <= 2
    penal = SamplingParams(6, temperature=0, logit_bias=((loop[-1], 1.0),), **{name: 2.0})
    assert generate(model, loop, 12, penal).count(loop[-1]) <= 2


def test_file_recommends_its_sampling(model: LlamaModel):
    assert model.sampling_defaults == {"temperature": 0.0}


@pytest.mark.parametrize(
    "changes", [{"cache_type": "q8_0"}, {"has_flash_attention": False}, {"repacks": False}, {"n_threads": 2}]
)
def test_settings_of_speed_do_not_change_what_it_is_about(changes: dict[str, Any]):
    model = make(**changes)
    tokens = Prompter(model).encode_chat([{"role": "user", "content": "What is Llamakiln?"}])
    said = b"".join(map(model.token_bytes, generate(model, tokens, 24)))
    model.close()
    assert b"Llamakiln" in said


def test_description_says_how_large_the_model_is(model: LlamaModel):
    assert model.description == "llama 2.0M Q8_0"


def test_context_is_the_models_or_what_is_asked():
    for n_context, expected in ((None, None), (128, 128)):
        model = make(n_context=n_context, max_auto_context=96)
        assert model.n_context == (expected or 96)
        model.close()


@pytest.mark.parametrize("is_quiet", [False, True])
@pytest.mark.parametrize("n_bytes", [4, 1000, -1000])
def test_damaged_file_is_fatal_and_said_in_the_log(
    tmp_path: Path, n_bytes: int, is_quiet: bool, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "cut.gguf").write_bytes(DEMO.read_bytes()[:n_bytes])
    with pytest.raises(ModelFatal, match=r"cut\.gguf: llama\.cpp cannot load this file"):
        make(tmp_path / "cut.gguf", is_quiet=is_quiet)
    assert any(record.name == "llama.cpp" and record.levelno == logging.ERROR for record in caplog.records)


@pytest.mark.parametrize("is_quiet", [False, True])
def test_quiet_model_is_silent_while_it_loads_and_not_after(is_quiet: bool, caplog: pytest.LogCaptureFixture):
    def count() -> int:
        return sum(record.name == "llama.cpp" for record in caplog.records)

    with caplog.at_level(logging.DEBUG):
        model = make(is_quiet=is_quiet)
        n_loading = count()
        model._open_context(model.has_flash_attention, is_quiet=False)
        assert count() > n_loading
    model.close()
    assert (n_loading == 0) == is_quiet


def test_close_twice_is_harmless(model: LlamaModel):
    model.close()


def test_read_ahead_reads_to_the_end(tmp_path: Path):
    read_ahead(DEMO)
    with pytest.raises(FileNotFoundError):
        read_ahead(tmp_path / "nope")


def test_demo_answers_through_the_whole_service():
    body = {"messages": [{"role": "user", "content": "What is Llamakiln?"}], "temperature": 0, "max_tokens": 48}
    with run_service(make()) as service:
        whole = service.door.post("/v1/chat/completions", body).json
        events = service.door.post("/v1/chat/completions", {**body, "stream": True}).events
    text = whole["choices"][0]["message"]["content"]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1]) == text
    assert "Llamakiln" in text


def test_process_serves_the_demo_and_says_nothing_of_llama_cpp(tmp_path: Path):
    environ = {**os.environ, "LLM_MODEL": str(DEMO), "LLM_PORT": "0", "LLM_THREADS": "1"}
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=environ, stderr=file, stdout=file)
    try:
        wait_until(lambda: "ready after" in log.read_text() or process.poll() is not None, 120)
        port = log.read_text().split("port ")[1].split(",")[0]
        reply = httpx.post(f"http://127.0.0.1:{port}/generate", json={"prompt": "hi", "max_tokens": 8}, timeout=60)
        assert reply.json()["usage"]["completion_tokens"] <= 8
        process.terminate()
        assert process.wait(30) == 0
        assert all(line.startswith("INFO service") for line in log.read_text().splitlines()), log.read_text()
    finally:
        process.kill()
