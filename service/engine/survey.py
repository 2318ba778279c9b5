"""Measure this machine while nobody wants anything: which attention is faster, what a step of each size costs, and what
its attention adds.

One measurement at a time, so that a request that comes meanwhile waits for one step at most. The fastest of a few
counts, because nothing makes a step too fast. Knows the model, the cache and the price table; belongs to the engine
thread. Knows nothing of requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..protocol import Chunk, Model
from . import attention
from .cost import CELL_ROWS, CELLS, StepCost
from .lookup import MAX_ROWS
from .prefix import PrefixCache, Sequence

N_MEASUREMENTS = 3  # of each step
FILL_ROWS = 32  # rows per step that fill the cache for the measurement of attention: a newcomer waits for one


class Survey:
    """is_wanted: whether somebody waits now, which ends a measurement early. chooses_attention: whether that is left to
    measurement and not known yet. on_empty: called after all that was computed had to be forgotten."""

    def __init__(
        self,
        model: Model,
        cache: PrefixCache,
        cost: StepCost,
        is_wanted: Callable[[], bool],
        *,
        chooses_attention: bool = False,
        on_empty: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._cache, self._cost = model, cache, cost
        self._is_wanted = is_wanted
        self._chooses_attention = chooses_attention
        self._on_empty = on_empty
        self._clock = clock

    @property
    def is_done(self) -> bool:
        return self._cost.is_measured and not self._chooses_attention

    def measure_next(self) -> None:
        """The next thing that is not known; what does not fit this model's context, or would take minutes, counts as
        costing nothing more."""
        if self._chooses_attention:
            self._cache.clear()
            is_known = attention.choose(self._model, self._is_wanted, self._clock) is not None
            self._chooses_attention = not is_known
            self._on_empty()
        elif self._cost.missing:
            self._measure_rows(self._cost.missing[0])
        elif not self._cost.is_measured:
            self._measure_cells()

    def _measure_rows(self, rows: int) -> None:
        seconds = self._in_sequence(rows, lambda sequence: self._time(sequence, 0, rows))
        self._cost.measured(rows, seconds if seconds is not None else self._cost.base_s(rows) or 0.0)

    def _measure_cells(self) -> None:
        def measure(sequence: Sequence) -> float | None:
            for start in range(0, CELLS, FILL_ROWS):
                if self._is_wanted():
                    return None
                self._model.decode([Chunk(sequence.id, start, [0] * FILL_ROWS)])
                sequence.n_computed = start + FILL_ROWS
            return self._time(sequence, CELLS, CELL_ROWS)

        fits = self._model.n_context >= CELLS + CELL_ROWS and self._model.max_batch >= FILL_ROWS
        fits = fits and (self._cost.base_s(FILL_ROWS) or 0.0) <= attention.SLOW_S
        seconds = self._in_sequence(CELLS + CELL_ROWS, measure) if fits else None
        if seconds is not None or not self._is_wanted():
            self._cost.measured_cell(seconds or 0.0)

    def _in_sequence(self, n_tokens: int, measure: Callable[[Sequence], float | None]) -> float | None:
        """Measure in a sequence of its own; None if there is no room for it."""
        sequence = self._cache.open_empty([0] * n_tokens)
        if sequence is None:
            return None
        try:
            return measure(sequence) if self._cache.make_room(n_tokens) else None
        finally:
            self._cache.drop(sequence)

    def _time(self, sequence: Sequence, start: int, rows: int) -> float:
        n_logits = rows if rows <= MAX_ROWS * 2 else 1  # small steps are streams, large ones prompts
        fastest = float("inf")
        for _ in range(N_MEASUREMENTS):
            started = self._clock()
            self._model.decode([Chunk(sequence.id, start, [0] * rows, n_logits)])
            fastest = min(fastest, self._clock() - started)
            if self._cache.rewind(sequence, start) or self._is_wanted():  # or this model has to begin again
                break
        return fastest
