"""Who gets rows, with plain integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.scheduler import SURE_EVERY, SURE_ROWS, Scheduler

GAPS = st.lists(st.one_of(st.just(1), st.integers(2, 400)), max_size=40)


def test_streams_go_first_and_the_prompt_gets_the_rest():
    assert Scheduler().plan([1, 500, 1], budget=16, max_rows=64) == [1, 14, 1]


def test_alone_a_prompt_gets_the_whole_budget():
    assert Scheduler().plan([500], budget=64, max_rows=64) == [64]


def test_short_prompt_overtakes_but_the_oldest_is_sure_of_a_quarter():
    assert Scheduler().plan([500, 10], budget=32, max_rows=64) == [22, 10]
    assert Scheduler().plan([500, 300, 20], budget=32, max_rows=64) == [8, 4, 20]


def test_prompt_gets_a_chunk_every_few_steps_behind_many_streams():
    scheduler = Scheduler()
    plans = [scheduler.plan([1] * 16 + [100], budget=16, max_rows=64)[-1] for _ in range(2 * SURE_EVERY)]
    assert plans == ([0] * (SURE_EVERY - 1) + [SURE_ROWS]) * 2


def test_streams_beyond_a_whole_step_leave_a_row_for_the_prompt_at_times():
    scheduler = Scheduler()
    plans = [scheduler.plan([1] * 8 + [100], budget=4, max_rows=8) for _ in range(SURE_EVERY)]
    assert [plan[-1] for plan in plans] == [0] * (SURE_EVERY - 1) + [1]
    assert all(sum(plan) == 8 for plan in plans)


@given(GAPS, st.integers(1, 300), st.integers(1, 256))
def test_plan_keeps_its_promises(gaps: list[int], budget: int, max_rows: int):
    rows = Scheduler().plan(gaps, budget, max_rows)
    assert len(rows) == len(gaps)
    assert all(0 <= row <= gap for row, gap in zip(rows, gaps, strict=True))
    assert sum(rows) <= max_rows
    assert bool(sum(rows)) == bool(gaps)
    n_streams = gaps.count(1)
    if n_streams <= max_rows:
        assert all(row == 1 for row, gap in zip(rows, gaps, strict=True) if gap == 1)
        assert sum(rows) <= max(budget, n_streams)
    if any(gap > 1 for gap in gaps) and budget > n_streams and max_rows > n_streams:
        oldest = next(i for i, gap in enumerate(gaps) if gap > 1)
        assert rows[oldest] > 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 16), st.integers(1, 16))
def test_every_gap_is_closed_in_the_end(gaps: list[int], budget: int, max_rows: int):
    """Even while as many streams as the budget never end."""
    scheduler = Scheduler()
    streams = [1] * budget
    for _ in range(SURE_EVERY * sum(gaps) * 2 + 1):
        rows = scheduler.plan([*streams, *gaps], budget, max_rows)[len(streams) :]
        gaps = [gap - row for gap, row in zip(gaps, rows, strict=True)]
        gaps = [gap for gap in gaps if gap]
        if all(gap == 1 for gap in gaps):
            return
    raise AssertionError(f"left: {gaps}")
