"""waitress as this service needs it: threads derived, one body limit, our error shape, and a way to see it drained.

One thread per accepted request (running and waiting) plus SPARE_THREADS, so health checks and refusals never wait
behind answers. Knows nothing of what the application does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask

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
        self.write(body)


class Channel(HTTPChannel):
    error_task_class = JsonErrorTask


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
