"""waitress as this service needs it: threads derived, one body limit, our error shape, and a way to see it drained.

One thread per accepted request (running and waiting) plus SPARE_THREADS, so health checks and refusals never wait
behind answers. Knows nothing of what the application does.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask

from ..errors import BadRequest, BodyTooLarge, ServiceError
from . import reply

log = logging.getLogger(__name__)

SPARE_THREADS = 8
MAX_CONNECTIONS = 1000
MAX_HEADER_BYTES = 32 << 10


class JsonErrorTask(ErrorTask):
    """What waitress itself refuses, before the application is asked, in the shape of all other errors."""

    def execute(self) -> None:
        fault = self.request.error
        if fault.code == 413:
            limit = self.channel.adj.max_request_body_size
            error: ServiceError = BodyTooLarge(f"the body has more than {limit} bytes")
        elif fault.code < 500:
            error = BadRequest(f"{fault.reason}: {fault.body}"[:200], code="invalid_http")
        else:
            error = ServiceError(f"{fault.reason}: {fault.body}"[:200], code="invalid_http")
        body = reply.dump(reply.error_body(error)).encode()
        self.status = f"{fault.code} {fault.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        is_head = getattr(self.request, "first_line", b"").startswith(b"HEAD ")
        self.write(b"" if is_head else body)


class Task(WSGITask):
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ["llm.is_half_closed"] = lambda: self.channel.is_half_closed
        return environ


class Parser(HTTPRequestParser):
    """Some lines that nobody can read (`GET http://[`, a length of 5000 digits) raise what waitress does not catch."""

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("the request line or a header cannot be read") from error


class Channel(HTTPChannel):
    """A client may end its sending (shutdown(SHUT_WR)) and wait for its answer. What we see of one that is gone is the
    same, until something is sent to it: then its machine says that nobody is there. So from that end on the first bytes
    of the status line, which every answer begins with, are sent one by one, in ever longer intervals."""

    task_class = Task
    error_task_class = JsonErrorTask
    parser_class = Parser
    is_half_closed = False
    _n_probes = 0  # bytes of the answer that were sent before there is one
    _next_probe_at = 0.0
    _has_begun = False  # whether the answer is being written

    def readable(self) -> bool:
        return not self.is_half_closed and bool(super().readable())

    def handle_read(self) -> None:
        with self.requests_lock:
            self.is_half_closed = bool(self.requests) and self._has_ended()
        if not self.is_half_closed:
            super().handle_read()

    def check_client_disconnected(self) -> bool:
        """Whether nobody will read the answer. Asked by the thread that makes it, and by no other."""
        if self.connected and self.is_half_closed and not self._is_there():
            self.will_close = True
            self.connected = False
            self.server.pull_trigger()
        return not self.connected

    def write_soon(self, data: Any) -> int:
        if not self._has_begun and data:
            self._has_begun = True
            data = data[self._n_probes :]
        return int(super().write_soon(data))

    def service(self) -> None:
        self._n_probes, self._next_probe_at, self._has_begun = 0, 0.0, False
        super().service()
        with self.requests_lock:
            if self.is_half_closed and not self.requests:  # nothing more can come
                self.close_when_flushed = True
        if self.connected and self.close_when_flushed:
            self.server.pull_trigger()

    def _has_ended(self) -> bool:
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return False

    def _is_there(self) -> bool:
        try:
            now = time.monotonic()
            line = b"HTTP/1.1 " if self.requests[0].version == "1.1" else b"HTTP/1.0 "
            is_free = not self._has_begun and not self.total_outbufs_len and self._n_probes < len(line)
            if is_free and now >= self._next_probe_at:
                self.socket.send(line[self._n_probes : self._n_probes + 1])
                self._n_probes += 1
                self._next_probe_at = now + 2**self._n_probes
            poll = select.poll()
            poll.register(self.socket, 0)  # errors are told unasked
            return not poll.poll(0)
        except BlockingIOError:
            return True
        except (OSError, ValueError, AttributeError):  # the loop has closed it meanwhile
            return False


class Server(TcpWSGIServer):
    """Listens as soon as it is made; `start` begins to answer in a thread of its own."""

    channel_class = Channel

    def __init__(
        self, app: Callable[..., Any], *, host: str, port: int, max_accepted: int, max_body_bytes: int
    ) -> None:
        super().__init__(
            app,
            listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            threads=max_accepted + SPARE_THREADS,
            connection_limit=MAX_CONNECTIONS,
            max_request_body_size=max_body_bytes + 1,  # waitress refuses from this size on, not above it
            max_request_header_size=MAX_HEADER_BYTES,
            inbuf_overflow=max_body_bytes + 1,  # above it waitress would write prompts to a temporary file
            channel_request_lookahead=1,  # without it waitress never notices a vanished client
            asyncore_use_poll=True,  # select() fails above 1024 descriptors
            log_socket_errors=False,
            ident="",
        )

    @property
    def port(self) -> int:
        return int(self.effective_port)

    def start(self, on_fatal: Callable[[BaseException], None]) -> None:
        def live() -> None:
            try:
                self.run()
                raise RuntimeError("waitress stopped serving")
            except BaseException as error:
                on_fatal(error)

        threading.Thread(target=live, name="waitress", daemon=True).start()

    def wait_flushed(self, timeout_s: float) -> bool:
        """Wait until no answer is being written any more. Returns False if the time was too short."""
        deadline = time.monotonic() + timeout_s
        while self._is_writing():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _is_writing(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in list(self.active_channels.values()))
