"""What a step costs, from measurements given by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from service.engine.cost import (
    CELL_ROWS,
    FIRST_ROWS,
    GRID,
    HEADROOM,
    MAX_STREAMS,
    MIN_STREAMS,
    N_EVIDENCE,
    N_MEASURED,
    N_SEEN,
    Measured,
    StepCost,
    load,
    save,
)

# Rows: seconds; 2 cores of EPYC Zen 4, TinyLlama's shape (house measurements of November 2026, rounded)
MEASURED = {1: 0.026, 2: 0.043, 4: 0.063, 8: 0.126, 16: 0.163, 32: 0.25, 64: 0.5, 128: 1.0}


def make(goal_s: float = 0.2, points: dict[int, float] | None = None, *, max_rows: int = 256, **known: Any) -> StepCost:
    points = MEASURED if points is None else points
    return StepCost(goal_s, max_rows, Measured({rows: [seconds] for rows, seconds in points.items()}, **known))


def budget(cost: StepCost, n_streams: int, n_cells: int = 0) -> int:
    return cost.budget(n_streams, cost.limit_s(n_streams, n_cells), n_cells)


@pytest.mark.parametrize("n_streams", [0, 1, 7])
def test_nothing_known_is_a_small_first_step(n_streams: int):
    cost = StepCost(0.2, 256)
    assert budget(cost, n_streams) == n_streams + FIRST_ROWS
    assert cost.seconds(5) is None and cost.row_s() is None and cost.choose_streams() == MAX_STREAMS


@pytest.mark.parametrize("row_s", [0.001, 0.01, 0.13, 2.0])
def test_first_steps_grow_and_keep_the_goal(row_s: float):
    """Symptom: 32 rows were taken at first wherever it was, and took 4 s on a slow CPU."""
    cost, sizes = StepCost(0.35, 256), []
    for _ in range(8):
        rows = max(budget(cost, 1), 2)
        cost.observe(rows, 0.02 + rows * row_s)
        sizes.append(rows)
    assert all(0.02 + rows * row_s <= max(0.35, 0.02 + 2 * row_s) + row_s for rows in sizes)
    assert row_s > 0.002 or max(sizes) > 64


def test_budget_has_the_most_rows_per_second_within_the_goal():
    assert budget(make(0.2), 1) == 16
    assert budget(make(0.3), 1) == 32
    assert budget(make(2.0), 1) == 32  # 64 rows cost twice as much
    assert budget(make(0.3), 16) == 32 and budget(make(0.2), 15) == 16


def test_no_time_for_one_row_more():
    assert budget(make(0.18), 16) == 16
    assert budget(make(0.01), 1) == 1


def test_rows_that_cost_nothing_are_taken_however_long_the_streams_take():
    cost = make(0.01, {1: 0.2, 2: 0.35, 4: 0.6, 8: 1.1, 16: 1.1})
    assert budget(cost, 3) == 4 and budget(cost, 4) == 4 and budget(cost, 5) == 16


def test_row_that_takes_most_of_the_goal_comes_on_top_of_it():
    cost = make(0.35, {1: 0.6, 2: 0.65, 4: 0.9, 8: 1.5})
    assert cost.limit_s(1) == pytest.approx(0.35 * HEADROOM + 0.6) and budget(cost, 1) == 4


def test_without_streams_steps_may_be_longer():
    flat = {1: 0.026, 16: 0.163, 32: 0.3, 64: 0.5, 128: 0.89}
    assert budget(make(0.2, flat), 0) == 128 and budget(make(0.2, flat), 1) == 16
    assert budget(make(0.2, flat, max_rows=64), 0) == 64


def test_table_grows_where_it_pays():
    """Symptom: a slow machine's table ended at 32 rows for ever."""
    cost = make(0.35, {1: 0.1, 16: 0.42, 24: 0.5, 32: 0.6}, cell_s=0.0)
    assert cost.missing == [] and budget(cost, 0) == 64
    cost.observe(64, 1.0)
    assert cost.table[64] == 1.0 and budget(cost, 0) == 96


def test_beyond_the_largest_is_the_line_through_the_last_two():
    assert make(points={16: 0.2, 32: 0.3}).seconds(48) == pytest.approx(0.4)
    assert make(points={16: 0.2, 32: 0.2}).seconds(64) == pytest.approx(0.3)  # nothing is free for ever
    assert make(points={16: 0.1, 32: 0.4}).seconds(64) <= 0.4


def test_cost_between_two_sizes_is_the_larger_ones():
    assert make().seconds(9) == 0.163 and make().seconds(256) == pytest.approx(2.0)


def test_streams_are_as_many_as_pay():
    assert make().choose_streams() == 16
    assert make(points={1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08, 16: 0.16}).choose_streams() == MIN_STREAMS
    assert make(points={1: 0.7}).choose_streams() == MIN_STREAMS


def test_slow_machine_is_believed_at_once_and_its_recovery_later():
    cost = make()
    for _ in range(5):
        cost.observe(16, 0.326)
    assert cost.seconds(8) > 1.7 * 0.126 and cost.table[8] == 0.126
    for _ in range(30):
        cost.observe(16, 0.163)
    assert cost.seconds(8) == pytest.approx(0.126, rel=0.01)


def test_one_hiccup_is_not_the_machine():
    cost = make()
    for i in range(50):
        cost.observe(16, 3.0 if i % 10 == 0 else 0.163)
    assert cost.factor == 1.0 and cost.table[16] == 0.163


def test_steps_between_two_sizes_say_no_more_than_the_table():
    cost = make()
    for rows, seconds in [(9, 0.13), (12, 0.15), (9, 0.16)] * 10:  # 8 rows take 0.126, 16 take 0.163
        cost.observe(rows, seconds)
    assert cost.factor == 1.0
    for _ in range(20):
        cost.observe(9, 0.326)
    assert 1.9 < cost.factor < 2.3


def test_real_steps_correct_a_single_price_in_both_directions():
    cost = make()
    for _ in range(N_EVIDENCE * 2):
        cost.observe(16, 0.163)
        cost.observe(32, 0.2)
    assert cost.table[32] == 0.2 and cost.table[16] == 0.163
    for _ in range(N_SEEN):
        cost.observe(16, 0.163)
        cost.observe(32, 0.35)
    assert cost.table[32] == 0.35 and cost.table[16] == 0.163


def test_neighbours_noise_is_not_kept():
    """Symptom: on an EPYC two rows were priced 151 ms and four 90, for ever."""
    cost = make(points={1: 0.072, 2: 0.151, 4: 0.09, 8: 0.9, 16: 0.95})
    assert cost.table[2] == 0.09  # no more than a larger step
    assert cost.table[8] == pytest.approx(0.18) and cost.table[16] == pytest.approx(0.36)  # no more than two of half
    cost.measured(2, 0.075)
    assert cost.table[2] == 0.075
    for _ in range(N_EVIDENCE):
        cost.observe(8, 0.136)
    assert cost.table[8] == 0.136


def test_bad_minute_is_outvoted_by_later_ones():
    cost = make(points={rows: 3 * seconds for rows, seconds in MEASURED.items()})
    for rows, seconds in MEASURED.items():
        cost.measured(rows, seconds)
        cost.measured(rows, seconds * 1.1)
    assert cost.table == MEASURED


def test_what_has_slowed_all_sizes_that_are_seen_is_expected_of_the_others():
    cost = make()
    for _ in range(N_SEEN):
        cost.observe(8, 0.252)
        cost.observe(16, 0.326)
    assert cost.factor == pytest.approx(1, rel=0.02) and cost.table[32] == pytest.approx(0.5)


def test_attention_makes_rows_dearer_and_steps_smaller():
    cost = make(0.3, cell_s=2e-6)
    assert cost.seconds(32, 32 * 1000) == pytest.approx(0.25 + 0.064)
    assert budget(cost, 1) == 32 and budget(cost, 1, n_cells=1000) == 16
    assert cost.cell_price == pytest.approx(2e-6 * CELL_ROWS / MEASURED[CELL_ROWS])


def test_attention_that_was_expected_is_no_fault_of_the_machine():
    cost = make(0.3, cell_s=2e-6)
    for _ in range(100):
        cost.observe(32, 0.314, 32 * 1000)
    assert cost.seconds(32) == pytest.approx(0.25)


def test_price_of_a_cell_is_the_last_to_be_known():
    cost = make()
    assert not cost.is_measured and cost.cell_price == 0
    cost.measured_cell(3e-6)
    assert cost.is_measured and cost.seconds(32, 32 * 1000) == pytest.approx(0.25 + 32 * 1000 * 3e-6)
    cost.measured_cell(1e-6)
    assert cost.cell_s == pytest.approx(2e-6)


def test_sizes_that_cannot_be_measured_are_left_out():
    cost = make(points={1: 0.01, 2: 0.02})
    cost.leave_out(12)
    assert cost.missing == [4, 8]


def test_streams_are_not_bounded_by_what_is_not_measured_yet():
    assert make(points={1: 0.01, 2: 0.02}).choose_streams() == MAX_STREAMS
    assert make(points={rows: 0.01 * rows for rows in (1, 2, 4, 8, 12, 16)}).choose_streams() == MIN_STREAMS


def test_real_step_of_a_size_never_seen_stands_for_it_in_proportion():
    cost = StepCost(0.2, 256)
    cost.observe(20, 1.0)
    assert cost.table == {24: pytest.approx(1.2)} and cost.seconds(20) == pytest.approx(1.0)
    assert cost.seconds(48) == pytest.approx(2.4)
    assert cost.points == {} and cost.missing == list(GRID)


def test_measuring_ends_with_the_grid_or_with_two_long_steps():
    cost = StepCost(0.2, 64)
    assert cost.missing == [rows for rows in GRID if rows <= 64]
    cost.measured(1, 0.7)  # one may be odd
    assert cost.missing == [rows for rows in GRID if 1 < rows <= 64]
    for rows in list(cost.missing):
        cost.measured(rows, 0.01)
    assert cost.missing == []
    assert make().missing == []


def test_measurement_is_kept(tmp_path: Path):
    known = Measured({rows: [seconds, 2 * seconds] for rows, seconds in MEASURED.items()}, 2e-6, True)
    save(tmp_path / "steps.json", known)
    assert load(tmp_path / "steps.json") == known
    assert [path.name for path in tmp_path.iterdir()] == ["steps.json"]


def test_last_moments_are_kept():
    cost = StepCost(0.2, 256)
    for i in range(1, N_MEASURED + 3):
        cost.measured(1, float(i))
    assert cost.points == {1: tuple(float(i) for i in range(3, N_MEASURED + 3))}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"1": 0.1}',
        '{"steps": {"1": "x"}, "cell_s": 0, "flash_attention": null}',
        '{"steps": {"7": 0.1}, "cell_s": 0, "flash_attention": null}',
        '{"steps": {"1": -1}, "cell_s": 0, "flash_attention": null}',
        '{"steps": {"1": 0.1}, "cell_s": -1, "flash_attention": null}',
        '{"steps": {"1": 0.1}, "cell_s": 0, "flash_attention": "yes"}',
    ],
)
def test_damaged_file_is_not_used(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture):
    (tmp_path / "steps.json").write_text(text)
    assert load(tmp_path / "steps.json") == Measured()
    assert "not used" in caplog.text


def test_disk_that_cannot_be_written_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    save(tmp_path / "nowhere" / "steps.json", Measured({1: [0.1]}))
    assert "not saved" in caplog.text
    assert load(None) == Measured()
    save(None, Measured({1: [0.1]}))


def test_dearest_step_is_the_longest_known_times_how_busy_it_is_now():
    assert StepCost(0.2, 256).dearest_s() == 0
    costs = StepCost(0.2, 256, Measured({1: [0.1], 256: [2.0]}, 0.0))
    assert costs.dearest_s() == 2.0
    for _ in range(100):
        costs.observe(1, 0.3)
    assert costs.dearest_s() == pytest.approx(6.0, rel=0.05)
