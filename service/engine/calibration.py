"""Measure this machine while nobody wants anything: what a step of each size costs, and what its attention adds.

One decode at a time, so a request, a signal or a heartbeat waits for one step at most; the fastest of a few counts,
because nothing makes a step too fast. Each finished price is in the table at once, and one that is interrupted goes on
later: what was timed stays. Neighbours can make a whole minute slow, so each size is measured at several moments, and
once more after each later start. It computes in a sequence that the cache lends, in cells that nobody holds, and gives
them up before anything else goes, so measuring costs no request and no kept prefix anything. While too few cells are
free it waits; the price of attention is then found with fewer cells. (One sequence number of many is all it holds
meanwhile.)

Knows the model's decode, the cache and the price table. Knows nothing of requests or files. Belongs to the engine
thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import ModelFatal
from ..protocol import Chunk, Model
from .cost import CELL_ROWS, StepCost
from .lookup import MAX_ROWS
from .prefix import CacheSequence, PrefixCache

log = logging.getLogger(__name__)

N_MEASUREMENTS = 3  # of each price at one moment
N_MOMENTS = 3  # at which a new machine is measured; one that is known, once per start
MOMENT_S = 60.0  # from one to the next
CELLS, MIN_CELLS = 1024, 256  # that a row attends to when attention is measured: so many if there is room for them
LAST_ROWS = N_MEASUREMENTS * CELL_ROWS  # computed behind them
SLOW_S = 1.0  # a machine that takes longer for one such step is not kept busy for the price of attention


class Calibration:
    """What is left to measure. `step` may be called whenever nobody waits and `can_go_on`; `close` gives back what the
    cache has lent."""

    def __init__(self, model: Model, cache: PrefixCache, cost: StepCost, clock: Callable[[], float]) -> None:
        self._model, self._cache, self._cost, self._clock = model, cache, cost, clock
        self._sequence = cache.lend()
        self._rows = 0  # the size that is being measured; CELLS: attention
        self._found: list[float] = []  # its prices so far
        self._has_failed = False
        self._n_moments_left = 1 if cost.is_measured else N_MOMENTS - 1  # of all sizes, once each has a price
        self._due_at = clock() + (0.0 if cost.is_measured else MOMENT_S)
        self._again: list[int] = []  # what is left to measure at this moment: sizes; CELLS: attention

    @property
    def has_all(self) -> bool:
        """Whether every price is known, and none is being looked at again."""
        return self._cost.is_measured and not self._again

    @property
    def is_done(self) -> bool:
        return self.has_all and not self._n_moments_left

    def can_go_on(self) -> bool:
        """Whether there is something to measure, and room for it now."""
        if self.is_done or self._has_failed:
            return False
        if self.has_all:
            if self._clock() < self._due_at:
                return False
            self._n_moments_left -= 1
            self._due_at = self._clock() + MOMENT_S
            self._again = [*sorted(self._cost.points), CELLS]
        self._sequence = self._sequence or self._cache.lend()
        if self._sequence is None:
            return False
        n_free, n_own = self._cache.n_free_cells, self._sequence.n_computed
        if self._next != CELLS:
            return self._next <= n_free + n_own or self._next > self._n_most
        n_cells = self._choose_cells(self._sequence)
        return not n_cells or (n_free >= CELL_ROWS and n_free + n_own >= n_cells + LAST_ROWS)

    def step(self) -> bool:
        """One decode. Returns whether a price became known."""
        assert self._sequence is not None
        try:
            is_cells = self._next == CELLS
            is_known = self._measure_cells(self._sequence) if is_cells else self._measure_rows(self._sequence)
        except ModelFatal:
            raise
        except Exception as error:  # it was no request, so nobody fails; but once is enough
            log.warning("nothing more is measured: %s: %s", type(error).__name__, error)
            self._has_failed = True
            self.close()
            return False
        if self.has_all:  # the number that was lent is free until the next moment
            self.close()
        return is_known

    def close(self) -> None:
        if self._sequence:
            self._cache.drop(self._sequence)
            self._sequence = None

    @property
    def _next(self) -> int:
        return (self._again or self._cost.missing or [CELLS])[0]

    @property
    def _n_most(self) -> int:
        """Cells that there can be at best: all that are not pinned."""
        return self._cache.n_cells - self._cache.count_cells(is_evictable_free=True)

    def _measure_rows(self, sequence: CacheSequence) -> bool:
        rows = self._next
        if rows > self._n_most:
            self._cost.leave_out(rows)
            self._again = self._again[1:]
            return True
        if rows != self._rows:
            self._rows, self._found = rows, []
        self._cache.rewind(sequence, 0)
        seconds = self._time(sequence, rows, n_logits=rows if rows <= MAX_ROWS * 2 else 1)  # streams, or a prompt
        self._cache.rewind(sequence, 0)
        self._found.append(seconds)
        if len(self._found) < N_MEASUREMENTS:
            return False
        self._cost.measured(rows, min(self._found))
        self._rows, self._again = 0, self._again[1:]
        return True

    def _measure_cells(self, sequence: CacheSequence) -> bool:
        """Fill some cells, then compute rows that attend to them. What this model or this cache has no room for, or
        what would take long, counts as costing nothing."""
        if self._rows != CELLS:
            self._rows, self._found = CELLS, []
        n_cells, base_s = self._choose_cells(sequence), self._cost.base_s(CELL_ROWS) or 0.0
        if not n_cells or base_s > SLOW_S:
            return self._end_cells(0.0)
        start = sequence.n_computed
        seconds = self._time(sequence, CELL_ROWS)
        if start < n_cells:
            return False
        self._found.append(max(seconds - base_s, 0.0) / (CELL_ROWS * start))
        if len(self._found) < N_MEASUREMENTS:
            return False
        return self._end_cells(min(self._found))

    def _end_cells(self, seconds: float) -> bool:
        self._cost.measured_cell(seconds)
        self._rows, self._again = 0, []
        return True

    def _choose_cells(self, sequence: CacheSequence) -> int:
        """How many to fill; 0 if there can never be MIN_CELLS."""
        n_ever = min(CELLS, min(self._model.n_context, self._n_most) - LAST_ROWS)
        if n_ever < MIN_CELLS or self._model.max_batch < CELL_ROWS:
            return 0
        n_now = self._cache.n_free_cells + sequence.n_computed - LAST_ROWS
        return max(min(n_ever, n_now) // CELL_ROWS * CELL_ROWS, MIN_CELLS)

    def _time(self, sequence: CacheSequence, rows: int, n_logits: int = 1) -> float:
        started = self._clock()
        self._model.decode([Chunk(sequence.id, sequence.n_computed, [0] * rows, n_logits)])
        sequence.n_computed += rows
        return self._clock() - started
