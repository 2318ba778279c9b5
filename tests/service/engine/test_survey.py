"""What is measured while nobody wants anything, on the fake model and a clock that the model moves."""

from __future__ import annotations

import pytest

from service.engine.cost import CELL_ROWS, CELLS, GRID, StepCost
from service.engine.prefix import PrefixCache
from service.engine.survey import Survey
from service.protocol import Chunk
from tests.fakes import FakeClock, FakeModel

ROW_S, CELL_S = 0.01, 2e-6


class TimedModel(FakeModel):
    """Each decode takes what rows and cells cost."""

    def __init__(self, clock: FakeClock, **changes: int) -> None:
        super().__init__(**{"n_context": 2048, "max_batch": 64, **changes})
        self.clock = clock

    def decode(self, chunks) -> None:
        rows = sum(len(chunk.tokens) for chunk in chunks)
        self.clock.now += rows * ROW_S + sum(len(chunk.tokens) * chunk.start for chunk in chunks) * CELL_S
        super().decode(chunks)


class Setting:
    def __init__(self, **changes: int) -> None:
        self.clock = FakeClock()
        self.model = TimedModel(self.clock, **changes)
        self.cost = StepCost(0.35, self.model.max_batch)
        self.is_wanted = False
        cache = PrefixCache(self.model, self.model.n_sequences, self.model.n_cells)
        self.survey = Survey(self.model, cache, self.cost, lambda: self.is_wanted, clock=self.clock)


def test_all_sizes_and_the_price_of_a_cell_become_known_one_by_one():
    setting = Setting()
    for n_known in range(1, 30):
        setting.survey.measure_next()
        assert len(setting.cost.points) <= n_known
        if setting.cost.is_measured:
            break
    assert setting.cost.points == {rows: pytest.approx(rows * ROW_S) for rows in GRID if rows <= 64}
    assert setting.cost.cell_s == pytest.approx(CELL_S)
    assert setting.model.n_used_cells == 0


def test_newcomer_ends_the_measuring_of_cells_after_one_step():
    setting = Setting()
    while setting.cost.missing:
        setting.survey.measure_next()
    setting.model.batches.clear()
    setting.is_wanted = True
    setting.survey.measure_next()
    assert setting.model.batches == [] and not setting.cost.is_measured and setting.model.n_used_cells == 0
    setting.is_wanted = False
    setting.survey.measure_next()
    assert setting.cost.is_measured


@pytest.mark.parametrize("changes", [{"n_context": CELLS}, {"max_batch": CELL_ROWS // 2}, {"n_cells": 24}])
def test_small_model_is_not_measured_beyond_what_it_holds(changes: dict[str, int]):
    setting = Setting(**changes)
    for _ in range(20):
        setting.survey.measure_next()
    assert setting.cost.is_measured and setting.cost.cell_s == 0


def test_slow_machine_is_not_kept_busy_for_the_price_of_a_cell():
    setting = Setting()
    for rows in (1, 2):
        setting.cost.measured(rows, 2.0)
    setting.survey.measure_next()
    assert setting.cost.is_measured and setting.cost.cell_s == 0 and setting.model.batches == []


def test_attention_is_chosen_first_and_once():
    setting = Setting()
    emptied = []
    cache = PrefixCache(setting.model, setting.model.n_sequences, setting.model.n_cells)
    kept = cache.open_empty([1] * 20)
    assert kept
    setting.model.decode([Chunk(kept.id, 0, [1] * 20)])
    kept.n_computed = 20
    cache.retire(kept)
    survey = Survey(
        setting.model,
        cache,
        setting.cost,
        lambda: setting.is_wanted,
        chooses_attention=True,
        on_empty=lambda: emptied.append(setting.model.n_used_cells),
        clock=setting.clock,
    )
    setting.is_wanted = True
    survey.measure_next()
    assert emptied == [0] and not setting.cost.points and not survey.is_done  # once more when nobody waits
    setting.is_wanted = False
    survey.measure_next()
    assert emptied == [0, 0] and not setting.cost.points
    while not survey.is_done:
        survey.measure_next()
    assert emptied == [0, 0] and setting.cost.is_measured
