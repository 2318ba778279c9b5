"""Where things are kept: another model, library or setting has another place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.llama import library, machine
from tests.service.door import make_config

SIZE = 5_000_000


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "libllama.so").write_bytes(b"library")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(SIZE))
    monkeypatch.setenv(library.LIB_PATH_VARIABLE, str(tmp_path / "set"))

    def place(**changes: object) -> Path:
        config = make_config(model=tmp_path / "model.gguf", model_name="m", state_dir=tmp_path, **changes)
        path = machine.state_path(config, "prompt.bin")
        assert path
        return path

    return place


def test_it_stays_from_start_to_start(place: Callable[..., Path], tmp_path: Path):
    assert place() == place()
    assert place().parent == tmp_path and place().name.startswith("prompt-") and place().suffix == ".bin"


@pytest.mark.parametrize("offset", [4, SIZE // 2, SIZE // 3 + 7, SIZE - 1])
def test_other_weights_of_the_same_name_size_and_time_have_another_place(
    place: Callable[..., Path], tmp_path: Path, offset: int
):
    """The computed state of one model was read back into another one of the same name and size."""
    before = place()
    model = tmp_path / "model.gguf"
    times = os.stat(model).st_atime_ns, os.stat(model).st_mtime_ns
    ctime = os.stat(model).st_ctime_ns
    while os.stat(model).st_ctime_ns == ctime:  # the kernel's clock ticks every few milliseconds
        with open(model, "r+b") as file:
            file.seek(offset)
            file.write(b"\1")
        os.utime(model, ns=times)
    assert place() != before


@pytest.mark.parametrize("offset", [0, SIZE // 2, SIZE])
def test_change_within_a_tick_of_the_clock_is_seen_where_it_is_looked_for(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
):
    monkeypatch.setattr(machine, "_stamp", lambda path: [])
    before = place()
    with open(tmp_path / "model.gguf", "r+b") as file:
        file.seek(offset)
        file.write(b"\1")
    assert place() != before


def test_rebuilt_library_has_another_place(place: Callable[..., Path], tmp_path: Path):
    before = place()
    (tmp_path / "set" / "libllama.so").write_bytes(b"library, built anew")
    assert place() != before


def test_setting_of_the_model_has_another_place(place: Callable[..., Path]):
    assert len({place(), place(context=128), place(cache_type="q8_0"), place(flash_attn="off")}) == 4


def test_without_a_directory_nothing_is_kept():
    assert machine.state_path(make_config(state_dir=None), "prompt.bin") is None
