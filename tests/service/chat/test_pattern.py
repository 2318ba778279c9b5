"""A pattern as Rust reads it means what ECMA-262 and Python say, both."""

from __future__ import annotations

import re

import pytest

from service.chat.constraint import Constrainer, Grammar
from service.chat.pattern import rewrite
from tests.fakes import FakeModel


@pytest.fixture(scope="module")
def constrainer() -> Constrainer:
    return Constrainer(FakeModel(), check=lambda text, is_json: None)


SIGNS = "aZ0_ \t\n\r\"\\/-[]{}()^$.*+?|&~#'@é½٣ß日😀\u00a0\u2028\x1c\x85"


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", "."),
        *(r"[\d]", r"[^\d]", r"[\D]", r"[^\D]", r"[\w-]", r"[^\w]", r"[^\W]", r"[\W]", r"[^\s]", r"[^\S]", r"[\s\S]"),
        *('[^"]', r"[^\\]", r"[^\n]", r"[^a-z\"]", r"[\x00-!#-~]", '[^"\\\\]'),
        *(
            "[[]",
            "[a[]",
            r"[\[\]]",
            "[&&]",
            "[a&&b]",
            "[~~]",
            "[a~~b]",
            "[^&]",
            "[-a]",
            "[a-]",
            r"[+\-*/]",
            "[{}().*+?|^$]",
        ),
        *(r"\/", r"\-", r"\.", r"\\", r"\[", r"\$", r"\"", r"\{"),
    ],
)
@pytest.mark.filterwarnings("ignore:Possible set")
def test_one_character_that_is_let_through_matches(constrainer: Constrainer, pattern: str):
    """`[^"]` let a quote through, `[a&&b]` meant an intersection, `\\W` and Python do not agree about é."""
    matcher = constrainer.make(Grammar("x", schema={"type": "string", "pattern": f"^{pattern}$"}))
    let_through = []
    for sign in SIGNS:
        own = matcher.copy()
        quoted = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}.get(sign, sign)
        if all(own.accept(byte) for byte in f'"{quoted}"'.encode()) and own.is_complete:
            let_through.append(sign)
    assert let_through, "nothing is let through"
    ascii_meaning = re.compile(pattern.replace("[[]", r"[\[]").replace("[a[]", r"[a\[]"), re.ASCII)
    full_meaning = re.compile(ascii_meaning.pattern)
    assert [sign for sign in let_through if not (ascii_meaning.fullmatch(sign) and full_meaning.fullmatch(sign))] == []
    plain = [sign for sign in SIGNS if sign.isascii() and sign.isprintable() and ascii_meaning.fullmatch(sign)]
    assert set(plain) <= set(let_through), "what all agree about is kept out"


def test_what_is_no_class_is_left_alone():
    assert rewrite(r"^(?:ab|c\.d){2,3}\/$") == r"^(?:ab|c\.d){2,3}\/$"


def test_unfinished_patterns_are_left_to_the_library():
    assert rewrite("a\\") == "a\\" and rewrite("[a").endswith("a")


@pytest.mark.parametrize("pattern", ["[]", "[^]", "a[]b"])
def test_classes_without_a_counterpart_are_refused(pattern: str):
    with pytest.raises(ValueError, match="cannot be kept"):
        rewrite(pattern)
