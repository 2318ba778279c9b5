"""The running process: engine, application and server wired together; signals; notices to systemd.

The main thread waits in one mailbox for what ends the process: a signal, or a fault of the engine or the server.
SIGTERM drains: /readyz says 503 at once, nothing new is taken, what was accepted gets LLM_DRAIN_S to finish, exit 0.
A second SIGTERM ends it now.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
from collections.abc import Callable

from . import app, cost, keys, machine
from .config import Config
from .engine import Engine, Limits
from .errors import EXIT_SOFTWARE
from .metrics import Metrics
from .model import Model
from .notice import Heartbeat, notify
from .server import Server
from .status import Status

log = logging.getLogger("service")

STOP_S = 5.0  # how long a last step, and then the last bytes, may take once the drain is over


def serve(settings: Config, load_model: Callable[[], Model], api_keys: keys.Keys) -> int:
    mailbox: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()  # put is safe in a signal handler
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: mailbox.put(number))

    address = settings.notify_socket
    metrics = Metrics()
    status = Status(metrics)
    heartbeat = Heartbeat(address, settings.watchdog_s)

    def beat(now: float) -> None:
        heartbeat.beat(now)
        status.beat(now)

    engine = Engine(
        load_model,
        limits=make_limits(settings),
        metrics=metrics,
        state_path=lambda name: machine.state_path(settings, name),
        on_ready=lambda: notify(address, "READY=1\nSTATUS=ready"),
        on_fatal=mailbox.put,
        on_beat=beat,
    )
    try:
        server = Server(
            app.make_app(settings, engine, metrics, keys=api_keys, status=status),
            host=settings.host,
            port=settings.port,
            max_streams=(settings.max_streams or cost.MAX_STREAMS) + settings.max_queue,
            max_body_bytes=settings.max_body_bytes,
        )
    except OSError as error:
        log.critical("LLM_HOST=%s LLM_PORT=%d: cannot listen: %s", settings.host, settings.port, error.strerror)
        return EXIT_SOFTWARE
    notify(address, "STATUS=loading the model")
    server.start(mailbox.put)
    log.info("listening on %s port %d, model %s", settings.host, server.port, settings.model_name)
    engine.start()

    reason = mailbox.get()
    notify(address, "STOPPING=1")
    if isinstance(reason, BaseException):
        log.critical("ending: %s: %s", type(reason).__name__, reason)
        engine.stop(STOP_S)
        server.wait_flushed(STOP_S)
        return EXIT_SOFTWARE
    return drain(settings, engine, server, mailbox)


def drain(settings: Config, engine: Engine, server: Server, mailbox: queue.SimpleQueue[int | BaseException]) -> int:
    """Let what was accepted finish, at most LLM_DRAIN_S, or until the next signal or fault."""
    log.info("draining: at most %d s", settings.drain_s)
    engine.drain()
    left_s = float(settings.drain_s)
    while left_s > 0 and mailbox.empty() and not engine.wait_idle(min(0.1, left_s)):
        left_s -= 0.1
    is_hurried = not mailbox.empty()
    is_stopped = engine.stop(0.0 if is_hurried else STOP_S)
    server.wait_flushed(0.5 if is_hurried else STOP_S)
    log.info("stopped")
    if not is_stopped:  # the engine is inside llama.cpp: Python's own end would pull memory from under it
        logging.shutdown()
        os._exit(0)
    return 0


def make_limits(settings: Config) -> Limits:
    return Limits(
        max_streams=settings.max_streams,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        max_wait_s=settings.max_wait_s,
        timeout_s=settings.request_timeout_s,
        step_s=settings.step_ms / 1e3,
        speculates=settings.speculate != "off",
        system_prompt=settings.system_prompt,
    )
