"""Guessing from what was said before, with plain integers and prices given by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.cost import Measured, StepCost
from service.engine.lookup import MAX_ROWS, PROBE_EVERY, SIZES, Guess, find

CHEAP = StepCost(0.2, 64, Measured({1: [0.02], 2: [0.021], 4: [0.022], 8: [0.023]}))
DEAR = StepCost(0.2, 64, Measured({1: [0.02], 2: [0.039], 4: [0.078], 8: [0.15]}))


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 9, 1, 2, 3, 4, 1, 2, 3], 1, [4]),  # the most recent time
        ([1, 2, 3, 4], 3, []),
        ([5, 5, 5, 5], 3, [5]),
        ([1, 2], 3, []),
    ],
)
def test_what_followed_before_is_found(tokens: list[int], size: int, expected: list[int]):
    assert find(tokens, size) == expected


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 5))
def test_found_tokens_did_follow_the_same_three(tokens: list[int], size: int):
    found = find(tokens, size)
    assert len(found) <= size
    if found:
        text = ",".join(map(str, tokens)) + ","
        assert ",".join(map(str, [*tokens[-3:], *found])) + "," in text


def test_guess_is_made_where_it_is_cheap_and_not_where_it_is_dear():
    assert Guess().choose_size(CHEAP, 1, 100) == SIZES[0]
    assert Guess().choose_size(DEAR, 1, 100) == 0
    assert Guess().choose_size(StepCost(0.2, 64), 1, 100) == 0  # prices not known


def test_guess_never_goes_beyond_the_room_or_a_small_step():
    assert Guess().choose_size(CHEAP, 1, 2) == 1
    assert Guess().choose_size(CHEAP, 1, 0) == 0
    assert Guess().choose_size(CHEAP, 2, 100) * 2 + 2 <= MAX_ROWS


def test_wrong_guesses_end_the_guessing_and_it_tries_again_later():
    guess = Guess()
    dearer = StepCost(0.2, 64, Measured({1: [0.02], 2: [0.03], 4: [0.04]}))
    assert guess.choose_size(dearer, 1, 100) == 3
    for _ in range(20):
        guess.observe(3, 0)
    sizes = [guess.choose_size(dearer, 1, 100) for _ in range(PROBE_EVERY)]
    assert sizes == [0] * (PROBE_EVERY - 1) + [1]
    for _ in range(20):
        guess.observe(3, 3)
    assert guess.choose_size(dearer, 1, 100) == 3
