"""Read the questions and answers of corpus/*.toml and turn them into chats to learn from.

Knows the files and the turns of a chat; knows nothing of tokens or of the network. All chance comes from `rng`.

In a template `{a|b|}` stands for one of its choices. The first choice of the first template is the canonical question.
An entry has `ask` (templates), `held` (a wording never trained on, kept to judge with), `say` (the answer), and if it
has a sequel `more` (the answer to "Tell me more") or `then` (a question that follows this answer).
"""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .wording import Synonyms, blur, expand, normalise, pick

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

DIRECTORY = Path(__file__).parent / "corpus"
TOPICS = (
    *("about", "bake", "library", "image", "models", "service", "settings", "oci", "test", "code"),
    *("smalltalk", "trouble", "long"),
)
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvwxz" for vowel in ("a", "e", "i", "o", "u", "or", "in")]


@dataclass(frozen=True)
class Question:
    """One question with its wordings and its one right answer."""

    ask: tuple[str, ...]
    held: str
    say: str
    topic: str
    more: str | None = None
    then: "Question | None" = None

    @property
    def canonical(self) -> str:
        return next(expand(self.ask[0]))


@dataclass(frozen=True)
class Turn:
    """A question as asked and the answer to it."""

    ask: str
    say: str


def read_questions(directory: Path = DIRECTORY) -> list[Question]:
    """Return the entries of all topics, in the order of the files."""
    questions = []
    for topic in TOPICS:
        for row in read_toml(directory / f"{topic}.toml")["entry"]:
            then = row.pop("then", None)
            if then:
                then = Question(tuple(then["ask"]), then["held"], then["say"], topic)
            questions.append(Question(tuple(row["ask"]), row["held"], row["say"], topic, row.get("more"), then))
    return questions


def read_toml(path: Path) -> dict:
    with path.open("rb") as file:
        return tomllib.load(file)


class Corpus:
    """All questions, the refusal and the follow-ups, and an endless supply of chats made of them."""

    def __init__(self, directory: Path = DIRECTORY):
        self.questions = read_questions(directory)
        self.offtopic = read_toml(directory / "offtopic.toml")
        self.followup = read_toml(directory / "followup.toml")
        self.rewrites = [
            (re.compile(row["ask"]), row["forms"]) for row in read_toml(directory / "rewrite.toml")["rewrite"]
        ]
        self.synonyms = Synonyms(read_toml(directory / "synonym.toml")["groups"])
        self.refusal: str = self.offtopic["say"]
        held = [question.held for each in self.questions for question in (each, each.then) if question]
        self.held = {normalise(text) for text in held + self.offtopic["held"]}

    def texts(self) -> Iterator[tuple[str, int]]:
        """Yield (text, weight) of what is asked and said, to learn the pieces from; no held-out wording."""
        for question in self.questions:
            for each in filter(None, (question, question.then)):
                yield each.say, 8
                for template in each.ask:
                    for text in itertools.islice(expand(template), 8):
                        yield text, 1
                        yield text.lower(), 1
            if question.more:
                yield question.more, 8
        for template in (
            self.offtopic["frames"] + self.offtopic["things"] + self.offtopic["whole"] + self.followup["system"]
        ):
            yield next(expand(template)), 1
        yield self.refusal, 8

    def find_forms(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield (template, what stands in place of its {x}) for each other form of a question."""
        for pattern, forms in self.rewrites:
            if match := pattern.fullmatch(text):
                yield from ((form, match[1]) for form in forms)

    def word(self, templates: list[str] | tuple[str, ...], rng: random.Random) -> str:
        """Return one wording of a question: of a template or another form of it, blurred; never a held-out one."""
        while True:
            text = pick(rng.choice(templates), rng)
            forms = list(self.find_forms(text))
            if forms and rng.random() < 0.35:
                form, thing = rng.choice(forms)
                text = pick(form, rng).replace("{x}", thing)
                text = text[0].upper() + text[1:]
            if rng.random() < 0.3:
                text = self.synonyms.exchange(text, rng)
            text = blur(text, rng)
            if normalise(text) not in self.held:
                return text

    def ask_offtopic(self, rng: random.Random) -> str:
        """Return a question, blurred, that is none of this project's business."""
        if rng.random() < 0.45:
            return self.word(self.offtopic["whole"], rng)
        frame = rng.choice(self.offtopic["frames"])
        return self.word([frame.replace("{x}", self._name_thing(rng)).replace("{y}", self._name_thing(rng))], rng)

    def _name_thing(self, rng: random.Random) -> str:
        if rng.random() < 0.75:
            return rng.choice(self.offtopic["things"])
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))
        return rng.choice(
            [
                word,
                word.capitalize(),
                f"a {word}",
                f"the {word}",
                f"{word.capitalize()} {rng.choice(SYLLABLES).capitalize()}",
            ]
        )

    def draw_system(self, rng: random.Random) -> str | None:
        """Return a system message, or None as in most chats."""
        return pick(rng.choice(self.followup["system"]), rng) if rng.random() < 0.2 else None

    def draw_turns(self, question: Question, rng: random.Random) -> list[Turn]:
        """Return the turn of a question, now and then with one that follows it."""
        turns = [Turn(self.word(question.ask, rng), question.say)]
        if question.then and rng.random() < 0.6:
            turns.append(Turn(self.word(question.then.ask, rng), question.then.say))
        elif rng.random() < (0.6 if question.more else 0.05) and question.topic != "smalltalk":
            more = self.word(self.followup["ask_more"], rng)
            turns.append(Turn(more, question.more or self.followup["no_more"]))
        return turns

    def draw_chats(self, rng: random.Random, n_turns: tuple[int, ...] = (1,)) -> Iterator[list[Turn]]:
        """Yield chats without end, about as long as drawn from `n_turns`; each round has every question once."""
        chat: list[Turn] = []
        wanted = rng.choice(n_turns)
        for turns in self._draw_parts(rng):
            if rng.random() < 0.005:
                yield [Turn(self.word(self.followup["ask_more"], rng), self.followup["about_what"])]
            chat += turns
            if len(chat) >= wanted:
                yield chat
                chat, wanted = [], rng.choice(n_turns)

    def _draw_parts(self, rng: random.Random) -> Iterator[list[Turn]]:
        """Yield what chats are made of: a question with what follows it, in between something off-topic."""
        while True:
            for question in rng.sample(self.questions, len(self.questions)):
                yield self.draw_turns(question, rng)
                if rng.random() < 0.25:
                    yield [Turn(self.ask_offtopic(rng), self.refusal)]
