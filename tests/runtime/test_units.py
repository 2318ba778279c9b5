"""The unit files and llm.env, as far as they can be judged without a booted machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service import config
from service.errors import EXIT_CONFIG
from service.process import STOP_S
from tests.runtime.door import ETC

UNITS = ETC / "systemd/system"
LLM = (UNITS / "llm.service").read_text()


def value(unit: str, key: str) -> str:
    found = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    assert len(found) == 1, f"{key} stands {len(found)} times"
    return found[0]


def highest(name: str) -> int:
    return next(setting.high for setting in config.SETTINGS if setting.name == name)


@pytest.mark.parametrize("name", ["llm.service", "nginx.service"])
def test_systemd_understands_every_line(name: str, tmp_path: Path):
    """Only ExecStart's path, which exists on the image alone, is replaced."""
    unit = (UNITS / name).read_text().replace("/opt/llamakiln/venv/bin/python", sys.executable)
    (tmp_path / name).write_text(unit)
    checked = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True)
    ours = [line for line in checked.stderr.splitlines() if name in line]
    assert not ours, checked.stderr


def test_sandbox_exposure_is_at_most_1_2():
    """systemd's own score, 0 is best; a bare unit has 9.2."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=12", UNITS / "llm.service"]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout[-300:] + checked.stderr


def test_of_the_resource_calls_only_setpriority_is_allowed():
    """deep_stack.py lowers the priority of a thread that reads a long text. Later lines win, so the order counts."""
    filters = re.findall(r"^SystemCallFilter=(.*)$", LLM, re.MULTILINE)
    assert filters == ["@system-service", "~@privileged @resources", "setpriority"]


def test_watchdog_does_not_wait_long_for_a_process_that_is_stopped():
    """Otherwise SIGABRT waits for TimeoutStopSec, which is as long as the longest drain."""
    assert int(value(LLM, "TimeoutAbortSec")) <= 30 < int(value(LLM, "WatchdogSec"))


def test_python_callbacks_work_without_writable_executable_memory():
    """What MemoryDenyWriteExecute does, set by prctl(PR_SET_MDWE) (Linux 6.3): ctypes makes a callback, as the binding
    does when it is imported, and a mapping that is writable and executable fails."""
    code = """
import ctypes, mmap, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    sys.exit("prctl")
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)
assert callback(1) == 2
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    print("denied")
"""
    system_python = shutil.which("python3", path="/usr/bin") or sys.executable
    ran = subprocess.run([system_python, "-c", code], capture_output=True, text=True)
    if ran.stderr.strip() == "prctl":
        pytest.skip("this kernel is older than 6.3 and has no PR_SET_MDWE")
    assert ran.stdout.strip() == "denied", ran.stderr


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("Type", "notify"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        ("User", "llm"),
        ("EnvironmentFile", "/etc/llm/llm.env"),
        ("WorkingDirectory", "/opt/llamakiln"),
        ("RestartPreventExitStatus", str(EXIT_CONFIG)),
    ],
)
def test_service_heals_itself(key: str, wanted: str):
    assert value(LLM, key) == wanted


def test_stop_waits_for_the_longest_drain():
    assert int(value(LLM, "TimeoutStopSec")) > highest("LLM_DRAIN_S") + 2 * STOP_S


def test_llm_stops_before_nginx_so_that_running_answers_drain():
    assert "nginx.service" in value(LLM, "After").split()


@pytest.mark.parametrize(("key", "wanted"), [("Restart", "always"), ("StartLimitIntervalSec", "0")])
def test_nginx_heals_itself(key: str, wanted: str):
    assert value((UNITS / "nginx.service").read_text(), key) == wanted


def test_settings_file_is_the_settings_table():
    """`python -m service --env > packer/files/etc/llm/llm.env` makes it."""
    assert (ETC / "llm/llm.env").read_text() == config.describe_file()
