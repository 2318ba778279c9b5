"""One decode step tells a set that lives from one that dies, and from one that never ran."""

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

from scripts.libllama import decode_step, patch
from service.llama import library


@pytest.fixture(scope="module")
def bench() -> Path:
    features = library.read_cpu_features(library.CPUINFO.read_text())
    chosen = library.choose_library(Path(os.environ["LLM_LIB_DIR"]), "off", platform.machine(), features)
    return chosen.path / "llama-bench"


def stand_in(folder: Path, script: str) -> Path:
    bench = folder / "llama-bench"
    bench.write_text(f"#!/bin/sh\n{script}\n")
    bench.chmod(0o755)
    return bench


def test_this_machine_s_own_set_lives(bench):
    assert decode_step.death(bench) == ""


def test_rearranged_weights_are_in_the_step(bench, tmp_path):
    """Those are the kernels that differ from CPU to CPU; these are rearranged wherever we have products."""
    decode_step.write_model(tmp_path / "tiny.gguf")
    command = [bench, "-m", "tiny.gguf", "-p", "1", "-n", "0", "-r", "1", "-t", "2", "--no-warmup", "-v"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    n_weights = decode_step.WIDTH * (
        5 * decode_step.WIDTH + 2 * decode_step.WIDTH * decode_step.KV_HEADS // decode_step.HEADS
    )
    sizes = [n_weights // block * size for _, block, size in map(decode_step.TYPES.get, patch.AMX_LEAVES)]
    assert float(re.search(r"CPU_REPACK model buffer size = +([\d.]+) MiB", said)[1]) >= sum(sizes) / 2**20


@pytest.mark.parametrize("fault", ["SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGTRAP"])
def test_fault_is_named(tmp_path, fault):
    assert decode_step.death(stand_in(tmp_path, f"kill -{fault.removeprefix('SIG')} $$")) == fault


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -KILL $$", "ended with SIGKILL"),  # memory, for instance
        ("kill -TERM $$", "ended with SIGTERM"),
        ("echo no such symbol >&2; exit 127", "ended with 127:\nno such symbol"),
    ],
)
def test_what_is_not_the_cpu_s_fault_is_no_death(tmp_path, script, words):
    with pytest.raises(decode_step.Unusable, match=words):
        decode_step.death(stand_in(tmp_path, script))


def test_step_without_end_is_no_death(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_step, "TIMEOUT_S", 0.01)
    with pytest.raises(decode_step.Unusable, match=r"ran for more than 0.01 s"):
        decode_step.death(stand_in(tmp_path, "exec tail -f /dev/null"))


def test_step_has_one_row_and_many_in_several_threads(tmp_path):
    """A single row is another kernel; AMX needs its tiles set up in each thread; attention comes in two kinds."""
    bench = stand_in(tmp_path, f'echo "$*" >{tmp_path}/asked; test -s "$2"')
    assert decode_step.death(bench) == ""
    asked = (tmp_path / "asked").read_text()
    assert re.search(r"-p (\d+) -n 1 .*-t 2 -fa 0,1", asked) and decode_step.ROWS > 32


def test_loader_comes_before_the_program(tmp_path):
    loader = stand_in(tmp_path, f'echo "$*" >{tmp_path}/asked; kill -ILL $$')
    assert decode_step.death(Path("/sets/llama-bench"), [loader, "--library-path", "/lib"]) == "SIGILL"
    assert (tmp_path / "asked").read_text().startswith("--library-path /lib /sets/llama-bench -m ")
