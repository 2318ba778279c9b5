"""Read what a qcow2 file says of itself.

Knows the first 32 bytes (qemu docs/interop/qcow2.txt: magic, version, ..., virtual size at offset 24, big-endian).
Knows nothing of what is on the disk.
"""

from __future__ import annotations

import struct
from pathlib import Path

from ..problem import Problem

MAGIC = b"QFI\xfb"


def virtual_bytes(file: Path) -> int:
    """The size of the disk that a guest sees; raises Problem when `file` is no qcow2 image that stands alone."""
    with file.open("rb") as data:
        header = data.read(32)
    if len(header) < 32 or header[:4] != MAGIC:
        raise Problem(f"{file} is not a qcow2 image: it begins with {header[:4]!r}, expected {MAGIC!r}")
    (backing_offset, _, _, size) = struct.unpack(">QIIQ", header[8:32])
    if backing_offset:
        raise Problem(f"{file} is a layer over another image", "qemu-img convert -O qcow2 makes it stand alone")
    return size
