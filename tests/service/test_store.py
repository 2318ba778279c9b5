"""Files between two starts: what was written, or nothing."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from service import store

SUBJECT, DATA = b"tokens", bytes(range(256)) * 40


def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "state.bin"
    store.seal(path, SUBJECT, DATA)
    return path


def test_what_was_sealed_is_read_back(tmp_path: Path):
    assert store.unseal(sealed(tmp_path), SUBJECT) == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["state.bin"]


def test_nothing_is_no_fault(tmp_path: Path):
    assert store.unseal(tmp_path / "state.bin", SUBJECT) is None


def flip(n: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(lambda data, n=n: data[:n], id=f"cut to {n}") for n in (0, 1, 31, 32, 33, 5000, -1)),
        *(pytest.param(flip(n), id=f"bit of byte {n}") for n in (0, 31, 32, 5000, -1 + len(DATA) + 32)),
        pytest.param(lambda data: data + b"\0", id="longer"),
        pytest.param(lambda data: bytes(len(data)), id="zeros, as after a loss of power"),
    ],
)
def test_one_wrong_byte_is_enough(tmp_path: Path, damage: Callable[[bytes], bytes]):
    """A state file cut short by one byte aborted the process inside llama.cpp, at every start."""
    path = sealed(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError):
        store.unseal(path, SUBJECT)


def test_another_subject_is_not_read(tmp_path: Path):
    with pytest.raises(ValueError, match="of something else"):
        store.unseal(sealed(tmp_path), b"other tokens")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_read(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "state.bin")
    with pytest.raises(ValueError, match="no file"):
        store.unseal(tmp_path / "state.bin", SUBJECT)


def test_while_it_is_tried_it_is_not_there(tmp_path: Path):
    """What kills the process while it is tried would kill it at every start."""
    path = sealed(tmp_path)
    with store.forget(path):
        assert not path.exists()
    assert store.unseal(path, SUBJECT) == DATA
    with pytest.raises(ZeroDivisionError), store.forget(path):
        raise ZeroDivisionError
    assert not path.exists()


def test_full_disk_leaves_what_was_there(tmp_path: Path):
    path = sealed(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) * 2, before[1]))
    try:
        with pytest.raises(OSError):
            store.seal(path, SUBJECT, DATA * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.unseal(path, SUBJECT) == DATA
    assert [each.name for each in tmp_path.iterdir()] == ["state.bin"]


def test_file_and_name_are_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        kind = "directory" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"
        happened.append(kind)
        fsync(handle)

    def note_replace(old: Path, new: Path) -> None:
        happened.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    sealed(tmp_path)
    assert happened == ["file", "name", "directory"]
