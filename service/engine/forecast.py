"""When will each waiting request have its first token? The schedule, run forward.

Between two events (a prompt is computed, an answer ends) the scheduler's mix stays the same, so each event takes one
turn of the loop: at most two for each request, MAX_EVENTS in all, whatever the prompts' lengths. Each turn looks at the
running requests only.

Knows gaps, expected lengths and the scheduler's rule. Knows nothing of requests, threads or the cache. Any thread may
call it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .scheduler import Mix, Scheduler, share_out

MANY = 1 << 20  # prompt rows: more than any two steps hold
MAX_EVENTS = 256  # who is not reached by then waits longer than whoever was


@dataclass
class Load:
    """n_gap: tokens to compute until the next is sampled. n_left: tokens that will be sampled, as far as is known."""

    n_gap: float
    n_left: float


def first_tokens_s(
    scheduler: Scheduler, running: Iterable[Load], waiting: Iterable[Load], max_streams: int, n_cells: int = 0
) -> list[float]:
    """Seconds until the first token of each of the waiting, which begin in this order. n_cells: that a row attends to.
    Uses up the loads it is given."""
    begun, queue = list(running), list(waiting)
    found: dict[int, float] = {}
    mixes: dict[tuple[int, int], Mix] = {}
    n_begun = 0
    now = 0.0
    for _ in range(MAX_EVENTS):
        n_new = max(max_streams - len(begun), 0)
        begun += queue[n_begun : n_begun + n_new]
        n_begun = min(n_begun + n_new, len(queue))
        prompts = [load for load in begun if load.n_gap > 1]
        streams = [load for load in begun if load.n_gap <= 1]
        if not begun or (n_begun == len(queue) and all(id(load) in found for load in queue)):
            break
        key = len(streams), MANY if prompts else 0
        mix = mixes[key] = mixes.get(key) or scheduler.mix(*key, n_cells)
        if prompts:
            mix = scheduler.cut(mix, len(streams), math.ceil(sum(load.n_gap for load in prompts)), n_cells)
        turn_s, n_tokens, n_rows = _pace(mix, has_streams=bool(streams), has_prompts=bool(prompts))
        shares = share_out([math.ceil(load.n_gap) for load in prompts], max(math.ceil(n_rows), 1))
        paces = [n_rows * share / max(sum(shares), 1) for share in shares]
        turns = [load.n_gap / pace for load, pace in zip(prompts, paces, strict=True) if pace]
        turns += [load.n_left / n_tokens for load in streams if n_tokens]
        n_turns = max(min(turns), 1.0)
        now += n_turns * turn_s
        for load in streams:
            load.n_left -= n_tokens * n_turns
        for load, pace in zip(prompts, paces, strict=True):
            load.n_gap -= pace * n_turns
            if load.n_gap <= 1:  # the last row of a prompt counts as computed, or it would pass for a stream
                load.n_gap, load.n_left = 1, load.n_left - 1
                found[id(load)] = now
        begun = [load for load in begun if load.n_gap > 1 or load.n_left >= 0.5]
    return [found.get(id(load), now) for load in queue]


def _pace(mix: Mix, *, has_streams: bool, has_prompts: bool) -> tuple[float, float, float]:
    """Of a turn: its seconds, tokens of each stream, rows of all prompts. Where prompts get steps of their own, a turn
    is one of these and the steps between two."""
    if not has_prompts:
        return mix.step_s, 1, 0
    if not has_streams:
        return mix.alone_s, 0, mix.n_alone
    if mix.owed_s <= 0:
        return mix.step_s, 1, mix.n_beside
    n_steps = mix.paid_s / mix.owed_s
    return n_steps * mix.step_s + mix.alone_s, n_steps, n_steps * mix.n_beside + mix.n_alone
