"""The HTTP thread's end of an answer: waits for events, notices that the client went away, writes them as SSE."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from ..engine.engine import Engine
from ..errors import ClientGone
from ..request import Done, Event, Piece, Progress, Request
from . import reply as reply_room
from .reply import Reply

HALF_CLOSED_S = 1.0


class Watch:
    """The HTTP thread's end of an answer: waits for the events of its requests, and cancels them all when the client is
    gone or one of them failed. They share one queue of events."""

    def __init__(
        self,
        engine: Engine,
        requests: list[Request],
        is_client_gone: Callable[[], bool],
        poll_s: float,
        is_half_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self.requests = requests
        self._engine = engine
        self._is_client_gone, self._is_half_closed = is_client_gone, is_half_closed
        self._poll_s = poll_s
        self._is_closed = False

    def next_event(self, timeout_s: float | None) -> Event | None:
        """The next event, or None after timeout_s without one: sooner if the client has ended its sending, because only
        what is written to it tells whether it is there. Raises ClientGone, and has cancelled then."""
        waited_s = 0.0
        while True:
            if self._is_client_gone():
                self.close()
                raise ClientGone("the client went away")
            if timeout_s is not None and self._is_half_closed():
                timeout_s = min(timeout_s, HALF_CLOSED_S)
            left_s = self._poll_s if timeout_s is None else min(self._poll_s, timeout_s - waited_s)
            try:
                return self.requests[0].events.get(timeout=max(left_s, 0.001))
            except queue.Empty:
                waited_s += left_s
                if timeout_s is not None and waited_s >= timeout_s:
                    return None

    def close(self) -> None:
        """Frees the engine of what still waits or runs; otherwise nothing. Safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            for request in self.requests:
                self._engine.cancel(request)


class Stream:
    """Server-sent events of one answer. A class, because a generator that was never begun runs no clean-up on close."""

    def __init__(self, watch: Watch, reply: Reply, first: Event | None, ping_s: float) -> None:
        self._watch = watch
        self._chunks = self._write(reply, first, ping_s)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._chunks.close()
        self._watch.close()

    def _write(self, reply: Reply, event: Event | None, ping_s: float) -> Iterator[bytes]:
        try:
            yield from map(reply_room.sse, reply.opening())
            while True:
                if event is None:
                    yield reply_room.SSE_PING
                elif isinstance(event, Progress):
                    yield reply_room.sse(reply.progress(event))
                elif isinstance(event, Piece):
                    yield reply_room.sse(reply.piece(event))
                elif isinstance(event, Done):
                    yield from map(reply_room.sse, reply.closing(event))
                    if reply.is_complete:
                        yield reply_room.SSE_END
                        return
                else:
                    self._watch.close()
                    yield reply_room.sse(reply_room.error_body(event.error))
                    return
                event = self._watch.next_event(ping_s)
        except ClientGone:
            return
        finally:
            self._watch.close()
