"""What is measured while nobody wants anything, on the fake model and a clock that the model moves."""

from __future__ import annotations

import pytest

from service.engine.calibration import (
    CELLS,
    MIN_CELLS,
    MOMENT_S,
    N_MEASUREMENTS,
    N_MOMENTS,
    SLOW_S,
    Calibration,
)
from service.engine.cost import CELL_ROWS, GRID, Measured, StepCost
from service.engine.prefix import Match, PrefixCache
from service.protocol import Chunk
from tests.fakes import FakeClock, FakeModel

ROW_S, CELL_S = 0.01, 2e-6


class TimedModel(FakeModel):
    """Each decode takes what rows and cells cost, and once in a while `noise_s` more."""

    def __init__(self, clock: FakeClock, **changes: int) -> None:
        super().__init__(**{"n_context": 2048, "max_batch": 64, **changes})
        self.clock = clock
        self.noise_s: list[float] = []

    def decode(self, chunks) -> None:
        rows = sum(len(chunk.tokens) for chunk in chunks)
        self.clock.now += rows * ROW_S + sum(len(chunk.tokens) * chunk.start for chunk in chunks) * CELL_S
        self.clock.now += self.noise_s.pop(0) if self.noise_s else 0.0
        super().decode(chunks)


class Setting:
    def __init__(self, known: Measured | None = None, **changes: int) -> None:
        self.clock = FakeClock()
        self.model = TimedModel(self.clock, **changes)
        self.cost = StepCost(0.35, self.model.max_batch, known)
        self.cache = PrefixCache(self.model, self.model.n_sequences, self.model.n_cells, shares=self.model.shares)
        self.calibration = Calibration(self.model, self.cache, self.cost, self.clock)

    def hold(self, n: int) -> None:
        """A kept prefix of n tokens."""
        sequence = self.cache.open([1] * n, Match(None, 0))
        assert sequence
        for start in range(0, n, self.model.max_batch):
            part = [1] * min(self.model.max_batch, n - start)
            self.model.decode([Chunk(sequence.id, start, part)])
        sequence.n_computed = n
        self.cache.retire(sequence)

    def finish(self, n_most: int = 500) -> int:
        """Measure for as long as it goes on. Returns the number of steps."""
        n = 0
        while self.calibration.can_go_on():
            self.calibration.step()
            n += 1
            assert n < n_most
        return n


ROWS_KNOWN = Measured({rows: [rows * ROW_S] for rows in GRID if rows <= 64})


@pytest.mark.parametrize("shares", [True, False])
def test_all_prices_become_known_one_by_one(shares: bool):
    setting = Setting(shares=shares)
    n_known = []
    while setting.calibration.can_go_on():
        n_before = len(setting.model.batches)
        setting.calibration.step()
        assert len(setting.model.batches) - n_before == 1
        n_known.append(len(setting.cost.points))
    assert sorted(n_known) == n_known
    assert setting.calibration.has_all
    assert setting.cost.table == {rows: pytest.approx(rows * ROW_S) for rows in GRID if rows <= 64}
    assert setting.cost.cell_s == pytest.approx(CELL_S)
    setting.calibration.close()
    assert setting.model.n_used_cells == 0 and setting.cache.n_free_sequences == setting.model.n_sequences


def test_fastest_of_a_few_counts():
    setting = Setting()
    setting.model.noise_s = [0.5, 0.0, 0.2]
    told = [setting.calibration.step() for _ in range(N_MEASUREMENTS)]
    assert told == [False, False, True] and setting.cost.table == {1: pytest.approx(ROW_S)}


def test_measurement_goes_on_where_it_was_interrupted():
    """Even if a request needed the cells meanwhile: what was timed stays."""
    setting = Setting(ROWS_KNOWN, n_cells=1400)
    for _ in range(10):
        setting.calibration.step()
    assert setting.cache.n_free_cells == 1400 - 10 * CELL_ROWS
    setting.hold(200)
    for _ in range(23):
        setting.calibration.step()
    assert setting.model.n_used_cells == 200 + 33 * CELL_ROWS  # two are left to time
    assert setting.cache.make_room(1000) and setting.model.n_used_cells == 200
    assert setting.finish() == CELLS // CELL_ROWS + N_MEASUREMENTS - 1
    assert setting.cost.cell_s == pytest.approx(CELL_S)


def test_only_free_cells_are_used():
    setting = Setting(n_cells=100)
    setting.hold(70)
    setting.finish()
    assert sorted(setting.cost.points) == [1, 2, 4, 8, 12, 16, 24]
    assert not setting.calibration.is_done and setting.model.n_used_cells == 70
    setting.cache.drop(setting.cache.sequences[-1])
    setting.finish()
    assert setting.calibration.has_all


@pytest.mark.parametrize(("n_free", "n_cells"), [(CELLS + 200, CELLS), (600, 480), (360, MIN_CELLS)])
def test_price_of_attention_is_found_with_the_cells_that_are_free(n_free: int, n_cells: int):
    setting = Setting(ROWS_KNOWN, n_cells=2000)
    setting.hold(2000 - n_free)
    setting.model.batches.clear()
    assert setting.finish() == n_cells // CELL_ROWS + N_MEASUREMENTS
    assert setting.cost.cell_s == pytest.approx(CELL_S)
    assert setting.cache.match([1] * 3000).n == 2000 - n_free


def test_price_of_attention_waits_for_enough_free_cells():
    setting = Setting(ROWS_KNOWN, n_cells=2000)
    setting.hold(1700)
    assert setting.finish() == 0 and not setting.calibration.is_done


@pytest.mark.parametrize("changes", [{"n_context": MIN_CELLS}, {"max_batch": CELL_ROWS // 2}, {"n_cells": 300}])
def test_small_model_is_not_measured_beyond_what_it_holds(changes: dict[str, int]):
    setting = Setting(**changes)
    setting.finish()
    assert setting.calibration.has_all and setting.cost.cell_s == 0


def test_pinned_cells_are_not_waited_for():
    setting = Setting(n_cells=100)
    setting.hold(70)
    (pinned,) = (s for s in setting.cache.sequences if s.n_computed)
    pinned.is_pinned = True
    setting.finish()
    assert setting.calibration.has_all and max(setting.cost.points) == 24


def test_slow_machine_is_not_kept_busy_for_the_price_of_attention():
    setting = Setting(Measured({1: [SLOW_S * 2], 2: [SLOW_S * 2]}))
    assert setting.calibration.step()
    assert setting.calibration.has_all and setting.cost.cell_s == 0 and setting.model.batches == []


def test_without_a_number_to_spare_it_waits():
    setting = Setting(n_sequences=1)
    assert not setting.calibration.can_go_on()


def test_new_machine_is_measured_at_several_moments():
    """Symptom: what was measured in a neighbour's busy minute stayed for ever."""
    setting = Setting()
    setting.model.noise_s = [0.3] * 100
    setting.finish()
    assert setting.cost.table[1] > 0.1 and setting.calibration.has_all and not setting.calibration.is_done
    assert setting.cache.n_free_sequences == setting.model.n_sequences  # nothing is held from one to the next
    setting.model.noise_s = []
    for _ in range(N_MOMENTS - 1):
        assert not setting.calibration.can_go_on()
        setting.clock.now += MOMENT_S
        assert setting.finish()
    assert setting.calibration.is_done and len(setting.cost.points[1]) == N_MOMENTS
    assert setting.cost.table == {rows: pytest.approx(rows * ROW_S) for rows in GRID if rows <= 64}


def test_known_machine_is_looked_at_once_more_after_each_start():
    known = Measured({rows: [3 * rows * ROW_S] for rows in GRID if rows <= 64}, 5 * CELL_S)
    setting = Setting(known)
    assert setting.calibration.can_go_on() and setting.finish() > len(known.points)
    assert setting.calibration.is_done and setting.cost.cell_s == pytest.approx(3 * CELL_S, rel=0.01)
    assert setting.cost.points == {rows: (3 * rows * ROW_S, pytest.approx(rows * ROW_S)) for rows in known.points}
    assert setting.cost.table == {rows: pytest.approx(rows * ROW_S) for rows in known.points}
