"""The load client: asks one server on loopback for streamed completions, and notes when each piece of text arrives.

One connection and one thread per question, as separate clients would. `Client.cut` ends whatever still runs, so that a
workload has a bounded time on any server. Knows the OpenAI completions API and nothing of a particular server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .measure import Answer

CONNECT_TIMEOUT_S = 10.0
MAX_RETRY_AFTER_S = 5.0


@dataclass(frozen=True)
class Ask:
    """A question: text to continue, greedily. leaves_after: its client vanishes after so many pieces; None: never.
    schema: what the answer must be, as JSON; None: anything."""

    prompt: str
    max_tokens: int
    leaves_after: int | None = None
    schema: dict[str, Any] | None = None


class Client:
    """All the clients of one workload. health_path: what that server answers at once. clock: seconds, for tests."""

    def __init__(self, port: int, health_path: str = "/healthz", clock: Callable[[], float] = time.monotonic) -> None:
        self.health_path = health_path
        self._port = port
        self._clock = clock
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = threading.Event()

    def cut(self) -> None:
        """Nothing is asked any more, and what runs ends now."""
        with self._lock:
            self._is_cut.set()
            for sock in self._open:
                _shut(sock)

    def again(self) -> Client:
        """The same server, for another part of a workload: a cut of one does not end the other."""
        return Client(self._port, self.health_path, self._clock)

    @property
    def is_cut(self) -> bool:
        return self._is_cut.is_set()

    def ask(self, ask: Ask, on_piece: Callable[[Answer], None] = lambda answer: None) -> Answer:
        """Ask once and follow the answer to its end; on_piece is called after each piece of text.

        Never raises for what a server does: `fault` says it.
        """
        answer = Answer(sent_at=self._clock(), n_asked=ask.max_tokens)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(None)
            self._watch(connection.sock)
            self._follow(connection, ask, answer, on_piece)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.fault = f"{type(error).__name__}: {error}"
        finally:
            if connection.sock:
                with self._lock:
                    self._open.discard(connection.sock)
                _shut(connection.sock)
            connection.close()
        answer.ended_at = self._clock()
        answer.was_cut = self.is_cut and not answer.is_complete
        return answer

    def ask_patiently(self, ask: Ask) -> Answer:
        """Ask again as often as a refusal says; the wait counts, because the one who asks waits it."""
        sent_at, n_refusals = self._clock(), 0
        while True:
            answer = self.ask(ask)
            if answer.status not in (429, 503) or self.is_cut:
                answer.sent_at, answer.n_refusals = sent_at, n_refusals
                return answer
            n_refusals += 1
            self._is_cut.wait(float(answer.text or 1))

    def get(self, path: str) -> tuple[int, str, float]:
        """Status, body, seconds; status 0 if no answer came."""
        began = self._clock()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace"), self._clock() - began
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error), self._clock() - began
        finally:
            connection.close()

    def _watch(self, sock: socket.socket) -> None:
        with self._lock:
            if self.is_cut:
                raise ConnectionAbortedError("the workload has ended")
            self._open.add(sock)

    def _follow(
        self,
        connection: http.client.HTTPConnection,
        ask: Ask,
        answer: Answer,
        on_piece: Callable[[Answer], None],
    ) -> None:
        body = {
            "model": "bench",
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"json_schema": ask.schema} if ask.schema else {}),
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer.status = response.status
        if response.status != 200:
            retry_after = response.getheader("Retry-After") or ""
            answer.has_retry_after = retry_after.isdigit()
            answer.text = str(min(float(retry_after), MAX_RETRY_AFTER_S)) if answer.has_retry_after else ""
            answer.fault = response.read().decode(errors="replace")[:200]
            return
        n_counted = None
        for event in read_events(response):
            if "error" in event:
                answer.fault = str(event["error"])[:200]
            for choice in event.get("choices") or []:
                if choice.get("text"):
                    answer.pieces.append(self._clock())
                    answer.text += choice["text"]
                    on_piece(answer)
                answer.has_finished |= choice.get("finish_reason") is not None
            usage = event.get("usage") or {}
            n_counted = usage.get("completion_tokens", n_counted)
            answer.n_tokens = max(len(answer.pieces), n_counted or 0)
            if ask.leaves_after is not None and len(answer.pieces) >= ask.leaves_after:
                answer.has_vanished = True
                return


def read_events(response: http.client.HTTPResponse) -> Iterator[dict]:
    """The JSON of server-sent events as they arrive, until [DONE] or the end; comments are passed over."""
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        yield json.loads(data)


def run_closed(client: Client, asks: Sequence[Ask], n_clients: int, limit_s: float) -> list[Answer]:
    """`n_clients` that each ask the next question as soon as their last is answered, until all are asked."""
    waiting = iter(asks)
    lock = threading.Lock()

    def next_ask() -> Ask | None:
        with lock:
            return next(waiting, None)

    def live(answers: list[Answer]) -> None:
        while not client.is_cut and (ask := next_ask()):
            answers.append(client.ask_patiently(ask))

    return run_threads(client, [live] * n_clients, limit_s)


def run_open(client: Client, asks: Sequence[Ask], per_second: float, limit_s: float) -> list[Answer]:
    """Questions at fixed times, whether or not earlier ones are answered; a refused client does not come back."""
    began = time.monotonic()

    def live(at_s: float, ask: Ask) -> Callable[[list[Answer]], None]:
        def run(answers: list[Answer]) -> None:
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            answers.append(client.ask(ask))

        return run

    return run_threads(client, [live(i / per_second, ask) for i, ask in enumerate(asks)], limit_s)


def run_threads(client: Client, lives: Sequence[Callable[[list[Answer]], None]], limit_s: float) -> list[Answer]:
    """Run each life in a thread and collect what they append; after limit_s the client is cut."""
    answers: list[Answer] = []  # append is atomic
    threads = [threading.Thread(target=live, args=(answers,), daemon=True) for live in lives]
    timer = threading.Timer(limit_s, client.cut)
    timer.daemon = True
    timer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timer.cancel()
    return answers


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
