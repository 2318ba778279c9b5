"""Long texts are refused by their beginning."""

from __future__ import annotations

import pytest

from service.chat.length import FIRST_CHARACTERS, is_too_long
from tests.fakes import FakeModel


class Counting(FakeModel):
    """Tokens are bytes; tokenize counts what it was asked to read. `skips`: characters that make no token."""

    def __init__(self, skips: str = "") -> None:
        super().__init__()
        self.n_read = 0
        self._skips = skips

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        self.n_read += len(text)
        return [ord(c) for c in text if c not in self._skips]


def test_a_megabyte_is_refused_by_its_beginning():
    model = Counting()
    assert is_too_long(model, "a" * 1_000_000, 100, parse_special=True)
    assert model.n_read == FIRST_CHARACTERS * 100


def test_short_text_is_not_read_at_all():
    model = Counting()
    assert not is_too_long(model, "a" * FIRST_CHARACTERS * 100, 100, parse_special=True)
    assert model.n_read == 0


def test_text_of_few_tokens_is_never_refused():
    model = Counting(skips=" ")
    assert not is_too_long(model, " " * 100_000 + "a" * 100, 100, parse_special=True)


@pytest.mark.parametrize("n_more", [0, 5])
def test_doubt_is_left_to_the_exact_count(n_more: int):
    assert not is_too_long(Counting(skips=" "), "a" * (100 + n_more) + " " * 10_000, 100, parse_special=True)


def test_what_is_read_is_at_most_twice_the_text():
    model = Counting(skips=" ")
    is_too_long(model, " " * 100_000, 100, parse_special=True)
    assert model.n_read < 200_000
