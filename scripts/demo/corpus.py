"""Read the questions and answers of corpus/*.toml and turn them into chats to learn from.

Knows templates, typos and turns; knows nothing of tokens or of the network. All chance comes from the `rng` given.

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

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

DIRECTORY = Path(__file__).parent / "corpus"
TOPICS = (
    *("about", "bake", "library", "image", "models", "service", "settings", "oci", "test", "code"),
    *("smalltalk", "trouble", "long"),
)
CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
OPENINGS = (
    *("please: ", "hi, ", "hello, ", "ok, ", "so, ", "and ", "well, ", "hey, ", "a question: ", "quick question: "),
    *("I wonder, ", "tell me, ", "can you tell me: ", "I have a question: ", "please tell me: ", "now, ", "ok ", "so "),
    *("sorry, ", "one more question: "),
)
ENDINGS = (" please", " thanks", ", please", " now", " exactly", " again", ", thank you", " here")
ARTICLES = ("the", "a", "an", "do", "does", "is", "of", "to", "it", "I", "me")
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


def expand(template: str) -> Iterator[str]:
    """Yield every text that a template stands for, the canonical one first."""
    parts = CHOICE.split(template)
    for chosen in itertools.product(*(part.split("|") if i % 2 else [part] for i, part in enumerate(parts))):
        yield "".join(chosen)


def pick(template: str, rng: random.Random) -> str:
    """Return one of the texts that a template stands for."""
    return CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)


def blur(text: str, rng: random.Random) -> str:
    """Return the question as a hurried person might type it: lower case, no end, words or letters wrong."""
    if rng.random() < 0.10:
        text = rng.choice(OPENINGS) + text[0].lower() + text[1:]
    if rng.random() < 0.08 and text[-1] in "?.!":
        text = text[:-1] + rng.choice(ENDINGS) + text[-1]
    if rng.random() < 0.12:
        words = text.split(" ")
        drop = [i for i, word in enumerate(words) if word in ARTICLES]
        if drop and len(words) > 3:
            del words[rng.choice(drop)]
            text = " ".join(words)
    if rng.random() < 0.30 and text[-1] in "?.!":
        text = text[:-1]
    if rng.random() < 0.35:
        text = text.lower()
    for chance in (0.18, 0.04):
        if rng.random() < chance:
            text = mistype(text, rng)
    return text


def mistype(text: str, rng: random.Random) -> str:
    """Return the text with one letter swapped, lost, doubled or hit beside its key, in a word of four or more."""
    places = [match.start() + i for match in re.finditer(r"[A-Za-z]{4,}", text) for i in range(1, len(match[0]) - 1)]
    if not places:
        return text
    i = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    if kind == 1:
        return text[:i] + text[i + 1 :]
    if kind == 2:
        return text[:i] + text[i] + text[i:]
    row = next(row for row in KEYBOARD if text[i].lower() in row)
    place = row.index(text[i].lower())
    return text[:i] + rng.choice(row[max(0, place - 1) : place] + row[place + 1 : place + 2]) + text[i + 1 :]


class Corpus:
    """All questions, the refusal and the follow-ups, and an endless supply of chats made of them."""

    def __init__(self, directory: Path = DIRECTORY):
        self.questions = read_questions(directory)
        self.offtopic = read_toml(directory / "offtopic.toml")
        self.followup = read_toml(directory / "followup.toml")
        self.refusal: str = self.offtopic["say"]

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

    def ask_offtopic(self, rng: random.Random) -> str:
        """Return a question that is none of this project's business."""
        if rng.random() < 0.45:
            return pick(rng.choice(self.offtopic["whole"]), rng)
        things = [self._name_thing(rng), self._name_thing(rng)]
        text = pick(rng.choice(self.offtopic["frames"]), rng)
        text = text.replace("{x}", things[0]).replace("{y}", things[1])
        return text[0].upper() + text[1:]

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
        turns = [Turn(blur(pick(rng.choice(question.ask), rng), rng), question.say)]
        if question.then and rng.random() < 0.6:
            turns.append(Turn(blur(pick(rng.choice(question.then.ask), rng), rng), question.then.say))
        elif rng.random() < (0.6 if question.more else 0.05) and question.topic != "smalltalk":
            more = blur(pick(rng.choice(self.followup["ask_more"]), rng), rng)
            turns.append(Turn(more, question.more or self.followup["no_more"]))
        return turns

    def draw_chats(self, rng: random.Random, n_turns: tuple[int, ...] = (1,)) -> Iterator[list[Turn]]:
        """Yield chats without end, about as long as drawn from `n_turns`; each round has every question once."""
        chat: list[Turn] = []
        wanted = rng.choice(n_turns)
        while True:
            for question in rng.sample(self.questions, len(self.questions)):
                if rng.random() < 0.16:
                    chat.append(Turn(blur(self.ask_offtopic(rng), rng), self.refusal))
                if not chat and rng.random() < 0.01:
                    chat.append(
                        Turn(blur(pick(rng.choice(self.followup["ask_more"]), rng), rng), self.followup["about_what"])
                    )
                chat += self.draw_turns(question, rng)
                if len(chat) >= wanted:
                    yield chat
                    chat, wanted = [], rng.choice(n_turns)
