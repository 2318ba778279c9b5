"""Where things are kept that hold on this machine only: under a name that says what the machine is.

Knows /proc/cpuinfo, the memory's size, the settings and the library set that was chosen. Knows nothing of what is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from ..config import Config
from . import library

# Lines of /proc/cpuinfo that differ between two looks, or between two cores
_VOLATILE = re.compile(r"(?m)^(cpu MHz|bogomips|BogoMIPS|processor|core id|apicid|initial apicid).*$")


def state_path(settings: Config, name: str) -> Path | None:
    """Where something of that name (x.json) is kept for this machine; None for nowhere. Call after library.load."""
    if settings.state_dir is None:
        return None
    stem, suffix = os.path.splitext(name)
    return settings.state_dir / f"{stem}-{_describe(settings)}{suffix}"


def _describe(settings: Config) -> str:
    """16 hexadecimal digits; another CPU, library set, model file, memory or setting of the model gives others."""
    cpu = library.CPUINFO.read_text().split("\n\n")[0] if library.CPUINFO.exists() else ""
    facts = [
        _VOLATILE.sub("", cpu),
        os.sysconf("SC_PHYS_PAGES"),
        os.environ.get(library.LIB_PATH_VARIABLE, ""),
        os.stat(settings.model).st_size,
        settings.model_name,
        [settings.threads, settings.cache_type, settings.flash_attn, settings.repack],
        [settings.context, settings.cache_tokens],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
