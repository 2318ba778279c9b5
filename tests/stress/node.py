"""One node on loopback: the real service behind the image's NGINX configuration, kept alive as systemd keeps it.

The supervisor starts the service again RESTART_S after it ended, unless it said that its settings are wrong, and counts
the ends that nobody asked for. Knows processes, ports and files. Knows nothing of what is asked of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import EXIT_CONFIG
from tests.runtime.door import ETC, ROOT, Nginx, free_port, run_nginx

RESTART_S = float(re.search(r"^RestartSec=(\d+)$", (ETC / "systemd/system/llm.service").read_text(), re.M)[1])
READY_S = 120.0
STOP_S = 60.0
FILES = 30_000  # descriptors, for thousands of connections on either side


@dataclass
class Node:
    folder: Path
    environment: Mapping[str, str]
    backend_port: int
    nginx: Nginx
    prefix: tuple[str, ...] = ()  # a command that starts the service's
    deaths: list[int] = field(default_factory=list)  # exit codes nobody asked for
    exit_code: int | None = None
    _process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None
    _is_wanted: bool = True
    _is_asked: bool = False

    @property
    def port(self) -> int:
        return self.nginx.port

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    def kill(self, number: signal.Signals) -> None:
        """An end that is asked for; it is started again unless `stop` was called."""
        assert self._process
        self._is_asked = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait_gone(self) -> int:
        """Until the process that runs now has ended. Returns its exit code."""
        assert self._process
        return await self._process.wait()

    async def stop(self) -> None:
        self._is_wanted = False
        if self._process and self._process.returncode is None:
            self.kill(signal.SIGTERM)
        if self._keeper:
            try:
                await asyncio.wait_for(asyncio.shield(self._keeper), STOP_S)
            except asyncio.TimeoutError:
                self.kill(signal.SIGKILL)
                await self._keeper

    async def wait_ready(self, timeout_s: float = READY_S) -> float:
        """Seconds until /readyz is 200 through NGINX. Raises TimeoutError."""
        from .client import get

        started = time.monotonic()
        while (await get(self.port, "/readyz", timeout_s=5)).status != 200:
            if time.monotonic() - started > timeout_s or (self._keeper and self._keeper.done()):
                raise TimeoutError(f"not ready: {self.tail()}")
            await asyncio.sleep(0.05)
        return time.monotonic() - started

    def tail(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-4:])

    async def _keep(self) -> None:
        while self._is_wanted:
            self._is_asked = False
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self.prefix,
                    sys.executable,
                    "-m",
                    "service",
                    cwd=ROOT,
                    env=self.environment,
                    stderr=log,
                    stdout=log,
                )
            self.exit_code = await self._process.wait()
            if self.exit_code == EXIT_CONFIG:  # RestartPreventExitStatus
                return
            if not self._is_asked:
                self.deaths.append(self.exit_code)
            if self._is_wanted:
                await asyncio.sleep(RESTART_S)


def raise_limits() -> int:
    """As many descriptors as are allowed here; NGINX inherits them. Returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(FILES, hard) if hard != resource.RLIM_INFINITY else FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@contextlib.asynccontextmanager
async def run_node(
    folder: Path, model: Path, lib_dir: Path, *, prefix: tuple[str, ...] = (), **settings: str
) -> AsyncIterator[Node]:
    """settings: LLM_* of this node. It is started, and not waited for."""
    folder.mkdir(parents=True)
    (folder / "state").mkdir()
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    ours = {
        "LLM_MODEL": str(model),
        "LLM_MODEL_NAME": "stress",
        "LLM_LIB_DIR": str(lib_dir),
        "LLM_PORT": str(port),
        "LLM_STATE_DIR": str(folder / "state"),
        "LLM_DRAIN_S": "10",
    }
    with ExitStack() as stack:
        nginx = stack.enter_context(run_nginx(folder, port))
        node = Node(folder, {**inherited, **ours, **settings}, port, nginx, prefix)
        node.start()
        try:
            yield node
        finally:
            await node.stop()
