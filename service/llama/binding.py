"""The binding, and llama.cpp's own words in our log. Knows no model."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Any

log_llama = logging.getLogger("llama.cpp")


def import_binding() -> Any:
    """The binding's low-level module, without its package's own __init__, which would import numpy, Jinja and every
    chat format it knows: 0.3 s of CPU at each start (2 cores of an AMD EPYC, November 2026) for what nobody here calls.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None  # library.load has compared its version
        sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("llama_cpp.llama_cpp")


def listen(lib: Any, begin: Callable[[], Any], is_quiet: bool) -> Any:
    """What `begin` makes. llama.cpp's words go to the log; quietly only if it makes nothing, and then by a second
    try. While a model loads they are 1,800, each of which waits until no other thread is in Python: 0.2 s of a cold
    start beside the imports (2 cores of an AMD EPYC, November 2026)."""
    if not _log_callbacks:
        nothing = ctypes.CDLL(None).abs  # does nothing with a log level, and is no Python
        _log_callbacks.extend([lib.llama_log_callback(_forward_log), ctypes.cast(nothing, lib.llama_log_callback)])
    forward, drop = _log_callbacks
    lib.llama_log_set(drop if is_quiet else forward, ctypes.c_void_p(0))
    made = begin()
    lib.llama_log_set(forward, ctypes.c_void_p(0))
    return made or (begin() if is_quiet else None)


_log_callbacks: list[Any] = []  # kept for good: llama.cpp holds only a bare pointer

# enum ggml_log_level as this llama.cpp has it (the binding's comment is older). Its `info` (2) is talkative: our debug.
_LEVELS = {3: logging.WARNING, 4: logging.ERROR}


def _forward_log(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and line != "." and "n_ctx_seq" not in line:  # it takes the cache of all sequences for one's context
        log_llama.log(_LEVELS.get(level, logging.DEBUG), "%s", line)
