"""What a step costs on this machine: seconds by number of rows and by what their attention reads, measured.

The time does not grow evenly: CPU kernels work on groups of rows, so 9 rows may cost what 16 do, and 16 less than twice
8. GRID holds the sizes that are measured, once, in idle time after the first start (`calibration`). Real steps then say
by what factor all of them are dearer now: neighbours on the same cores. From the table follow how many rows a step may
have and how many streams pay.

Knows numbers and one small file. Knows nothing of requests, models or llama.cpp. `observe`, `measured` and
`measured_cell` belong to the engine thread; the rest may be called from any thread.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from .. import store

STATE_NAME = "steps.json"

log = logging.getLogger(__name__)

GRID = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CELL_ROWS = 32  # rows of the steps that the price of attention is found with
BLIND_ROWS = 32  # the budget of a step as long as nothing was measured
BLIND_PROMPT_ROWS = 128  # and as long as no stream waits
PATIENCE = 5  # a step may take so many times the goal while no stream waits: a newcomer or a farewell waits for its end
ENOUGH_S = 0.4  # two steps of so long end the measuring: a request that comes meanwhile waits for the end of one
WEIGHT = 0.1  # of a new observation in the running factor
ROW_WORTH = 1.05  # while streams wait, a larger step must bring this much more rows per second
MAX_FACTOR = 8.0
MIN_STREAMS, MAX_STREAMS = 4, 16  # auto stays between: one odd measurement must not make people queue for each other
WORTH = 1.05  # a larger number of streams must bring this much more throughput


@dataclass(frozen=True)
class Measured:
    """What was found out about a machine. points: seconds by rows, over an empty cache. cell_s: seconds per row and
    attended cell. flash_attention: whether it is the faster kind here. None: not measured."""

    points: dict[int, float] = field(default_factory=dict)
    cell_s: float | None = None
    flash_attention: bool | None = None


class StepCost:
    """goal_s: how long a step may take while streams wait. max_rows: rows it can have. known: of an earlier start."""

    def __init__(self, goal_s: float, max_rows: int, known: Measured | None = None) -> None:
        known = known or Measured()
        self._goal_s = goal_s
        self._max_rows = max_rows
        self._points = dict(known.points)
        self._cell_s = known.cell_s
        self._first: dict[int, float] = {}  # a real step, as long as nothing is measured
        self._factor = 1.0
        self._n_measurable = max_rows

    @property
    def missing(self) -> list[int]:
        """Sizes that nobody has measured yet, smallest first. Two long steps end it: one may be odd."""
        if sum(seconds >= ENOUGH_S for seconds in self._points.values()) >= 2:
            return []
        return [rows for rows in GRID if rows <= self._n_measurable and rows not in self._points]

    @property
    def is_measured(self) -> bool:
        return not self.missing and self._cell_s is not None

    @property
    def points(self) -> dict[int, float]:
        return dict(self._points)

    @property
    def cell_s(self) -> float | None:
        return self._cell_s

    @property
    def cell_price(self) -> float:
        """What one attended cell adds to a row, as a share of the row's price; 0 if not measured."""
        seconds = self.base_s(CELL_ROWS)
        return (self._cell_s or 0.0) * CELL_ROWS / seconds if seconds else 0.0

    def __str__(self) -> str:
        steps = " ".join(f"{rows}={seconds * 1e3:.0f}ms" for rows, seconds in sorted(self._points.items()))
        return steps + (f", {self._cell_s * 1e6:.2f}ms per row and 1000 cells" if self._cell_s is not None else "")

    def observe(self, rows: int, seconds: float, n_attended: int = 0) -> None:
        """A step took so long; n_attended: cells that its rows read, all in all. Before anything is measured the first
        one stands for all."""
        expected = self.seconds(rows, n_attended)
        if not expected:
            self._first = {rows: max(seconds, 1e-9)}
            return
        factor = self._factor * (1 - WEIGHT + WEIGHT * seconds / expected)
        self._factor = min(max(factor, 1.0), MAX_FACTOR)

    def measured(self, rows: int, seconds: float) -> None:
        """A measurement made on purpose: it replaces what was known."""
        self._points[rows] = max(seconds, 1e-9)

    def measured_cell(self, seconds: float) -> None:
        """Each cell that a row attends to makes a step so much longer."""
        self._cell_s = seconds

    def leave_out(self, rows: int) -> None:
        """Steps of so many rows and more cannot be measured here."""
        self._n_measurable = rows - 1

    def base_s(self, rows: int) -> float | None:
        """Time of a step over an empty cache on the machine at rest: of the cheapest measured size that is not smaller,
        because a step never costs more than a larger one; beyond the largest in proportion. None: nothing known."""
        points = list((self._points or self._first).items())
        larger = [seconds for size, seconds in points if size >= rows]
        if not points:
            return None
        size, seconds = max(points)
        return min(larger) if larger else seconds * rows / size

    def seconds(self, rows: int, n_attended: int = 0) -> float | None:
        """Expected time of a step now."""
        base_s = self.base_s(rows)
        return None if base_s is None else self._factor * (base_s + (self._cell_s or 0.0) * n_attended)

    def dearest_s(self) -> float:
        """Time now of the dearest step that was measured or seen; 0 if none was."""
        return self._factor * max((self._points or self._first).values(), default=0.0)

    def budget(self, has_streams: bool, n_cells: int = 0) -> int:
        """Rows for the next step, each of which attends to n_cells.

        While streams wait: the fewest that come within ROW_WORTH of the best price per row inside the goal, because a
        larger step would only keep them waiting. Without any: the most within PATIENCE goals.
        """
        goal_s = self._goal_s * (1 if has_streams else PATIENCE)
        priced = [(rows, self.seconds(rows, rows * n_cells) or 0.0) for rows in sorted(self._points)]
        fitting = [(rows, seconds) for rows, seconds in priced if seconds <= goal_s and rows <= self._max_rows]
        if self.missing:
            blind = BLIND_ROWS if has_streams else BLIND_PROMPT_ROWS
            return min(max([blind, *(rows for rows, _ in fitting)]), self._max_rows)
        if not fitting:
            return 1
        if has_streams:
            best_s = min(seconds / rows for rows, seconds in fitting)
            return next(rows for rows, seconds in fitting if seconds / rows <= best_s * ROW_WORTH)
        rows, seconds = fitting[-1]
        if len(fitting) == len(priced):  # beyond the largest in proportion
            rows = int(rows * goal_s / (seconds or goal_s))
        return min(rows, self._max_rows)

    def row_s(self) -> float | None:
        """Seconds per prompt token in the steps that `budget` makes."""
        rows = self.budget(has_streams=True)
        seconds = self.seconds(rows)
        return seconds / rows if seconds else None

    def choose_streams(self) -> int:
        """How many answers at once: the fewest that come within WORTH of the best throughput inside the goal."""
        sizes = sorted(rows for rows in self._points if rows <= MAX_STREAMS)
        points = [(rows, seconds) for rows in sizes if (seconds := self.seconds(rows) or 0) <= self._goal_s]
        if not points:
            return MIN_STREAMS if self._points else MAX_STREAMS
        if any(max(sizes) < rows <= MAX_STREAMS for rows in self.missing):  # larger ones may be found to pay
            return MAX_STREAMS
        best = max(rows / seconds for rows, seconds in points)
        return max(next(rows for rows, seconds in points if rows / seconds * WORTH >= best), MIN_STREAMS)


def load(path: Path | None) -> Measured:
    """What an earlier start measured; nothing if there is nothing, or nothing that makes sense."""
    if path is None:
        return Measured()
    try:
        found = json.loads(path.read_text())
        points = {int(rows): float(seconds) for rows, seconds in found["steps"].items()}
        cell_s = None if found["cell_s"] is None else float(found["cell_s"])
        if not all(rows in GRID and 0 < seconds < 3600 for rows, seconds in points.items()):
            raise ValueError("numbers out of range")
        if cell_s is not None and not 0 <= cell_s < 1:
            raise ValueError("cell_s out of range")
        if found["flash_attention"] not in (None, True, False):
            raise ValueError("flash_attention is neither true nor false")
        return Measured(points, cell_s, found["flash_attention"])
    except FileNotFoundError:
        return Measured()
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s: not used: %s: %s", path, type(error).__name__, error)
        return Measured()


def save(path: Path | None, measured: Measured) -> None:
    """Keep it for the next start; a read-only or full disk is no reason to stop."""
    if path is None:
        return
    steps = {str(rows): round(seconds, 6) for rows, seconds in sorted(measured.points.items())}
    text = json.dumps({"steps": steps, "cell_s": measured.cell_s, "flash_attention": measured.flash_attention})
    try:
        store.write(path, text.encode())
    except OSError as error:
        log.warning("%s: not saved: %s", path, error.strerror)
