"""`python -m service`: read the settings, begin to load the model, then run the process.

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

from . import config, cost, keys, library, machine
from .config import Config
from .cost import Measured
from .errors import EXIT_CONFIG, ConfigError
from .model import MIN_SEQUENCES, LlamaModel, Model, import_binding, read_ahead

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
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        loading = Loading(prepare(settings))
    except ConfigError as error:
        for fault in error.faults:
            print(f"settings: {fault}", file=sys.stderr)
        return EXIT_CONFIG
    sys.setswitchinterval(SWITCH_S)

    from .process import serve

    return serve(settings, loading.wait, api_keys)


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
    sys.exit(main(sys.argv[1:], os.environ, prepare_llama))
