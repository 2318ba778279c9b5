"""Choose which requests get tokens in the next step.

Each running request has a gap: how many of its tokens are not computed yet. A gap of one is a stream that waits for its
next token; a longer gap is a prompt. There is no other difference. Gaps of one go first, and prompts fill the step up
to what the prices say is best within the goal, so a long prompt never stalls a stream. Where streams alone fill the
goal, prompts get steps of their own, so that SHARE of the time is theirs, and streams never starve a prompt.

Knows gaps as integers, and prices. Knows nothing of text, HTTP, threads, clocks or llama.cpp. `plan` belongs to the
engine thread; the rest may be called from any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .cost import GRID, StepCost

SHARE = 0.25  # of the time that is sure to prompts while streams wait
OLDEST_SHARE = 4  # the oldest prompt is sure of a quarter of the room, the rest goes to the shortest


@dataclass(frozen=True)
class Mix:
    """The next step while prompts wait: n_beside prompt rows beside the streams take step_s; n_alone in a step of their
    own take alone_s. owed_s: what the former leaves prompts short of SHARE; paid_s: what the latter gives beyond."""

    n_beside: int
    step_s: float
    n_alone: int
    alone_s: float

    @property
    def owed_s(self) -> float:
        return SHARE * self.step_s - self.n_beside * self.alone_s / self.n_alone

    @property
    def paid_s(self) -> float:
        return (1 - SHARE) * self.alone_s


class Scheduler:
    """max_rows: rows that a step can have, more than there are ever streams."""

    def __init__(self, cost: StepCost, max_rows: int) -> None:
        self._cost = cost
        self._max_rows = max_rows
        self._owed_s = 0.0  # time that prompts are short of their share

    def plan(self, gaps: Sequence[int], n_cells: int = 0) -> list[int]:
        """Rows for each gap, in the same order; gaps are given oldest first and are 1 or more. n_cells: that each row
        attends to."""
        n_streams = gaps.count(1)
        assert n_streams < self._max_rows, f"{n_streams} streams in a step of {self._max_rows} rows"
        n_wanted = sum(gaps) - n_streams
        if not n_wanted:
            self._owed_s = 0.0
            return list(gaps)
        mix = self.mix(n_streams, n_wanted, n_cells)
        is_theirs = not n_streams or (self._owed_s >= mix.paid_s and mix.owed_s > 0)
        self._owed_s = max(self._owed_s + (-mix.paid_s if is_theirs else mix.owed_s), 0.0)
        prompts = share_out([gap if gap > 1 else 0 for gap in gaps], mix.n_alone if is_theirs else mix.n_beside)
        return [int(gap == 1 and not (is_theirs and n_streams)) or n for gap, n in zip(gaps, prompts, strict=True)]

    def mix(self, n_streams: int, n_wanted: int, n_cells: int = 0) -> Mix:
        """n_wanted: rows of all prompts together, 1 or more."""
        limit_s = self._cost.limit_s(n_streams, n_cells)
        n_beside = self._choose(n_streams, n_wanted, n_cells, limit_s) if n_streams else 0
        n_alone = max(self._choose(0, n_wanted, n_cells, limit_s), 1)
        return Mix(n_beside, self._price(n_streams + n_beside, n_cells), n_alone, self._price(n_alone, n_cells))

    def cut(self, mix: Mix, n_streams: int, n_wanted: int, n_cells: int = 0) -> Mix:
        """The same mix where prompts want no more than n_wanted rows."""
        if n_wanted >= max(mix.n_beside, mix.n_alone):
            return mix
        n_beside, n_alone = min(mix.n_beside, n_wanted), min(mix.n_alone, n_wanted)
        return Mix(n_beside, self._price(n_streams + n_beside, n_cells), n_alone, self._price(n_alone, n_cells))

    def _choose(self, n_streams: int, n_wanted: int, n_cells: int, limit_s: float) -> int:
        """Prompt rows for a step of n_streams. What two steps would finish is cut where both cost least together: a
        tail of one row may cost as much as five."""
        room = self._cost.budget(n_streams, limit_s, n_cells) - n_streams
        if n_wanted <= room or n_wanted > 2 * room:
            return min(n_wanted, room)
        edges = [size - n_streams for size in GRID]
        firsts = {room, n_wanted, *edges, *(n_wanted - edge for edge in edges)}
        cuts = []
        for first in firsts:
            if 0 < first <= n_wanted and n_streams + first <= self._max_rows:
                both = [self._price(n_streams + n, n_cells) for n in (first, n_wanted - first)]
                if first == room or max(both) <= limit_s:
                    cuts.append((sum(both), -first))
        return -min(cuts)[1]

    def _price(self, rows: int, n_cells: int) -> float:
        return (self._cost.seconds(rows, rows * n_cells) or 0.0) if rows else 0.0


def share_out(gaps: Sequence[int], room: int) -> list[int]:
    """Rows for each prompt, oldest first; a gap of 0 gets none. A quarter goes to the oldest, the rest to the
    shortest."""
    rows = [0] * len(gaps)
    prompts = [i for i, gap in enumerate(gaps) if gap]
    if not prompts:
        return rows
    oldest = prompts[0]
    rows[oldest] = min(gaps[oldest], -(-room // OLDEST_SHARE))
    room -= rows[oldest]
    for i in sorted(prompts, key=lambda i: (gaps[i], i)):
        more = min(gaps[i] - rows[i], room)
        rows[i] += more
        room -= more
    return rows
