"""Who gets rows, with plain integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler import SURE_ROWS, plan

GAPS = st.lists(st.one_of(st.just(1), st.integers(2, 400)), max_size=40)


def test_streams_go_first_and_the_prompt_gets_the_rest():
    assert plan([1, 500, 1], budget=32, max_rows=64) == [1, 30, 1]


def test_alone_a_prompt_gets_the_whole_budget():
    assert plan([500], budget=64, max_rows=64) == [64]


def test_short_prompt_overtakes_but_the_oldest_is_sure_of_a_quarter():
    assert plan([500, 10], budget=32, max_rows=64) == [22, 10]
    assert plan([500, 300, 20], budget=32, max_rows=64) == [8, 4, 20]


def test_prompt_is_sure_of_rows_behind_many_streams():
    assert plan([1] * 20 + [100], budget=16, max_rows=64)[-1] == SURE_ROWS
    assert plan([1] * 60 + [100], budget=16, max_rows=64)[-1] == 4


@given(GAPS, st.integers(1, 300), st.integers(41, 256))
def test_plan_keeps_its_promises(gaps: list[int], budget: int, max_rows: int):
    rows = plan(gaps, budget, max_rows)
    n_streams = gaps.count(1)
    prompts = [i for i, gap in enumerate(gaps) if gap > 1]
    assert all(0 <= row <= gap for row, gap in zip(rows, gaps, strict=True))
    assert all(row == 1 for row, gap in zip(rows, gaps, strict=True) if gap == 1)
    assert sum(rows) <= min(max(budget, n_streams + SURE_ROWS), max_rows)
    assert not prompts or rows[prompts[0]] > 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 16))
def test_every_gap_is_closed_in_the_end(gaps: list[int], budget: int):
    """Even while as many streams as the budget never end."""
    streams = [1] * budget
    for _ in range(sum(gaps)):
        rows = plan([*streams, *gaps], budget, max_rows=64)[budget:]
        gaps = [gap - row for gap, row in zip(gaps, rows, strict=True) if gap > row]
    assert gaps == []
