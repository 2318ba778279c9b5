from __future__ import annotations

import gzip
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from scripts.bake import pack_oci
from scripts.files import REPOSITORY


def qcow2(size: int = 8 << 30, backing_offset: int = 0, body: bytes = b"") -> bytes:
    return b"QFI\xfb" + struct.pack(">IQIIQ", 3, backing_offset, 0, 16, size) + body


@pytest.fixture
def disk(tmp_path) -> Path:
    file = tmp_path / "llamakiln-demo-0.1.0-arm64.qcow2"
    file.write_bytes(qcow2(body=random.Random(3).randbytes(2_000_000)))
    return file


@pytest.fixture
def packed(disk, run_script) -> Path:
    target = disk.with_suffix(".oci")
    done = run_script("bake.pack_oci", disk, target)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(target)
    assert "100 %" in done.stderr
    return target


def test_archive_holds_metadata_then_the_disk_under_oracles_names(disk, packed):
    with tarfile.open(packed, "r:gz") as tar:
        assert tar.getnames() == ["image_metadata.json", "output.QCOW2"]
        assert tar.extractfile("output.QCOW2").read() == disk.read_bytes()


def test_system_tar_reads_it(packed):
    listing = subprocess.run(["tar", "-tzf", packed], capture_output=True, text=True, check=True)
    assert listing.stdout.split() == ["image_metadata.json", "output.QCOW2"]


def test_metadata_asks_for_uefi_and_paravirtualized_devices_on_both_arm_shapes(packed):
    with tarfile.open(packed, "r:gz") as tar:
        metadata = json.load(tar.extractfile("image_metadata.json"))
    assert metadata["version"] == 2
    launch = metadata["externalLaunchOptions"]
    assert launch["firmware"] == "UEFI_64"
    devices = ("networkType", "bootVolumeType", "remoteDataVolumeType", "localDataVolumeType", "launchOptionsSource")
    assert {launch[key] for key in devices} == {"PARAVIRTUALIZED"}
    assert launch["pvEncryptionInTransitEnabled"] is True
    assert (metadata["operatingSystem"], metadata["operatingSystemVersion"]) == ("Ubuntu", "22.04")
    shapes = {shape["internalShapeName"]: shape for shape in metadata["additionalMetadata"]["shapeCompatibilities"]}
    assert set(shapes) == {"VM.Standard.A1.Flex", "VM.Standard.A2.Flex"}
    assert shapes["VM.Standard.A2.Flex"]["ocpuConstraints"] == {"min": 1, "max": 78}
    assert shapes["VM.Standard.A2.Flex"]["memoryConstraints"] == {"minInGBs": 1, "maxInGBs": 946}


def test_same_disk_gives_the_same_bytes_whatever_its_time_and_name(disk, packed, tmp_path):
    other = tmp_path / "other" / "disk.qcow2"
    other.parent.mkdir()
    other.write_bytes(disk.read_bytes())
    os.utime(other, (1, 1))
    pack_oci.pack(other, tmp_path / "again.oci", "Ubuntu", "22.04")
    assert (tmp_path / "again.oci").read_bytes() == packed.read_bytes()
    assert packed.read_bytes()[4:8] == bytes(4), "gzip's own time stamp is zero"


def test_large_disk_is_streamed(tmp_path):
    sparse = tmp_path / "large.qcow2"
    with sparse.open("wb") as file:
        file.write(qcow2())
        file.truncate(400 << 20)
    command = [sys.executable, "-m", pack_oci.__name__, sparse, tmp_path / "l.oci"]

    def small_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))

    subprocess.run(command, cwd=REPOSITORY, preexec_fn=small_memory, check=True, capture_output=True, timeout=120)
    with gzip.open(tmp_path / "l.oci") as data:
        assert data.read(1000).startswith(b"image_metadata.json\0")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"GZIP or something else, long enough to be read", "is not a qcow2 image: it begins with b'GZIP'"),
        (b"", "is not a qcow2 image"),
        (qcow2(backing_offset=104), "is a layer over another image"),
        (qcow2(size=500 * 10**9), "imports at most 400000000000"),
    ],
)
def test_wrong_disk_is_refused_and_leaves_nothing(tmp_path, run_script, content, expected):
    disk, out = tmp_path / "disk.qcow2", tmp_path / "out" / "image.oci"
    disk.write_bytes(content)
    done = run_script("bake.pack_oci", disk, out)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert expected in done.stderr
    assert not out.exists() and not list(tmp_path.glob("out/*"))


def test_missing_disk_is_told(tmp_path, run_script):
    done = run_script("bake.pack_oci", tmp_path / "absent.qcow2", tmp_path / "x.oci")
    assert done.returncode == 1 and "absent.qcow2: no such file" in done.stderr


def test_broken_write_leaves_nothing(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_oci._Counted, "read", lambda self, n=-1: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        pack_oci.pack(disk, tmp_path / "broken" / "image.oci", "Ubuntu", "22.04")
    assert list((tmp_path / "broken").iterdir()) == []


def test_full_disk_is_a_message(disk, tmp_path, run_script):
    (tmp_path / "image.oci.part").symlink_to("/dev/full")
    done = run_script("bake.pack_oci", disk, tmp_path / "image.oci")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert not (tmp_path / "image.oci").exists()
