"""A file that is kept between two starts: written whole or not at all, and never used if it is not what was written.

`write` and `replace` survive a loss of power; `read` compares a digest of every byte before anybody sees one; `forget`
takes a file away before it is tried, so that what ends the process ends it once and not at every start. Knows paths
and bytes. Knows nothing of what they mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIGEST_BYTES = 32


def write(path: Path, *parts: Any) -> None:
    """Write bytes-like parts. Raises OSError, and the file is then as it was."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            for each in parts:
                file.write(each)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def seal(path: Path, subject: bytes, data: Any) -> None:
    """Write data with a digest. subject: what it is of; another one does not read it. Raises OSError."""
    write(path, _digest(subject, memoryview(data).cast("B")), data)


def unseal(path: Path, subject: bytes) -> memoryview | None:
    """What `seal` wrote of the same subject; None if there is no file. It is mapped and not copied, so a file of any
    size takes no memory. Raises OSError if it cannot be read, ValueError if it is of something else or damaged."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would make us wait
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        if found.st_size <= DIGEST_BYTES:
            raise ValueError(f"it has {found.st_size} bytes")
        whole = memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(handle)
    data = whole[DIGEST_BYTES:]
    if whole[:DIGEST_BYTES] != _digest(subject, data):
        raise ValueError("it is damaged, or of something else")
    return data


@contextlib.contextmanager
def forget(path: Path) -> Iterator[None]:
    """While what was read is tried, the file is not there; it comes back unless that raises. Raises OSError."""
    away = path.with_name(path.name + ".tried")
    os.replace(path, away)
    _sync(path.parent)
    yield
    os.replace(away, path)
    _sync(path.parent)


def _digest(subject: bytes, data: memoryview) -> bytes:
    return hashlib.sha256(hashlib.sha256(subject).digest() + hashlib.sha256(data).digest()).digest()


def _sync(directory: Path) -> None:
    """A new name is on the disk only when its directory is."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
