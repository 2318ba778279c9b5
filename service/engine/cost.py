"""What a step costs on this machine: seconds by number of rows and by what their attention reads.

The time does not grow evenly: CPU kernels work on groups of rows, so 9 rows may cost what 16 do, and 16 less than twice
8. GRID holds the sizes that have a price. Each is the lower quartile of its last moments, measured in idle time
(`calibration`) or seen in real steps: neighbours on the same cores make a step slower and never faster, so a bad minute
is outvoted, and a price that is wrong for good is corrected. What is slow just now is one factor for all sizes.

Nothing known: steps begin small, and none has more than twice the rows of the largest that was seen, so even the first
ones keep the goal. In the same way the table grows beyond what was measured, where that pays.

Knows numbers and one small file. Knows nothing of requests, models or llama.cpp. `observe`, `measured` and
`measured_cell` belong to the engine thread; the rest may be called from any thread.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import store

STATE_NAME = "steps.json"
STATE_VERSION = 2

log = logging.getLogger(__name__)

GRID = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CELL_ROWS = 32  # rows of the steps that the price of attention is found with
FIRST_ROWS = 2  # of the first step for a prompt on a machine that nothing is known of
GROWTH = 2  # a step has at most so many times the rows of the largest that was seen, and costs no more than as many
PATIENCE = 5  # a step may take so many times the goal while no stream waits: a newcomer or a farewell waits for its end
HEADROOM = 0.9  # of the goal is planned with: steps of one size differ by some per cent
ENOUGH_S = 0.4  # two steps of so long end the measuring: a request that comes meanwhile waits for the end of one
N_MEASURED = 5  # moments of a size that are kept for later starts
N_SEEN = 32  # moments that make its price
N_EVIDENCE = 8  # from so many on, its own moments count even where it is dearer than its neighbours allow
N_FACTOR = 3  # the factor follows the median of so many steps: one hiccup is not the machine
RISE, FALL = 0.5, 0.2  # how far it follows in a step: slow machines are believed at once, their recovery later
MAX_FACTOR = 8.0
LEAST_S = 1e-6  # no step is shorter: a clock that stands still tells nothing about sizes
ROW_WORTH = 1.02  # a larger step must bring this much more rows per second
MIN_STREAMS, MAX_STREAMS = 4, 16  # auto stays between: one odd measurement must not make people queue for each other
WORTH = 1.05  # a larger number of streams must bring this much more throughput


@dataclass(frozen=True)
class Measured:
    """What was found out about a machine. points: by rows, seconds of each moment it was measured at, over an empty
    cache. cell_s: seconds per row and attended cell. flash_attention: whether it is the faster kind here. None: not
    measured."""

    points: Mapping[int, Sequence[float]] = field(default_factory=dict)
    cell_s: float | None = None
    flash_attention: bool | None = None


class StepCost:
    """goal_s: how long a step may take while streams wait. max_rows: rows it can have. known: of an earlier start."""

    def __init__(self, goal_s: float, max_rows: int, known: Measured | None = None) -> None:
        known = known or Measured()
        self.goal_s = goal_s
        self._max_rows = max_rows
        self._measured = {rows: list(moments) for rows, moments in known.points.items()}
        self._seen = {rows: deque(moments, N_SEEN) for rows, moments in known.points.items()}
        self._cell_s = known.cell_s
        self._factor = 1.0
        self._ratios = deque([1.0] * N_FACTOR, N_FACTOR)
        self._n_measurable = max_rows
        self._table: tuple[tuple[int, ...], tuple[float, ...]] = (), ()  # sizes and prices, always both new
        self._price_all()

    @property
    def missing(self) -> list[int]:
        """Sizes that nobody has measured yet, smallest first. Two long steps end it: one may be odd."""
        if sum(_quartile(moments) >= ENOUGH_S for moments in self._measured.values()) >= 2:
            return []
        return [rows for rows in GRID if rows <= self._n_measurable and rows not in self._measured]

    @property
    def is_measured(self) -> bool:
        return not self.missing and self._cell_s is not None

    @property
    def points(self) -> dict[int, tuple[float, ...]]:
        """The moments at which each size was measured."""
        return {rows: tuple(moments) for rows, moments in self._measured.items()}

    @property
    def cell_s(self) -> float | None:
        return self._cell_s

    @property
    def cell_price(self) -> float:
        """What one attended cell adds to a row, as a share of the row's price; 0 if not measured."""
        seconds = self.base_s(CELL_ROWS)
        return (self._cell_s or 0.0) * CELL_ROWS / seconds if seconds else 0.0

    @property
    def table(self) -> dict[int, float]:
        """Seconds by rows over an empty cache, on the machine at rest."""
        return dict(zip(*self._table, strict=True))

    @property
    def factor(self) -> float:
        """How many times as much everything costs just now."""
        return self._factor

    def __str__(self) -> str:
        steps = " ".join(f"{rows}={seconds * 1e3:.0f}ms" for rows, seconds in self.table.items())
        return steps + (f", {self._cell_s * 1e6:.2f}ms per row and 1000 cells" if self._cell_s is not None else "")

    def observe(self, rows: int, seconds: float, n_attended: int = 0) -> None:
        """A step took so long; n_attended: cells that its rows read, all in all."""
        attention_s = (self._cell_s or 0.0) * n_attended
        place = bisect_left(GRID, rows)
        high_s = self.base_s(rows)
        if high_s is not None:
            low_s = high_s if rows in GRID or not place else min(self.base_s(GRID[place - 1]) or high_s, high_s)
            self._follow(seconds / (high_s + attention_s), seconds / (low_s + attention_s))
        if place == len(GRID):
            return
        size = GRID[place]
        if rows == size or size not in self._seen:  # a size never seen costs at most in proportion
            own_s = max(seconds - attention_s, seconds / 4) * size / rows
            self._seen.setdefault(size, deque(maxlen=N_SEEN)).append(max(own_s, LEAST_S))
            self._price_all()

    def measured(self, rows: int, seconds: float) -> None:
        """It was measured on purpose, at one moment more."""
        seconds = max(seconds, LEAST_S)
        self._measured[rows] = [*self._measured.get(rows, ()), seconds][-N_MEASURED:]
        self._seen.setdefault(rows, deque(maxlen=N_SEEN)).append(seconds)
        self._price_all()

    def measured_cell(self, seconds: float) -> None:
        """Each cell that a row attends to makes a step so much longer; measured again, the mean counts."""
        self._cell_s = seconds if self._cell_s is None else (self._cell_s + seconds) / 2

    def leave_out(self, rows: int) -> None:
        """Steps of so many rows and more cannot be measured here."""
        self._n_measurable = rows - 1

    def base_s(self, rows: int) -> float | None:
        """Time of a step over an empty cache on the machine at rest: of the next size that has a price; below the
        smallest in proportion, beyond the largest on the line through the last two. None: nothing known."""
        sizes, prices = self._table
        if not sizes:
            return None
        place = bisect_left(sizes, rows)
        if place < len(sizes):
            return prices[place] * (min(rows / sizes[0], 1.0) if not place else 1.0)
        size, seconds = sizes[-1], prices[-1]
        per_row = seconds / size
        slope = (seconds - prices[-2]) / (size - sizes[-2]) if len(sizes) > 1 else per_row
        return seconds + (rows - size) * min(max(slope, per_row / 2), per_row)

    def seconds(self, rows: int, n_attended: int = 0) -> float | None:
        """Expected time of a step now."""
        base_s = self.base_s(rows)
        return None if base_s is None else self._factor * (base_s + (self._cell_s or 0.0) * n_attended)

    def dearest_s(self) -> float:
        """Time now of the dearest step that was measured or seen; 0 if none was."""
        return self._factor * max(self._table[1], default=0.0)

    def budget(self, n_streams: int, limit_s: float, n_cells: int = 0) -> int:
        """Rows that the next step should have, n_streams of them for streams: the fewest that come within
        ROW_WORTH of the most rows per second within the limit, because a larger step only keeps others waiting.
        n_streams if there is no time for one more. n_cells: that each row attends to."""
        known, _ = self._table
        most = min(GROWTH * known[-1] if known else n_streams + FIRST_ROWS, self._max_rows)
        sizes = [rows for rows in GRID if n_streams < rows < most] + [most] * (most > n_streams)
        priced = [(rows, self.seconds(rows, rows * n_cells) or LEAST_S) for rows in sizes]
        fitting = [(rows, seconds) for rows, seconds in priced if seconds <= limit_s]
        if not fitting:
            return n_streams
        best = max(rows / seconds for rows, seconds in fitting)
        return next(rows for rows, seconds in fitting if rows / seconds * ROW_WORTH >= best)

    def limit_s(self, n_streams: int, n_cells: int = 0) -> float:
        """How long a step may be planned to take while so many streams wait: the goal, or what their own rows take; on
        a machine whose one row takes more than half of the goal, this row's time more. PATIENCE goals while none
        waits."""
        if not n_streams:
            return self.goal_s * HEADROOM * PATIENCE
        row_s = self.seconds(1, n_cells) or 0.0
        limit_s = self.goal_s * HEADROOM + (row_s if row_s > self.goal_s / 2 else 0.0)
        return max(limit_s, self.seconds(n_streams, n_streams * n_cells) or 0.0)

    def row_s(self) -> float | None:
        """Seconds per prompt token in the steps that `budget` makes."""
        rows = max(self.budget(0, self.limit_s(1)), 1)
        seconds = self.seconds(rows)
        return seconds / rows if seconds else None

    def choose_streams(self) -> int:
        """How many answers at once: the fewest that come within WORTH of the best throughput inside the goal."""
        sizes = [rows for rows in sorted(self._measured) if rows <= MAX_STREAMS]
        points = [(rows, seconds) for rows in sizes if (seconds := self.seconds(rows) or 0) <= self.goal_s]
        if not points:
            return MIN_STREAMS if sizes else MAX_STREAMS
        if any(max(sizes) < rows <= MAX_STREAMS for rows in self.missing):  # larger ones may be found to pay
            return MAX_STREAMS
        best = max(rows / seconds for rows, seconds in points)
        return max(next(rows for rows, seconds in points if rows / seconds * WORTH >= best), MIN_STREAMS)

    def _follow(self, least: float, most: float) -> None:
        """A step was between `least` and `most` times as long as the table says: move the factor to where both agree.
        Between two sizes the table says no more than that."""
        self._ratios.append(min(max(self._factor, least), most))
        target = sorted(self._ratios)[len(self._ratios) // 2]
        pace = RISE if target > self._factor else FALL
        factor = self._factor * (target / self._factor) ** pace
        self._factor = min(max(factor, 1.0), MAX_FACTOR)

    def _price_all(self) -> None:
        """One new table, put in place at once: other threads read it.

        A size with little evidence is as much dearer than measured as all that have more, and costs neither more than a
        larger one nor more than two of half its rows.
        """
        sizes = tuple(sorted(self._seen))
        own = {rows: _quartile(self._seen[rows]) for rows in sizes}
        is_proven = {rows: len(self._seen[rows]) >= N_EVIDENCE for rows in sizes}
        both = [rows for rows in self._measured if is_proven[rows]]
        dearer = [own[rows] / _quartile(self._measured[rows]) for rows in both]
        shared = max(min(dearer, default=1.0), 1.0)
        prices = [own[rows] * (1.0 if is_proven[rows] else shared) for rows in sizes]
        for i in reversed(range(len(sizes) - 1)):
            if not is_proven[sizes[i]]:
                prices[i] = min(prices[i], prices[i + 1])
        for i, rows in enumerate(sizes):
            half = bisect_left(sizes, -(-rows // 2))
            if not is_proven[rows] and half < i:
                prices[i] = min(prices[i], 2 * prices[half])
        self._table = sizes, tuple(prices)


def _quartile(moments: Sequence[float]) -> float:
    """The lower one."""
    return sorted(moments)[(len(moments) - 1) // 4]


def load(path: Path | None) -> Measured:
    """What an earlier start measured; nothing if there is nothing, or nothing that makes sense."""
    if path is None:
        return Measured()
    try:
        found = json.loads(path.read_text())
        if found["version"] != STATE_VERSION:
            raise ValueError(f"version {found['version']}, and this release reads {STATE_VERSION}")
        points = {int(rows): [float(seconds) for seconds in moments] for rows, moments in found["steps"].items()}
        cell_s = None if found["cell_s"] is None else float(found["cell_s"])
        if not all(rows in GRID and 1 <= len(moments) <= N_MEASURED for rows, moments in points.items()):
            raise ValueError("sizes or counts out of range")
        if not all(0 < seconds < 3600 for moments in points.values() for seconds in moments):
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
    steps = {str(rows): [round(s, 6) for s in moments] for rows, moments in sorted(measured.points.items())}
    found = {"steps": steps, "cell_s": measured.cell_s, "flash_attention": measured.flash_attention}
    text = json.dumps({"version": STATE_VERSION, **found})
    try:
        store.write(path, text.encode())
    except OSError as error:
        log.warning("%s: not saved: %s", path, error.strerror)
