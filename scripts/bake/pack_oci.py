"""Pack a qcow2 image as .oci: what Oracle Cloud exports, and imports with the right firmware and shapes by itself.

An .oci is a gzipped tar of `image_metadata.json` and `output.QCOW2`, these two names in this order, as Oracle's own
exports and tools write them (oracle-cne/ocne cmd/image, FreeBSD's release/Makefile.oracle; read November 2026). A bare
qcow2 is imported as BIOS and does not boot on Arm; here the metadata says UEFI and paravirtualized devices.

Knows the archive and the metadata. Knows nothing of what is on the disk and talks to no cloud. The import may keep the
shape list as a note only, so register A1 and A2 on the imported image all the same. The same disk gives the same bytes.
Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from ..files import replacing
from ..problem import Problem, run
from ..progress import Progress
from .qcow2 import virtual_bytes

MAX_DISK_BYTES = 400 * 10**9  # Oracle's limit for an imported disk
GZIP_LEVEL = 1  # the qcow2 is compressed already: higher levels cost minutes and save nothing
# Limits of the shapes as in metadata of exported official images (FreeBSD release/scripts/oracle, November 2026).
SHAPES = (
    {
        "internalShapeName": "VM.Standard.A1.Flex",
        "ocpuConstraints": {"min": 1, "max": 80},
        "memoryConstraints": {"minInGBs": 1, "maxInGBs": 512},
    },
    {
        "internalShapeName": "VM.Standard.A2.Flex",
        "ocpuConstraints": {"min": 1, "max": 78},
        "memoryConstraints": {"minInGBs": 1, "maxInGBs": 946},
    },
)


def image_metadata(os_name: str, os_version: str) -> dict:
    """The content of image_metadata.json. Every key is needed: with one missing the importer silently ignores all.

    imageCapabilityData stays null: it must match a capability schema version of the region, and the launch options
    below say the same (Talos imports its Arm images so).
    """
    return {
        "version": 2,
        "externalLaunchOptions": {
            "firmware": "UEFI_64",
            "networkType": "PARAVIRTUALIZED",
            "bootVolumeType": "PARAVIRTUALIZED",
            "remoteDataVolumeType": "PARAVIRTUALIZED",
            "localDataVolumeType": "PARAVIRTUALIZED",
            "launchOptionsSource": "PARAVIRTUALIZED",
            "pvAttachmentVersion": 2,
            "pvEncryptionInTransitEnabled": True,
            "consistentVolumeNamingEnabled": True,
        },
        "imageCapabilityData": None,
        "imageCapsFormatVersion": None,
        "operatingSystem": os_name,
        "operatingSystemVersion": os_version,
        "additionalMetadata": {"shapeCompatibilities": list(SHAPES)},
    }


class _Counted:
    """The disk's bytes on their way into the archive, heard by the progress line."""

    def __init__(self, file: BinaryIO, progress: Progress):
        self._file, self._progress = file, progress

    def read(self, n_bytes: int = -1) -> bytes:
        piece = self._file.read(n_bytes)
        self._progress.add(len(piece))
        return piece


def _member(name: str, n_bytes: int) -> tarfile.TarInfo:
    """A tar entry without anything of this machine or moment in it."""
    member = tarfile.TarInfo(name)
    member.size = n_bytes
    member.mode = 0o644
    return member


def pack(disk: Path, target: Path, os_name: str, os_version: str) -> None:
    """Write `target` from `disk`, streaming; raises Problem. `target` appears complete or not at all."""
    if not disk.is_file():
        raise Problem(f"{disk}: no such file")
    if (size := virtual_bytes(disk)) > MAX_DISK_BYTES:
        raise Problem(f"{disk} is a disk of {size} bytes; Oracle Cloud imports at most {MAX_DISK_BYTES}")
    disk_bytes = disk.stat().st_size
    target.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.parent).free) < disk_bytes:
        raise Problem(f"{target.parent} has {free} bytes free and {target.name} needs about {disk_bytes}")
    metadata = json.dumps(image_metadata(os_name, os_version), indent=2).encode() + b"\n"
    progress = Progress(f"packing {target.name}", disk_bytes)
    with (
        replacing(target) as out,
        gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=out, mtime=0) as zipped,
        # GNU format: a member may exceed 8 GB, and Oracle's own tools write it.
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
        disk.open("rb") as data,
    ):
        tar.addfile(_member("image_metadata.json", len(metadata)), io.BytesIO(metadata))
        tar.addfile(_member("output.QCOW2", disk_bytes), _Counted(data, progress))
    progress.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qcow2", type=Path, help="the disk image to pack")
    parser.add_argument("out", type=Path, help="the .oci file to write")
    parser.add_argument("--os-name", default="Ubuntu", help="shown in Oracle Cloud (default: %(default)s)")
    parser.add_argument("--os-version", default="22.04", help="shown in Oracle Cloud (default: %(default)s)")
    options = parser.parse_args()
    try:
        pack(options.qcow2, options.out, options.os_name, options.os_version)
    except OSError as error:
        raise Problem(f"cannot pack {options.qcow2} as {options.out}: {os.strerror(error.errno or 0)}") from error
    print(options.out)


if __name__ == "__main__":
    run(main)
