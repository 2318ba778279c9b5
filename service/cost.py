"""What a step costs on this machine: seconds by number of rows, measured.

The time does not grow evenly: CPU kernels work on groups of rows, so 9 rows may cost what 16 do, and 16 less than twice
8. GRID holds the sizes that are measured, once, in idle time after the first start. Real steps then say by what factor
all of them are dearer now: long contexts, neighbours on the same cores. From the table follow how many rows a step may
have and how many streams pay.

Knows numbers and one small file. Knows nothing of requests, models or llama.cpp. `observe` and `measured` belong to the
engine thread; the rest may be called from any thread.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

GRID = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
BLIND_ROWS = 32  # the budget of a step as long as nothing was measured
BLIND_PROMPT_ROWS = 128  # and as long as no stream waits
PATIENCE = 5  # a step may take so many times the goal while no stream waits: a newcomer or a farewell waits for its end
ENOUGH_S = 0.4  # larger steps than one of so long are not measured: a request that comes meanwhile waits for its end
WEIGHT = 0.1  # of a new observation in the running factor
MAX_FACTOR = 8.0
MIN_STREAMS, MAX_STREAMS = 4, 16  # auto stays between: one odd measurement must not make people queue for each other
WORTH = 1.05  # a larger number of streams must bring this much more throughput


class StepCost:
    """points: seconds by rows. goal_s: how long a step may take while streams wait. max_rows: rows a step can have."""

    def __init__(self, goal_s: float, max_rows: int, points: dict[int, float] | None = None) -> None:
        self._goal_s = goal_s
        self._max_rows = max_rows
        self._points = dict(points or {})
        self._factor = 1.0

    @property
    def missing(self) -> list[int]:
        """Sizes that nobody has measured yet, smallest first."""
        if self._points and max(self._points.values()) >= ENOUGH_S:
            return []
        return [rows for rows in GRID if rows <= self._max_rows and rows not in self._points]

    @property
    def points(self) -> dict[int, float]:
        return dict(self._points)

    def __str__(self) -> str:
        return " ".join(f"{rows}={seconds * 1e3:.0f}ms" for rows, seconds in sorted(self._points.items()))

    def observe(self, rows: int, seconds: float) -> None:
        """A step took so long. Before anything is measured it is the first measurement."""
        expected = self.seconds(rows)
        if not expected:
            self._points[min((size for size in GRID if size >= rows), default=rows)] = max(seconds, 1e-9)
            return
        factor = self._factor * (1 - WEIGHT + WEIGHT * seconds / expected)
        self._factor = min(max(factor, 1.0), MAX_FACTOR)

    def measured(self, rows: int, seconds: float) -> None:
        """A measurement made on purpose: it replaces what was known."""
        self._points[rows] = max(seconds, 1e-9)

    def seconds(self, rows: int) -> float | None:
        """Expected time of a step: of the cheapest measured size that is not smaller, because a step never costs more
        than a larger one; beyond the largest in proportion. None: nothing known."""
        points = list(self._points.items())
        larger = [seconds for size, seconds in points if size >= rows]
        if not points:
            return None
        size, seconds = max(points)
        return self._factor * (min(larger) if larger else seconds * rows / size)

    def budget(self, has_streams: bool) -> int:
        """Rows for the next step: the most that meet the goal while streams wait; without any, PATIENCE goals."""
        goal_s = self._goal_s * (1 if has_streams else PATIENCE)
        sizes = list(self._points)
        fitting = [rows for rows in sizes if (self.seconds(rows) or 0) <= goal_s]
        if not self.missing and len(fitting) == len(sizes):  # beyond the largest in proportion
            largest = max(sizes)
            fitting.append(int(largest * goal_s / (self.seconds(largest) or goal_s)))
        elif self.missing:
            fitting.append(BLIND_ROWS if has_streams else BLIND_PROMPT_ROWS)
        return min(max(fitting, default=1), self._max_rows)

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
        best = max(rows / seconds for rows, seconds in points)
        return max(next(rows for rows, seconds in points if rows / seconds * WORTH >= best), MIN_STREAMS)


def load_points(path: Path | None) -> dict[int, float]:
    """What an earlier start measured; empty if there is nothing, or nothing that makes sense."""
    if path is None or not path.exists():
        return {}
    try:
        points = {int(rows): float(seconds) for rows, seconds in json.loads(path.read_text()).items()}
        if not all(rows in GRID and 0 < seconds < 3600 for rows, seconds in points.items()):
            raise ValueError("numbers out of range")
        return points
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("%s: not used: %s", path, error)
        return {}


def save_points(path: Path | None, points: dict[int, float]) -> None:
    """Keep the measurement for the next start; a read-only or full disk is no reason to stop."""
    if path is None:
        return
    try:
        part = path.with_suffix(".part")
        part.write_text(json.dumps({str(rows): round(seconds, 6) for rows, seconds in sorted(points.items())}))
        os.replace(part, path)
    except OSError as error:
        log.warning("%s: not saved: %s", path, error.strerror)
