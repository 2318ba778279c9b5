"""What a step costs, from measurements given by hand."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.engine.cost import (
    BLIND_PROMPT_ROWS,
    BLIND_ROWS,
    CELL_ROWS,
    GRID,
    MAX_STREAMS,
    MIN_STREAMS,
    Measured,
    StepCost,
    load,
    save,
)

# Rows: seconds; 2 cores of EPYC Zen 4, TinyLlama's shape (house measurements of November 2026, rounded)
MEASURED = {1: 0.026, 2: 0.043, 4: 0.063, 8: 0.129, 16: 0.163, 32: 0.25, 64: 0.5, 128: 1.0}


def test_nothing_known_is_a_cautious_guess():
    cost = StepCost(0.2, 256)
    assert cost.budget(has_streams=True) == BLIND_ROWS and cost.budget(has_streams=False) == BLIND_PROMPT_ROWS
    assert cost.seconds(5) is None and cost.row_s() is None and cost.choose_streams() == MAX_STREAMS


def test_budget_is_the_fewest_rows_at_the_best_price_within_the_goal():
    assert StepCost(0.2, 256, Measured(MEASURED)).budget(has_streams=True) == 16
    assert StepCost(0.3, 256, Measured(MEASURED)).budget(has_streams=True) == 32
    assert StepCost(2.0, 256, Measured(MEASURED)).budget(has_streams=True) == 32  # 64 rows cost twice as much


def test_without_streams_steps_may_be_longer():
    assert StepCost(0.2, 256, Measured(MEASURED)).budget(has_streams=False) == 128
    few = {1: 0.05, 16: 0.2, 24: 0.4, 32: 0.4}  # measuring stops at steps so long
    assert StepCost(0.25, 256, Measured(few)).budget(has_streams=False) == 100
    assert StepCost(0.2, 64, Measured(MEASURED)).budget(has_streams=False) == 64


def test_one_known_small_step_does_not_make_all_steps_small():
    assert StepCost(0.2, 256, Measured({1: 0.026})).budget(has_streams=True) == BLIND_ROWS


def test_machine_too_slow_for_the_goal_still_works():
    assert StepCost(0.01, 256, Measured(MEASURED)).budget(has_streams=True) == 1


def test_cost_between_two_sizes_is_the_larger_ones():
    cost = StepCost(0.2, 256, Measured(MEASURED))
    assert cost.seconds(9) == 0.163 and cost.seconds(256) == pytest.approx(2.0)


def test_streams_are_as_many_as_pay():
    assert StepCost(0.2, 256, Measured(MEASURED)).choose_streams() == 16
    flat = {1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08, 16: 0.16}
    assert StepCost(0.2, 256, Measured(flat)).choose_streams() == MIN_STREAMS
    assert StepCost(0.2, 256, Measured({1: 0.7})).choose_streams() == MIN_STREAMS


def test_real_steps_correct_the_measurement():
    cost = StepCost(0.2, 256, Measured(MEASURED))
    for _ in range(100):
        cost.observe(16, 0.326)
    assert cost.seconds(8) == pytest.approx(0.258, rel=0.01) and cost.budget(has_streams=True) == 4
    for _ in range(100):
        cost.observe(4, 0.01)
    assert cost.seconds(8) == 0.129  # never cheaper than on an idle machine


def test_noise_does_not_make_a_small_step_dearer_than_a_large_one():
    cost = StepCost(0.2, 256, Measured({1: 0.03, 2: 0.3, 4: 0.06, 8: 0.12}))
    assert cost.seconds(2) == 0.06 and cost.budget(has_streams=True) >= 8


def test_attention_makes_rows_dearer_and_steps_smaller():
    cost = StepCost(0.3, 256, Measured(MEASURED, 2e-6))
    assert cost.seconds(32, 32 * 1000) == pytest.approx(0.25 + 0.064)
    assert cost.budget(has_streams=True) == 32 and cost.budget(has_streams=True, n_cells=1000) == 16
    assert cost.cell_price == pytest.approx(2e-6 * CELL_ROWS / MEASURED[CELL_ROWS])


def test_attention_that_was_expected_is_no_fault_of_the_machine():
    cost = StepCost(0.3, 256, Measured(MEASURED, 2e-6))
    for _ in range(100):
        cost.observe(32, 0.314, 32 * 1000)
    assert cost.seconds(32) == pytest.approx(0.25)


def test_price_of_a_cell_is_the_last_to_be_known():
    cost = StepCost(0.2, 256, Measured(MEASURED))
    assert not cost.is_measured and cost.cell_price == 0
    cost.measured_cell(3e-6)
    assert cost.is_measured and cost.seconds(32, 32 * 1000) == pytest.approx(0.25 + 32 * 1000 * 3e-6)


def test_sizes_that_cannot_be_measured_are_left_out():
    cost = StepCost(0.2, 256, Measured({1: 0.01, 2: 0.02}))
    cost.leave_out(12)
    assert cost.missing == [4, 8]


def test_streams_are_not_bounded_by_what_is_not_measured_yet():
    assert StepCost(0.2, 256, Measured({1: 0.01, 2: 0.02})).choose_streams() == MAX_STREAMS
    assert (
        StepCost(0.2, 256, Measured({rows: 0.01 * rows for rows in (1, 2, 4, 8, 12, 16)})).choose_streams()
        == MIN_STREAMS
    )


def test_first_real_step_stands_for_all_until_something_is_measured():
    cost = StepCost(0.2, 256)
    cost.observe(20, 1.0)
    assert cost.seconds(10) == 1.0 and cost.seconds(40) == 2.0
    assert cost.points == {} and cost.missing == list(GRID)
    cost.measured(1, 0.1)
    assert cost.seconds(10) == 1.0 and cost.points == {1: 0.1}


def test_measuring_ends_with_the_grid_or_with_two_long_steps():
    cost = StepCost(0.2, 64)
    assert cost.missing == [rows for rows in GRID if rows <= 64]
    cost.measured(1, 0.7)  # one may be odd
    assert cost.missing == [rows for rows in GRID if 1 < rows <= 64]
    for rows in list(cost.missing):
        cost.measured(rows, 0.01)
    assert cost.missing == []
    assert StepCost(0.2, 256, Measured(MEASURED)).missing == []


def test_measurement_is_kept(tmp_path: Path):
    known = Measured(MEASURED, 2e-6, True)
    save(tmp_path / "steps.json", known)
    assert load(tmp_path / "steps.json") == known
    assert [path.name for path in tmp_path.iterdir()] == ["steps.json"]


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
    save(tmp_path / "nowhere" / "steps.json", Measured(MEASURED))
    assert "not saved" in caplog.text
    assert load(None) == Measured()
    save(None, Measured(MEASURED))
