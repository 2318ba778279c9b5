"""Who gets rows, with plain integers and prices given by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.cost import Measured, StepCost
from service.engine.scheduler import SHARE, Scheduler, share_out
from tests.service.engine.simulator import AVX2, TABLES

GAPS = st.lists(st.one_of(st.just(1), st.integers(2, 400)), max_size=40)


def make(table: dict[int, float] | None = None, goal_s: float = 0.35, max_rows: int = 256) -> Scheduler:
    moments = {rows: [seconds] for rows, seconds in (AVX2 if table is None else table).items()}
    return Scheduler(StepCost(goal_s, max_rows, Measured(moments, 0.0)), max_rows)


def test_streams_go_first_and_prompts_fill_the_step_to_what_is_computed_at_once():
    """Eight streams and 16 rows more were a step of 24 rows, which takes as long as one of 16 and one of 8."""
    assert make().plan([1] * 8 + [500]) == [1] * 8 + [8]
    assert make().plan([1, 500, 1]) == [1, 14, 1]


def test_alone_a_prompt_gets_a_large_step():
    assert sum(make().plan([500, 400])) == 48  # 80 rows/s; 256 rows would bring 83


def test_short_prompt_overtakes_but_the_oldest_is_sure_of_a_quarter():
    assert share_out([500, 10], 32) == [22, 10]
    assert share_out([500, 0, 300, 20], 32) == [8, 0, 4, 20]


@pytest.mark.parametrize(("gap", "steps"), [(17, [17]), (8, [8]), (9, [9, 0])])
def test_prompt_leaves_no_tail(gap: int, steps: list[int]):
    """One row left over would take 50 ms beside three streams, and takes none with the step before."""
    scheduler = make({**AVX2, 24: 0.22})
    for rows in steps:
        gaps = [1, 1, 1, gap] if gap else [1, 1, 1]
        assert sum(scheduler.plan(gaps)) - 3 == rows
        gap -= rows


@given(st.sampled_from(sorted(TABLES)), GAPS, st.integers(41, 256))
def test_plan_keeps_its_promises(name: str, gaps: list[int], max_rows: int):
    rows = make(dict(TABLES[name]), max_rows=max_rows).plan(gaps)
    prompts = [i for i, gap in enumerate(gaps) if gap > 1]
    assert all(0 <= row <= gap for row, gap in zip(rows, gaps, strict=True))
    assert all(row == 1 for row, gap in zip(rows, gaps, strict=True) if gap == 1)
    assert sum(rows) <= max_rows
    assert len(prompts) < len(gaps) or not prompts or rows[prompts[0]] > 0


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(TABLES)), st.integers(1, 24), st.floats(0.02, 1.0), st.integers(30, 300))
def test_neither_prompts_nor_streams_starve(name: str, n_streams: int, goal_s: float, n_prompt: int):
    """Streams that never end leave prompts SHARE of the time, but for one step; prompts that never end leave streams
    the rest, wherever the goal is."""
    table = dict(TABLES[name])
    scheduler = make(table, goal_s)
    cost = StepCost(goal_s, 256, Measured({rows: [seconds] for rows, seconds in table.items()}, 0.0))
    time_s = prompt_s = own_s = 0.0
    n_turns = 0
    mix = scheduler.mix(n_streams, n_prompt)
    for _ in range(300):
        rows = scheduler.plan([1] * n_streams + [n_prompt])
        time_s += cost.seconds(sum(rows)) or 0.0
        prompt_s += rows[-1] * mix.alone_s / mix.n_alone
        own_s += 0.0 if any(rows[:-1]) else cost.seconds(rows[-1]) or 0.0
        assert sum(rows[:-1]) in (0, n_streams)
        n_turns += any(rows[:-1])
    assert prompt_s >= SHARE * time_s - mix.alone_s - mix.step_s
    assert own_s <= SHARE * time_s + mix.alone_s and n_turns > 100
