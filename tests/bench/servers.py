"""The servers that are compared: how each is started, on the same model file, with the same threads and context.

Each runs as a child of this process, listens on a free port of loopback, logs to a file, and is stopped by its own
process id. Knows command lines and environments. Knows nothing of workloads.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .workloads import MAX_TTFT_S

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_S = 20.0
# The longest request of a workload fits into a slot, and 8 slots fit into the cache of every server.
SLOT_CONTEXT = 2048
SLOTS = 8


@dataclass(frozen=True)
class Setup:
    """What all servers share. lib_sets: our library sets; peer_set: a set with llama-server and libmtmd; peer_python:
    a Python with the binding's server extra; examples: the folder of llama-cpp-python's examples/server."""

    model: Path
    threads: int
    folder: Path
    lib_sets: Path
    peer_set: Path | None = None
    peer_python: Path | None = None
    examples: Path | None = None


@dataclass(frozen=True)
class Launch:
    """A command line, and what it changes in the environment."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One column of the table. launch(setup, port, is_overload) says how it starts."""

    name: str
    about: str
    health_path: str
    launch: Callable[[Setup, int, bool], Launch]


def launch_ours(setup: Setup, port: int, is_overload: bool) -> Launch:
    state = setup.folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    return Launch(
        [sys.executable, "-m", "service"],
        {
            "LLM_MODEL": str(setup.model),
            "LLM_HOST": "127.0.0.1",
            "LLM_PORT": str(port),
            "LLM_THREADS": str(setup.threads),
            "LLM_CONTEXT": str(SLOT_CONTEXT),
            "LLM_CACHE_TOKENS": str(SLOTS * SLOT_CONTEXT),
            "LLM_LIB_DIR": str(setup.lib_sets),
            "LLM_STATE_DIR": str(state),
            "LLM_SPECULATE": "off",  # random weights repeat themselves: guessing would look better than it is
            # An operator who promises MAX_TTFT_S does not accept what is expected to wait as long as that.
            **({"LLM_MAX_WAIT_S": f"{MAX_TTFT_S / 2:.0f}"} if is_overload else {}),
        },
    )


def launch_llama_server(*options: str) -> Callable[[Setup, int, bool], Launch]:
    def launch(setup: Setup, port: int, _is_overload: bool) -> Launch:
        assert setup.peer_set
        command = [str(setup.peer_set / "llama-server"), "--model", str(setup.model), "--threads", str(setup.threads)]
        command += ["--ctx-size", str(SLOTS * SLOT_CONTEXT), "--host", "127.0.0.1", "--port", str(port), *options]
        return Launch(command)

    return launch


def launch_binding_server(setup: Setup, port: int, _is_overload: bool) -> Launch:
    """One sequence only. By default it breaks off a stream when the next request comes; here it lets them finish."""
    options = {
        "model": setup.model,
        "n_ctx": SLOT_CONTEXT,
        "n_threads": setup.threads,
        "n_threads_batch": setup.threads,
        "host": "127.0.0.1",
        "port": port,
        "interrupt_requests": "false",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return Launch([str(setup.peer_python), "-m", "llama_cpp.server", *words], _peer_libraries(setup))


def launch_examples_server(setup: Setup, port: int, _is_overload: bool) -> Launch:
    model = {
        "path": str(setup.model),
        "alias": "bench",
        "n_ctx": SLOTS * SLOT_CONTEXT,
        "n_seq_max": 2 * SLOTS,
        "threads": setup.threads,
        "threads_batch": setup.threads,
    }
    config = setup.folder / "examples-server.json"
    config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": model}))
    command = [str(setup.peer_python), str(setup.examples / "server.py"), "-C", str(config)]
    return Launch(command, _peer_libraries(setup))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("llamakiln", "this service", "/healthz", launch_ours),
        Kind("llama-server", "defaults (4 slots)", "/health", launch_llama_server()),
        Kind("llama-server-np8", "-np 8", "/health", launch_llama_server("-np", "8")),
        Kind("llama-server-np8-kvu", "-np 8 -kvu", "/health", launch_llama_server("-np", "8", "-kvu")),
        Kind("llama_cpp.server", "python -m llama_cpp.server", "/v1/models", launch_binding_server),
        Kind("examples-server", "llama-cpp-python's examples/server", "/healthz", launch_examples_server),
    )
}
OURS = "llamakiln"
DEFAULT_PEERS = ("llama-server", "llama-server-np8", "llama_cpp.server", "examples-server")


class Server:
    """A running server; use it in a `with`. Its log goes to the setup's folder."""

    def __init__(self, kind: Kind, setup: Setup, is_overload: bool = False) -> None:
        self.port = find_free_port()
        self.log = setup.folder / f"{kind.name}.log"
        launch = kind.launch(setup, self.port, is_overload)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "LLAMA_"))}
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(launch.command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                launch.command,
                env={**inherited, **launch.environment},
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def tail(self) -> str:
        """The last lines of its log, for a message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])

    def stop(self) -> None:
        """End it as an operator would, and for certain after STOP_S."""
        if self.is_alive:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _peer_libraries(setup: Setup) -> dict[str, str]:
    """Point the binding at llama-server's own libraries."""
    return {"LLAMA_CPP_LIB_PATH": str(setup.peer_set), "MTMD_CPP_LIB": str(setup.peer_set)}
