"""Somebody who has nothing to do with it: looks at /healthz and reads one stream after another."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

from .client import ask, get, make_chat
from .node import Node

HEALTH_EVERY_S = 0.05
HEALTH_CLIENT, STREAM_CLIENT = 240, 241


class Witness:
    """Use it in an `async with`; afterwards it has seen what it has seen."""

    def __init__(self, node: Node) -> None:
        self.health_s: list[float] = []
        self.n_unhealthy = 0
        self.gaps_s: list[float] = []
        self.n_streams = self.n_refused = 0
        self._node = node
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Witness:
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._read())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def health_p99_s(self) -> float:
        return percentile(self.health_s, 99)

    @property
    def longest_gap_s(self) -> float:
        return max(self.gaps_s, default=math.nan)

    async def _look(self) -> None:
        while True:
            started = time.monotonic()
            answer = await get(self._node.port, "/healthz", HEALTH_CLIENT, timeout_s=10)
            self.health_s.append(time.monotonic() - started)
            self.n_unhealthy += answer.status != 200
            await asyncio.sleep(HEALTH_EVERY_S)

    async def _read(self) -> None:
        while True:
            answer = await ask(self._node.port, make_chat("What is Llamakiln?", max_tokens=64), STREAM_CLIENT)
            if answer.status == 200 and answer.is_whole:
                self.n_streams += 1
                self.gaps_s.append(answer.longest_gap_s)
            else:
                self.n_refused += 1
                await asyncio.sleep(0.2)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed (nearest rank)."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
