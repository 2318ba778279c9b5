"""Which attention is chosen, on a fake model whose two kinds cost what the test says."""

from __future__ import annotations

import pytest

from service.engine.attention import FILL_ROWS, N_STEPS, PROMPT, SLOW_S, STREAMS, choose
from tests.fakes import FakeClock, FakeModel


class TwoKinds(FakeModel):
    """row_s: seconds per row by kind, flash attention second."""

    def __init__(self, clock: FakeClock, row_s: tuple[float, float], **changes: int) -> None:
        super().__init__(**{"max_batch": 64, **changes})
        self.clock, self.row_s = clock, row_s

    def decode(self, chunks) -> None:
        self.clock.now += self.row_s[self.has_flash_attention] * sum(len(chunk.tokens) for chunk in chunks)
        super().decode(chunks)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("row_s", "better"), [((0.01, 0.02), False), ((0.02, 0.01), True)])
def test_faster_kind_is_chosen_whatever_was_before(before: bool, row_s: tuple[float, float], better: bool):
    clock = FakeClock()
    model = TwoKinds(clock, row_s)
    model.has_flash_attention = before
    assert choose(model, lambda: False, clock) is better
    assert model.has_flash_attention is better and model.n_used_cells == 0


@pytest.mark.parametrize("before", [False, True])
def test_noise_changes_nothing(before: bool):
    clock = FakeClock()
    model = TwoKinds(clock, (0.0102, 0.0100) if not before else (0.0100, 0.0102))
    model.has_flash_attention = before
    assert choose(model, lambda: False, clock) is before


@pytest.mark.parametrize("n_steps", [0, 5, 50])
def test_newcomer_finds_the_model_as_it_was(n_steps: int):
    clock = FakeClock()
    model = TwoKinds(clock, (0.01, 0.02))
    assert choose(model, lambda: len(model.batches) >= n_steps, clock) is None
    assert len(model.batches) == n_steps
    assert model.has_flash_attention and model.n_used_cells == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"n_context": PROMPT},
        {"n_cells": STREAMS * (PROMPT + N_STEPS) - 1},
        {"max_batch": 31},
        {"n_sequences": STREAMS - 1},
    ],
)
def test_small_model_keeps_its_kind(changes: dict[str, int]):
    clock = FakeClock()
    model = TwoKinds(clock, (0.01, 0.02), **changes)
    assert choose(model, lambda: False, clock) is True
    assert model.batches == []


def test_slow_machine_is_spared_the_comparison():
    clock = FakeClock()
    model = TwoKinds(clock, (0.01, SLOW_S / FILL_ROWS * 1.01))
    assert choose(model, lambda: False, clock) is True
    assert model.batches == [FILL_ROWS] and model.n_used_cells == 0
