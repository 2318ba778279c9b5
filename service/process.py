"""The running process: signals, notices to systemd, and an orderly end.

The main thread waits in one mailbox for what ends the process: a signal, or a fault of the engine or the server.
SIGTERM drains: /readyz says 503 at once, nothing new is taken, what was accepted gets LLM_DRAIN_S to finish, exit 0.
A second SIGTERM ends it now. Knows of engine and server only what it calls.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

from .config import Config
from .errors import EXIT_CONFIG, EXIT_SOFTWARE, ConfigError
from .log import describe
from .notice import notify

log = logging.getLogger("service")

STOP_S = 5.0  # how long a last step, and then the last bytes, may take once the drain is over

Mailbox = queue.SimpleQueue[int | BaseException]


class Engine(Protocol):
    def start(self) -> None: ...

    def drain(self) -> None: ...

    def wait_idle(self, timeout_s: float) -> bool: ...

    def stop(self, timeout_s: float) -> bool: ...


class Server(Protocol):
    port: int

    def start(self, on_fatal: Callable[[BaseException], None]) -> None: ...

    def wait_flushed(self, timeout_s: float) -> bool: ...


def open_mailbox() -> Mailbox:
    """What the signals are put into."""
    mailbox: Mailbox = queue.SimpleQueue()  # put is safe in a signal handler
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: mailbox.put(number))
    return mailbox


def serve(settings: Config, engine: Engine, server: Server, mailbox: Mailbox) -> int:
    """Start both and wait for the end. Returns the exit code."""
    address = settings.notify_socket
    notify(address, "STATUS=loading the model")
    server.start(mailbox.put)
    log.info("listening on %s port %d, model %s", settings.host, server.port, settings.model_name)
    engine.start()

    reason = mailbox.get()
    notify(address, "STOPPING=1")
    if isinstance(reason, BaseException):
        is_setting = isinstance(reason, ConfigError)
        log.critical("ending: %s", f"settings: {reason}" if is_setting else describe(reason))
        engine.stop(STOP_S)
        server.wait_flushed(STOP_S)
        return EXIT_CONFIG if is_setting else EXIT_SOFTWARE
    return drain(settings, engine, server, mailbox)


def drain(settings: Config, engine: Engine, server: Server, mailbox: Mailbox) -> int:
    """Let what was accepted finish, at most LLM_DRAIN_S, or until the next signal or fault."""
    log.info("draining: at most %d s", settings.drain_s)
    engine.drain()
    left_s = float(settings.drain_s)
    while left_s > 0 and mailbox.empty() and not engine.wait_idle(min(0.1, left_s)):
        left_s -= 0.1
    is_hurried = not mailbox.empty()
    engine.stop(0.0 if is_hurried else STOP_S)
    server.wait_flushed(0.5 if is_hurried else STOP_S)
    log.info("stopped")
    return 0


def leave(exit_code: int) -> NoReturn:
    """End the process. Engine and workers may be inside llama.cpp: Python's own end, and C++'s, would pull memory from
    under them."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
