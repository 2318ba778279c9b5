"""Which kind of attention is chosen: by rule, or by two times given by hand; and that libggml times both."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from service.llama import library
from service.llama.attention_kind import BUDGET_S, MIN_ROUNDS, SHARING, WORTH, is_flash_faster, time_both


def never(*_: int) -> tuple[float, float]:
    raise AssertionError("timed")


@pytest.mark.parametrize(("n_heads", "n_keys"), [(32, 4), (SHARING, 1), (0, 0), (16, 0)])
def test_heads_that_share_keys_and_none_at_all_are_a_rule(n_heads: int, n_keys: int):
    assert is_flash_faster(n_heads, n_keys, 64, time_kinds=never)


@pytest.mark.parametrize(
    ("flash_s", "plain_s", "is_flash"), [(1.0, 2.0, True), (2.0, 1.0, False), (1.0, WORTH * 1.01, True)]
)
@pytest.mark.parametrize(("n_heads", "n_keys"), [(32, 32), (16, 8), (1, 1)])
def test_faster_kind_is_chosen_where_few_heads_share_a_key(
    n_heads: int, n_keys: int, flash_s: float, plain_s: float, is_flash: bool
):
    assert is_flash_faster(n_heads, n_keys, 64, time_kinds=lambda *_: (flash_s, plain_s)) is is_flash


def test_odd_numbers_of_heads_are_timed_as_even_ones():
    timed = []
    is_flash_faster(20, 8, 64, time_kinds=lambda *heads: timed.append(heads) or (1.0, 1.0))
    assert timed == [(16, 8, 64)]


@pytest.fixture
def chosen_library() -> None:
    if "llama_cpp" not in sys.modules:
        library.load(Path(os.environ["LLM_LIB_DIR"]), "auto")


@pytest.mark.parametrize(("n_heads", "n_keys", "size"), [(1, 1, 8), (4, 2, 80), (6, 3, 96), (2, 2, 576)])
def test_libggml_times_any_heads_within_the_budget(chosen_library: None, n_heads: int, n_keys: int, size: int):
    """The clock moves by itself, so the number of looks at it is what is bounded."""
    looks = []

    def clock() -> float:
        looks.append(len(looks) * BUDGET_S / 8)
        return looks[-1]

    assert time_both(n_heads, n_keys, size, clock) == pytest.approx((BUDGET_S / 8, BUDGET_S / 8))
    assert len(looks) < 12


def test_slow_machine_times_no_more_than_it_must(chosen_library: None):
    seconds = iter(range(0, 1000, 10))
    assert time_both(4, 4, 64, lambda: float(next(seconds))) == (10.0, 10.0)
    assert next(seconds) == 10 * (1 + 2 * 2 * MIN_ROUNDS + 1)  # the start, two looks a time, and the one that ended it
