"""The process from outside: start, notices, signals, exit codes. The model is fake, everything else is as shipped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.config import SETTINGS
from service.errors import EXIT_CONFIG, EXIT_SOFTWARE
from tests.service.door import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """One service process; `tokens(n)` lets its model make n tokens."""

    def __init__(self, directory: Path, module: str = "tests.service.fake_service", **settings: str) -> None:
        (directory / "fake.gguf").write_bytes(b"GGUF")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.settimeout(30)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
        environ |= {
            "LLM_MODEL": str(directory / "fake.gguf"),
            "LLM_LIB_DIR": str(directory),
            "LLM_PORT": "0",
            "NOTIFY_SOCKET": str(directory / "notify"),
            **settings,
        }
        command = [sys.executable, "-m", module]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(line.decode())

    def tokens(self, n: int) -> None:
        self.process.stdin.write(b"." * n)
        self.process.stdin.flush()

    def all_tokens(self) -> None:
        self.process.stdin.close()

    def notices(self, until: str) -> list[str]:
        got: list[str] = []
        while not got or until not in got[-1]:
            got.append(self.notify.recv(999).decode())
        return got

    @property
    def url(self) -> str:
        wait_until(lambda: any("listening on" in line for line in self.log) or self.process.poll() is not None)
        port = re.search(r"port (\d+)", "".join(self.log))
        assert port, self.log
        return f"http://127.0.0.1:{port[1]}"

    def exit_code(self) -> int:
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)


@contextlib.contextmanager
def start(directory: Path, **settings: str) -> Iterator[Process]:
    process = Process(directory, **settings)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait(10)
        process.notify.close()


@contextlib.contextmanager
def ready(directory: Path, **settings: str) -> Iterator[Process]:
    with start(directory, **settings) as process:
        process.tokens(1)
        process.notices("READY=1")
        yield process


def stream(process: Process, into: list[str]) -> threading.Thread:
    def read() -> None:
        body = {"prompt": "hi", "stream": True}
        with (
            contextlib.suppress(httpx.HTTPError),  # the process may be killed before it answers
            httpx.stream("POST", process.url + "/generate", json=body, timeout=60) as reply,
        ):
            into.extend(reply.iter_lines())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def test_ready_only_after_a_token(tmp_path: Path):
    with start(tmp_path) as process:
        assert process.notices("STATUS=loading")
        assert httpx.get(process.url + "/healthz").status_code == 200
        assert httpx.get(process.url + "/readyz").status_code == 503
        process.tokens(1)
        assert process.notices("READY=1") == ["READY=1\nSTATUS=ready"]
        assert httpx.get(process.url + "/readyz").status_code == 200


def test_sigterm_lets_the_running_answer_finish(tmp_path: Path):
    with ready(tmp_path) as process:
        lines: list[str] = []
        reader = stream(process, lines)
        process.tokens(1)
        wait_until(lambda: lines)
        process.signal()
        process.notices("STOPPING=1")
        wait_until(lambda: httpx.get(process.url + "/readyz").status_code == 503)
        refused = httpx.post(process.url + "/generate", json={"prompt": "no"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        process.all_tokens()
        reader.join(30)
        assert "".join(json.loads(line[6:])["text"] for line in lines if '"text"' in line) == "You said: hi"
        assert lines[-2] == "data: [DONE]"
        assert process.exit_code() == 0
        assert process.log[-1] == "INFO service: stopped\n"


def test_drain_without_work_is_over_at_once(tmp_path: Path):
    with ready(tmp_path, LLM_DRAIN_S="300") as process:
        process.signal()
        assert process.exit_code() == 0


@pytest.mark.parametrize("hangs", [False, True])
def test_drain_ends_after_its_time_and_the_client_is_told(tmp_path: Path, hangs: bool):
    """Whether the model's current step ends or not, the answer ends with an error and the process with 0."""
    with ready(tmp_path, LLM_DRAIN_S="0") as process:
        lines: list[str] = []
        reader = stream(process, lines)
        process.tokens(1)
        wait_until(lambda: lines)
        process.signal()
        if not hangs:
            wait_until(lambda: httpx.get(process.url + "/readyz").json()["status"] == "stopped")
            process.tokens(1)
        reader.join(30)
        assert json.loads(lines[-2][6:])["error"]["code"] == "draining"
        assert process.exit_code() == 0


def test_second_sigterm_ends_at_once(tmp_path: Path):
    with ready(tmp_path, LLM_DRAIN_S="300") as process:
        lines: list[str] = []
        reader = stream(process, lines)
        process.tokens(1)
        wait_until(lambda: lines)
        process.signal()
        process.notices("STOPPING=1")
        process.signal()
        assert process.exit_code() == 0  # the model still hangs at the gate
        reader.join(30)
        assert json.loads(lines[-2][6:])["error"]["code"] == "draining"


def test_watchdog_is_fed_while_the_engine_lives(tmp_path: Path):
    with ready(tmp_path, WATCHDOG_USEC="400000") as process:
        assert process.notices("WATCHDOG=1") and process.notices("WATCHDOG=1")


def test_watchdog_starves_when_the_engine_hangs(tmp_path: Path):
    with ready(tmp_path, WATCHDOG_USEC="400000") as process:
        stream(process, [])
        wait_until(lambda: "llm_requests_running 1.0" in httpx.get(process.url + "/metrics").text)
        process.notify.settimeout(3)  # the engine beats every second when it can
        with pytest.raises(TimeoutError):
            while True:
                process.notify.recv(99)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_loading_ends_the_process(tmp_path: Path, number: signal.Signals):
    with start(tmp_path) as process:
        assert process.url
        process.signal(number)
        process.tokens(1)
        assert process.exit_code() == 0


def test_wrong_settings_are_listed_and_exit_78(tmp_path: Path):
    with start(tmp_path, LLM_PORT="x", LLM_TREADS="1") as process:
        assert process.exit_code() == EXIT_CONFIG
        assert process.log == [
            "settings: LLM_TREADS: no such setting; did you mean LLM_THREADS?\n",
            "settings: LLM_PORT=x: must be a whole number from 0 to 65535\n",
        ]


def test_system_prompt_that_the_model_cannot_take_is_a_wrong_setting(tmp_path: Path):
    """The process ended with 70, and systemd started it again for ever."""
    with start(tmp_path, LLM_SYSTEM_PROMPT="be kind " * 100) as process:
        process.all_tokens()
        assert process.exit_code() == EXIT_CONFIG
        assert "settings: LLM_SYSTEM_PROMPT: uses 815 tokens; the context holds 512" in "".join(process.log)


def test_keys_file_shuts_the_doors(tmp_path: Path):
    (tmp_path / "keys").write_text("sk-0123456789abcdef\n")
    with ready(tmp_path, LLM_API_KEYS_FILE=str(tmp_path / "keys")) as process:
        assert httpx.get(process.url + "/v1/models").status_code == 401
        key = {"Authorization": "Bearer sk-0123456789abcdef"}
        assert httpx.get(process.url + "/v1/models", headers=key).status_code == 200


def test_bad_key_is_a_wrong_setting_and_never_logged(tmp_path: Path):
    (tmp_path / "keys").write_text("secret\n")
    with start(tmp_path, LLM_API_KEYS_FILE=str(tmp_path / "keys")) as process:
        assert process.exit_code() == EXIT_CONFIG
        (line,) = process.log
        assert ": line 1: a key of 6 characters" in line and "secret" not in line


def test_taken_port_is_an_error_with_its_name(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with start(tmp_path, LLM_PORT=port) as process:
            assert process.exit_code() == EXIT_SOFTWARE
            assert f"LLM_PORT={port}: cannot listen: Address already in use" in process.log[-1]


def test_no_library_set_is_a_wrong_setting(tmp_path: Path):
    process = Process(tmp_path, module="service")
    try:
        assert process.exit_code() == EXIT_CONFIG
        assert "no library set fits" in "".join(process.log)
    finally:
        process.notify.close()


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--nonsense", EXIT_CONFIG)])
def test_help_prints_every_setting(argument: str, code: int):
    ran = subprocess.run([sys.executable, "-m", "service", argument], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == code
    assert all(setting.name in ran.stdout for setting in SETTINGS)


def test_importing_the_service_needs_no_llama():
    code = "import sys, service.__main__; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
