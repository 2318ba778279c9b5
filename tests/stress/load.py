"""Too much, too slow, too many: what clients do to a node that serves. Each scenario is bounded in time and number."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

from . import bodies
from .client import CHAT, Answer, address, ask, connect, get, make_chat, make_request, send
from .node import Node, raise_limits
from .verdict import FAIR_SHARE, Check, at_least, at_most, tell

STREAM = make_chat("Tell me all about the image, the pool and the load balancer.", max_tokens=96)
GOODPUT = 0.7  # of the capacity, that is left when four times as much is asked
N_STREAMS = 200
N_IDLE = 10_000
N_SLOW = 100


async def measure_capacity(node: Node, seconds: float) -> float:
    """Answers per second, with as many polite clients as keep every stream busy."""
    return await _ask_closed(node, seconds, clients=range(1000, 1016)) / seconds


async def overload(node: Node, seconds: float) -> list[Check]:
    """Requests arrive at four times the capacity, each from another address."""
    capacity = await measure_capacity(node, seconds / 2)
    rate = 4 * capacity
    numbers = itertools.count(2000)
    started = time.monotonic()
    tasks: list[asyncio.Task[Answer]] = []
    while time.monotonic() - started < seconds:
        if len(tasks) < rate * (time.monotonic() - started):
            tasks.append(asyncio.create_task(ask(node.port, STREAM, next(numbers))))
        else:
            await asyncio.sleep(0.005)
    answers = await asyncio.gather(*tasks)
    took_s = max(answer.ended_at for answer in answers) - started
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status in (429, 503)]
    return [
        tell("capacity, answers/s", f"{capacity:.1f}"),
        tell("asked, served, refused", f"{len(answers)}, {len(served)}, {len(refused)}"),
        at_least("goodput, share of capacity", len(served) / took_s / capacity, GOODPUT),
        at_most("accepted and not whole", sum(not answer.is_whole for answer in served), 0),
        at_most("neither served nor refused", len(answers) - len(served) - len(refused), 0),
        at_most("refused without Retry-After", sum(not answer.is_told_when for answer in refused), 0),
        at_most("p50 time to first text", median(a.first_at - a.sent_at for a in served if a.first_at), 60, " s"),
    ]


async def streams(node: Node, seconds: float) -> list[Check]:
    """200 clients read a stream each and come again when they are refused, as told."""
    n_whole: Counter[int] = Counter()
    n_broken: Counter[int] = Counter()

    async def read(n: int) -> None:
        while True:
            answer = await ask(node.port, STREAM, 4000 + n)
            (n_whole if answer.is_whole and answer.status == 200 else n_broken)[n] += answer.status == 200
            if answer.status != 200:
                await asyncio.sleep(1 + random.Random(n).random())

    await _for(seconds, [read(n) for n in range(N_STREAMS)])
    return [
        tell("clients, served at least once", f"{N_STREAMS}, {sum(n > 0 for n in n_whole.values())}"),
        tell("streams to the end", sum(n_whole.values())),
        at_most("streams broken off", sum(n_broken.values()), 0),
    ]


async def slow_readers(node: Node, seconds: float) -> list[Check]:
    """They ask for a stream each and read 64 bytes a second of it, all from a few addresses."""
    data = make_request(CHAT, _dump(STREAM))
    readers = [send(node.port, data, 300 + n // 10, seconds, pause_s=1.0) for n in range(N_SLOW)]
    polite = asyncio.create_task(_ask_closed(node, seconds, clients=range(400, 404)))
    answers = await asyncio.gather(*readers)
    return [
        tell("slow readers, that got text", f"{N_SLOW}, {sum(a.first_at is not None for a in answers)}"),
        at_least("answers to four polite clients", await polite, 4),
    ]


async def slowloris(node: Node, seconds: float) -> list[Check]:
    """A byte of a header, or of a body, every second, on hundreds of connections that never finish."""
    head = make_request(CHAT, b" " * 100_000).partition(b"\r\n\r\n")[0]
    n_closed: Counter[str] = Counter()

    async def drip(n: int, kind: str) -> None:
        with contextlib.suppress(OSError):
            async with connect(node.port, 500 + n // 4) as (reader, writer):
                writer.write(head[:40] if kind == "header" else head + b"\r\n\r\n{")
                while not reader.at_eof():
                    writer.write(b"x" if kind == "header" else b" ")
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(reader.read(1024), 1)
        n_closed[kind] += 1

    polite = asyncio.create_task(_ask_closed(node, seconds, clients=range(400, 404)))
    await _for(seconds, [drip(n, "header" if n % 2 else "body") for n in range(400)])
    checks = [at_least("answers to four polite clients", await polite, 4), tell("connections", 400)]
    if seconds > 20:  # client_header_timeout is 15 s
        checks.append(at_least("header drips that NGINX ended", n_closed["header"], 200))
    return checks


async def half_open(node: Node, seconds: float) -> list[Check]:
    """Clients that end their sending, that vanish in mid-stream, or that connect and say nothing."""
    data = make_request(CHAT, _dump(STREAM))
    n_halves: Counter[bool] = Counter()

    async def misbehave(n: int) -> None:
        for kind in itertools.cycle(("half", "vanish", "silent")):
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                async with connect(node.port, 700 + n) as (reader, writer):
                    if kind == "silent":
                        await asyncio.sleep(1)
                        continue  # and away
                    writer.write(data)
                    if kind == "half":
                        writer.write_eof()
                        body = await asyncio.wait_for(reader.read(), 60)
                        n_halves[b"[DONE]" in body or b"Retry-After" in body] += 1
                    else:
                        await reader.read(300)

    polite = asyncio.create_task(_ask_closed(node, seconds, clients=range(400, 404)))
    await _for(seconds, [misbehave(n) for n in range(20)])
    n_polite = await polite
    await asyncio.sleep(3)  # the node notices who vanished
    told = await get(node.port, "/status.json")
    return [
        at_least("answers to four polite clients", n_polite, 4),
        at_most("running requests of nobody", bodies.read_running(told.body), 1),  # the witness's own
        tell("half-closed clients answered, not", f"{n_halves[True]}, {n_halves[False]}"),
    ]


async def idle(node: Node, seconds: float) -> list[Check]:
    """Thousands of keep-alive connections that have asked once and say nothing more."""
    room = raise_limits() - 500
    wanted = min(N_IDLE, room // 2)  # NGINX's side is another process with the same limit
    request = make_request("/healthz", b"", "GET", close=False)
    held: list[asyncio.StreamWriter] = []
    n_answered = 0
    try:
        for n in range(wanted):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", node.port, local_addr=(address(10_000 + n % 50), 0)
            )
            held.append(writer)
            writer.write(request)
            n_answered += (await asyncio.wait_for(reader.read(4096), 10)).startswith(b"HTTP/1.1 200")
        n_polite = await _ask_closed(node, seconds / 2, clients=range(400, 404))
        n_open = sum(not writer.transport.is_closing() for writer in held)
    finally:
        for writer in held:
            writer.transport.abort()
    return [
        at_least("connections held", len(held), wanted),
        at_least("of these answered", n_answered, wanted),
        tell("still open at the end", n_open),
        at_least("answers to four polite clients beside them", n_polite, 4),
    ]


async def greedy(node: Node, seconds: float) -> list[Check]:
    """One client with as many requests as NGINX lets through, beside ten with one each. A fair share is an eleventh."""
    await _ask_closed(node, 2, clients=range(400, 410))
    alone = await _ask_closed(node, seconds / 2, clients=range(400, 410)) / (seconds / 2)
    served: Counter[int] = Counter()
    refused: Counter[int] = Counter()

    async def press(n: int, client: int) -> None:
        while True:
            answer = await ask(node.port, STREAM, client)
            (served if answer.status == 200 and answer.is_whole else refused)[client] += 1
            if answer.status != 200:
                await asyncio.sleep(0.05)

    polite = range(400, 410)
    await _for(seconds, [*(press(n, 399) for n in range(16)), *(press(0, client) for client in polite)])
    total = sum(served.values()) / seconds
    fair = seconds * total / 11
    return [
        tell("answers/s of all, of ten alone", f"{total:.1f}, {alone:.1f}"),
        tell("answers to the greedy one, fair share", f"{served[399]}, {fair:.1f}"),
        at_least("least of a polite one, share of fair", min(served[client] for client in polite) / fair, FAIR_SHARE),
        at_most("polite ones refused", sum(refused[client] for client in polite), 0),
    ]


async def poison(node: Node, seconds: float) -> list[Check]:
    """Bodies made to cost much or to break something, each from another address, two at a time."""
    thrown = [*bodies.poisonous()]
    random.Random(15).shuffle(thrown)
    return await _throw(node, 4 * seconds, thrown)


async def fuzz(node: Node, seconds: float) -> list[Check]:
    """Good bodies with bytes changed, cut, doubled and swapped: a seed tells which."""
    return await _throw(node, seconds, bodies.mutants(random.Random(15)))


async def _throw(node: Node, seconds: float, thrown: Sequence[tuple[str, str, bytes]] | bodies.Thrown) -> list[Check]:
    statuses: Counter[int] = Counter()
    odd: list[str] = []
    left = iter(thrown)
    numbers = itertools.count(5000)
    slowest = (0.0, "")

    async def work() -> None:
        nonlocal slowest
        for name, path, data in left:
            answer = await ask(node.port, data, next(numbers), path=path, timeout_s=90)
            statuses[answer.status] += 1
            slowest = max(slowest, (answer.seconds, name))
            if answer.status in (0, 500, 502, 504):
                odd.append(f"{name}: {answer.status} {answer.fault}")

    await _for(seconds, [work() for _ in range(2)])
    return [
        tell("answers by status", ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))),
        tell("slowest", f"{slowest[0]:.1f} s: {slowest[1]}"),
        Check("server errors or none at all", "; ".join(odd[:3]) or "0", "0", not odd),
    ]


async def _ask_closed(node: Node, seconds: float, clients: range) -> int:
    """How many whole answers these clients get, one question at a time each."""
    n = 0

    async def work(client: int) -> None:
        nonlocal n
        while True:
            answer = await ask(node.port, STREAM, client)
            n += answer.status == 200 and answer.is_whole
            if answer.status != 200:
                await asyncio.sleep(0.2)

    await _for(seconds, [work(client) for client in clients])
    return n


async def _for(seconds: float, work: Sequence[Awaitable[None]]) -> None:
    """Let them work so long, and end whatever still does."""
    tasks = [asyncio.ensure_future(each) for each in work]
    done, left = await asyncio.wait(tasks, timeout=seconds)
    while left:  # again: a wait_for whose time is up in the same moment passes over a cancellation (Python 3.11)
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)
    for task in done:
        if (error := task.exception()) and not isinstance(error, (OSError, asyncio.TimeoutError)):
            raise error


def _dump(body: object) -> bytes:
    return bodies.dump(body)


SCENARIOS: dict[str, Callable[[Node, float], Awaitable[list[Check]]]] = {
    "overload": overload,
    "streams": streams,
    "slow-readers": slow_readers,
    "slowloris": slowloris,
    "half-open": half_open,
    "idle": idle,
    "greedy": greedy,
    "poison": poison,
    "fuzz": fuzz,
}
