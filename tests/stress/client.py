"""Clients as the node meets them: well-behaved ones, and raw sockets for the others.

Each has an address of its own in 127.0.0.0/8, which NGINX takes for another client. Never raises for what a node does:
`fault` says it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
TIMEOUT_S = 60.0


@dataclass
class Answer:
    """status 0: none came. is_whole: the body came to its end. longest_gap_s: between two events."""

    sent_at: float
    status: int = 0
    head: str = ""
    first_at: float | None = None
    ended_at: float = 0.0
    longest_gap_s: float = 0.0
    n_events: int = 0
    is_whole: bool = False
    fault: str = ""
    body: bytes = b""

    @property
    def seconds(self) -> float:
        return self.ended_at - self.sent_at

    @property
    def is_told_when(self) -> bool:
        """Whether a refusal says when to come back."""
        return bool(re.search(r"^Retry-After: \d+\r?$", self.head, re.M | re.I))


def address(n: int) -> str:
    """The n-th client's; 127.0.0.1 is nobody's."""
    return f"127.{1 + n // 62500}.{n // 250 % 250}.{1 + n % 250}"


def make_chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "stream": True, **more}


def make_request(path: str, body: bytes, method: str = "POST", close: bool = True, more: str = "") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    return (head + ("Connection: close\r\n" if close else "") + more + "\r\n").encode() + body


@asynccontextmanager
async def connect(port: int, n: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address(n), 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def get(port: int, path: str, n: int = 0, timeout_s: float = TIMEOUT_S) -> Answer:
    return await send(port, make_request(path, b"", "GET"), n, timeout_s)


async def ask(port: int, body: Any, n: int = 0, *, path: str = CHAT, timeout_s: float = TIMEOUT_S) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await send(port, make_request(path, data), n, timeout_s)


async def send(port: int, data: bytes, n: int = 0, timeout_s: float = TIMEOUT_S, pause_s: float = 0.0) -> Answer:
    """pause_s: how long this reader sleeps between two reads of at most 64 bytes."""
    answer = Answer(time.monotonic())
    try:
        await asyncio.wait_for(_follow(answer, port, data, n, pause_s), timeout_s)
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
        answer.fault = type(error).__name__
    answer.ended_at = time.monotonic()
    return answer


async def _follow(answer: Answer, port: int, data: bytes, n: int, pause_s: float) -> None:
    async with connect(port, n) as (reader, writer):
        writer.write(data)
        received = bytearray()
        last = None
        while chunk := await reader.read(64 if pause_s else 65536):
            now = time.monotonic()
            received += chunk
            n_events = chunk.count(b"data: ")
            if n_events and last is not None:
                answer.longest_gap_s = max(answer.longest_gap_s, now - last)
            if n_events:
                answer.first_at, last = answer.first_at or now, now
                answer.n_events += n_events
            if pause_s:
                await asyncio.sleep(pause_s)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    answer.head, answer.body = head.decode("latin-1"), body
    found = re.match(r"HTTP/1\.[01] (\d{3})", answer.head)
    answer.status = int(found[1]) if found else 0
    length = re.search(r"^Content-Length: (\d+)", answer.head, re.M | re.I)
    answer.is_whole = len(body) == int(length[1]) if length else body.endswith(b"0\r\n\r\n")
