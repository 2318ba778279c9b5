"""What several scripts do with files: hash them, replace them in one step, find the cache.

Knows bytes and paths. Knows nothing of models, images or manifests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

REPOSITORY = Path(__file__).resolve().parent.parent
CHUNK_BYTES = 1 << 20


def cache_root() -> Path:
    """Where everything that is expensive to make is kept; LLAMAKILN_CACHE moves it."""
    return Path(os.environ.get("LLAMAKILN_CACHE") or Path.home() / ".cache" / "llamakiln")


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda n_bytes: None) -> str:
    """The file's SHA-256 in lower-case hex; `on_bytes` hears the size of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write `path` under a temporary name beside it and rename it at the end: a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def human_size(n_bytes: float) -> str:
    """A size for a person, in decimal units as disks and hubs use: 637699456 -> '637.7 MB'."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"
