"""Somebody who has nothing to do with it: looks at /healthz and reads one stream after another.

In a process of its own (`python -m tests.stress.witness PORT`, until its standard input ends), so that what it sees is
the node's delay and not that of the clients that load it.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from .client import ask, get, make_chat

HEALTH_EVERY_S = 0.05
HEALTH_CLIENT, STREAM_CLIENT = 240, 241


@dataclass
class Seen:
    health_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    n_unhealthy: int = 0
    n_streams: int = 0
    n_refused: int = 0

    @property
    def health_p99_s(self) -> float:
        return percentile(self.health_s, 99)

    @property
    def longest_gap_s(self) -> float:
        return max(self.gaps_s, default=math.nan)


class Witness:
    """Use it in an `async with`; afterwards `seen` holds what it has seen."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self._port = port

    async def __aenter__(self) -> Witness:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "tests.stress.witness", str(self._port)]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 24)
        return self

    async def __aexit__(self, *_: object) -> None:
        told, _none = await self._process.communicate()
        self.seen = Seen(**json.loads(told))


async def watch(port: int) -> Seen:
    """Until standard input ends."""
    seen = Seen()
    tasks = [asyncio.create_task(_look(port, seen)), asyncio.create_task(_read(port, seen))]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


async def _look(port: int, seen: Seen) -> None:
    while True:
        started = time.monotonic()
        answer = await get(port, "/healthz", HEALTH_CLIENT, timeout_s=10)
        seen.health_s.append(time.monotonic() - started)
        seen.n_unhealthy += answer.status != 200
        await asyncio.sleep(HEALTH_EVERY_S)


async def _read(port: int, seen: Seen) -> None:
    while True:
        answer = await ask(port, make_chat("What is Llamakiln?", max_tokens=64), STREAM_CLIENT)
        if answer.status == 200 and answer.is_whole:
            seen.n_streams += 1
            seen.gaps_s.append(answer.longest_gap_s)
        else:
            seen.n_refused += 1
            await asyncio.sleep(0.2)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed (nearest rank)."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(watch(int(sys.argv[1]))))))
