"""The ways in which people word things: choices in templates, synonyms, lost words, typos.

Knows English words and keyboards; knows nothing of the project, of answers or of files. All chance comes from `rng`.
"""

import itertools
import random
import re
from collections.abc import Iterator

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
OPENINGS = (
    *("please: ", "hi, ", "hello, ", "ok, ", "so, ", "and ", "well, ", "hey, ", "a question: ", "quick question: "),
    *("I wonder, ", "tell me, ", "can you tell me: ", "I have a question: ", "please tell me: ", "now, ", "ok ", "so "),
    *("sorry, ", "one more question: "),
)
ENDINGS = (" please", " thanks", ", please", " now", " exactly", " again", ", thank you", " here")
# Words that seldom decide what a question is about.
LIGHT = frozenset(
    (
        *(
            "a",
            "an",
            "and",
            "any",
            "are",
            "be",
            "can",
            "could",
            "do",
            "does",
            "for",
            "how",
            "I",
            "if",
            "in",
            "is",
            "it",
        ),
        *(
            "me",
            "my",
            "of",
            "on",
            "or",
            "please",
            "should",
            "that",
            "the",
            "there",
            "this",
            "to",
            "was",
            "what",
            "when",
        ),
        *(
            "where",
            "which",
            "who",
            "will",
            "with",
            "would",
            "you",
            "your",
            "What",
            "How",
            "Which",
            "Where",
            "Is",
            "Can",
        ),
        *("Do", "Does", "The"),
    )
)


def expand(template: str) -> Iterator[str]:
    """Yield every text that a template stands for, the canonical one first."""
    parts = CHOICE.split(template)
    for chosen in itertools.product(*(part.split("|") if i % 2 else [part] for i, part in enumerate(parts))):
        yield "".join(chosen)


def pick(template: str, rng: random.Random) -> str:
    """Return one of the texts that a template stands for."""
    return CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)


def normalise(text: str) -> str:
    """Return the text without case, punctuation and outer spaces, to compare wordings."""
    return re.sub(r"[^\w/_.= -]", "", text.lower()).strip(" .")


class Synonyms:
    """Groups of words that may stand for one another."""

    def __init__(self, groups: list[list[str]]):
        self._groups: dict[str, list[str]] = {}
        for group in groups:
            for word in group:
                self._groups.setdefault(word, []).extend(other for other in group if other != word)
        longest_first = sorted(self._groups, key=lambda word: (-len(word), word))
        self._pattern = re.compile(r"(?<![\w/.=-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w/=-])")

    def exchange(self, text: str, rng: random.Random) -> str:
        """Return the text with about one in three of the words that have synonyms exchanged."""

        def choose(match: re.Match[str]) -> str:
            return rng.choice(self._groups[match[1]]) if rng.random() < 0.35 else match[1]

        return self._pattern.sub(choose, text)


def blur(text: str, rng: random.Random) -> str:
    """Return the question as a hurried person might type it: lower case, no end, words or letters wrong."""
    if rng.random() < 0.12:
        text = rng.choice(OPENINGS) + text[0].lower() + text[1:]
    if rng.random() < 0.08 and text[-1] in "?.!":
        text = text[:-1] + rng.choice(ENDINGS) + text[-1]
    if rng.random() < 0.2:
        text = lose_words(text, rng)
    if rng.random() < 0.30 and text[-1] in "?.!":
        text = text[:-1]
    if rng.random() < 0.35:
        text = text.lower()
    for chance in (0.18, 0.04):
        if rng.random() < chance:
            text = mistype(text, rng)
    return text


def lose_words(text: str, rng: random.Random) -> str:
    """Return the text without some of its light words; a text of three words or fewer stays whole."""
    words = text.split(" ")
    kept = [word for word in words if word not in LIGHT or rng.random() < 0.7]
    return " ".join(kept) if len(words) > 3 and len(kept) > 1 else text


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
