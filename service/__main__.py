"""`python -m service`: read the settings, begin to load the model, wire the floors together, run the process.

Loading is most of a cold start and happens inside llama.cpp, so it begins in a thread of its own before the web
libraries are imported: on two cores they cost nothing then. What it needs of Python comes before that thread, because
two threads that both want Python wait for each other.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import config
from .api import keys
from .config import Config
from .engine import cost
from .engine.admission import reserve
from .engine.cost import Measured
from .errors import EXIT_CONFIG, EXIT_SOFTWARE, ConfigError
from .llama import library, machine
from .llama.binding import import_binding
from .llama.model import MIN_SEQUENCES, LlamaModel, read_ahead
from .log import write_to_stderr
from .protocol import Model

if TYPE_CHECKING:
    from .engine.engine import Limits

log = logging.getLogger("service")

# Python's 5 ms are how long a thread that comes back from llama.cpp may wait for one that imports or writes: of the
# dozens of short calls while a model loads that took 0.06 s of a cold start (2 cores of an AMD EPYC, November 2026).
SWITCH_S = 5e-4


Load = Callable[[], Model]


def main(arguments: Sequence[str], environ: Mapping[str, str], prepare: Callable[[Config], Load]) -> int:
    """prepare: makes what loads the model; that runs in a thread. Raises ConfigError if the settings are wrong."""
    if list(arguments) == ["--env"]:
        print(config.describe_file(), end="")
        return 0
    if arguments:
        print("usage: python -m service [--help | --env]\n\n" + config.describe())
        return 0 if list(arguments) in (["--help"], ["-h"]) else EXIT_CONFIG
    try:
        settings = config.load(environ)
        api_keys = keys.load(settings.api_keys_file)
        write_to_stderr(settings.log_level)
        loading = Loading(prepare(settings))
    except ConfigError as error:
        for fault in error.faults:
            print(f"settings: {fault}", file=sys.stderr)
        return EXIT_CONFIG
    sys.setswitchinterval(SWITCH_S)

    return run(settings, loading.wait, api_keys)


def run(settings: Config, load_model: Load, api_keys: keys.Keys) -> int:
    """Engine, application and server, wired together, in a running process. Returns its exit code."""
    from .api.app import make_app
    from .api.server import Server
    from .api.status import Status
    from .engine.engine import Engine
    from .metrics import Metrics
    from .notice import Heartbeat, notify
    from .process import open_mailbox, serve

    mailbox = open_mailbox()
    address = settings.notify_socket
    metrics = Metrics()
    status = Status(metrics, library_set=library.read_chosen(), binding=library.read_binding_version())
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
            make_app(settings, engine, metrics, keys=api_keys, status=status),
            host=settings.host,
            port=settings.port,
            max_accepted=(settings.max_streams or cost.MAX_STREAMS) + settings.max_queue + reserve(settings.max_queue),
            max_body_bytes=settings.max_body_bytes,
        )
    except OSError as error:
        log.critical("LLM_HOST=%s LLM_PORT=%d: cannot listen: %s", settings.host, settings.port, error.strerror)
        return EXIT_SOFTWARE
    return serve(settings, engine, server, mailbox)


def make_limits(settings: Config) -> Limits:
    """The engine's part of the settings."""
    from .engine.engine import Limits

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


def prepare_llama(settings: Config, *, n_sequences: int | None = None, is_unified: bool = True) -> Load:
    """Choose the library set; what is returned reads the file front to back and loads it. The last two are for
    `make tune`."""
    library.load(settings.lib_dir, settings.blas)
    import_binding()
    known = cost.load(machine.state_path(settings, cost.STATE_NAME))

    def load() -> Model:
        read_ahead(settings.model)
        return LlamaModel(
            settings.model,
            n_context=settings.context,
            max_auto_context=config.MAX_AUTO_CONTEXT,
            n_threads=settings.threads,
            n_cells=settings.cache_tokens,
            cache_type=settings.cache_type,
            has_flash_attention=_has_flash_attention(settings, known),
            repacks=settings.repack == "on",
            n_sequences=n_sequences or max(MIN_SEQUENCES, 2 * (settings.max_streams or 0)),
            is_unified=is_unified,
            is_quiet=bool(known.points) and settings.log_level != "debug",  # the start that measured has told it all
        )

    return load


def _has_flash_attention(settings: Config, known: Measured) -> bool | None:
    """auto: what an earlier start found faster here; None leaves it to the model, by a rule or a short measurement."""
    return known.flash_attention if settings.flash_attn == config.AUTO else settings.flash_attn == "on"


class Loading:
    """A model on its way, loaded in a thread that does not outlive the process."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._model: Model | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def wait(self) -> Model:
        """The model, or what went wrong with it."""
        self._thread.join()
        if self._error:
            raise self._error
        assert self._model is not None
        return self._model

    def _run(self) -> None:
        try:
            self._model = self._load()
        except BaseException as error:
            self._error = error


if __name__ == "__main__":
    code = main(sys.argv[1:], os.environ, prepare_llama)
    from .process import leave

    leave(code)
