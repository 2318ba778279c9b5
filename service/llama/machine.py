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

N_SAMPLES, SAMPLE_BYTES = 17, 16384

# Lines of /proc/cpuinfo that differ between two looks, or between two cores
_VOLATILE = re.compile(r"(?m)^(cpu MHz|bogomips|BogoMIPS|processor|core id|apicid|initial apicid).*$")


def state_path(settings: Config, name: str) -> Path | None:
    """Where something of that name (x.json) is kept for this machine; None for nowhere. Call after library.load."""
    if settings.state_dir is None:
        return None
    stem, suffix = os.path.splitext(name)
    return settings.state_dir / f"{stem}-{_describe(settings)}{suffix}"


def _stamp(path: Path) -> list[int]:
    """The kernel sets ctime, which nobody can set back, whenever what is behind a name changes."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _sample(path: Path) -> str:
    """A digest of parts of the file, from its first byte to its last: the kernel's clock stands still for some
    milliseconds, and some file systems keep no ctime. All of a 4 GB model would take seconds of each start; this takes
    0.3 ms when it is in memory, and 17 reads when it is not."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        last = max(os.fstat(file.fileno()).st_size - SAMPLE_BYTES, 0)
        for i in range(N_SAMPLES):
            digest.update(os.pread(file.fileno(), SAMPLE_BYTES, last * i // (N_SAMPLES - 1)))
    return digest.hexdigest()


def _describe(settings: Config) -> str:
    """16 hexadecimal digits; another CPU, library set, model file, memory or setting of the model gives others."""
    cpu = library.CPUINFO.read_text().split("\n\n")[0] if library.CPUINFO.exists() else ""
    library_set = Path(os.environ.get(library.LIB_PATH_VARIABLE, ""))
    facts = [
        _VOLATILE.sub("", cpu),
        os.sysconf("SC_PHYS_PAGES"),
        [str(library_set), [_stamp(each) for each in sorted(library_set.glob("lib*.so*"))]],
        [*_stamp(settings.model), _sample(settings.model)],
        settings.model_name,
        [settings.threads, settings.cache_type, settings.flash_attn, settings.repack],
        [settings.context, settings.cache_tokens],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
