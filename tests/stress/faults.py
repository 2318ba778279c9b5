"""What ends or cripples a service, done to a node: what happens, what is lost, how long until it serves again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import EXIT_CONFIG

from .client import Answer, ask, get
from .load import STREAM
from .node import Node, run_node
from .verdict import Check, at_least, at_most, tell

BACK_S = 30.0  # with a model that loads in less than a second; RestartSec and imports are the rest
N_CLIENTS = 12


async def killed(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """kill -9 under load: NGINX answers for it, the service is back, and what ran is lost and nothing else."""
    async with run_node(folder, model, lib_dir) as node:
        await node.wait_ready()
        async with _load(node) as seen:
            await _wait(lambda: seen.answers)  # the others are in the midst of theirs
            node.kill(signal.SIGKILL)
            killed_at = time.monotonic()
            away = await _first_refusal(node)
            await node.wait_ready()
            back_s = time.monotonic() - killed_at
            later: list[Answer] = []
            await _wait(
                lambda: (
                    later.extend(
                        a for a in seen.answers if a.sent_at > killed_at and (a.status, a.is_whole) == (200, True)
                    )
                    or later
                )
            )
        lost = [a for a in seen.answers if a.status == 200 and not a.is_whole]
        return [
            at_most("ready again", back_s, BACK_S, " s"),
            Check("while it was away", f"{away.status} {_code(away)}", "502 service_down", _is_down(away)),
            tell("streams cut off", len(lost)),
            at_most("cut off that began after the kill", sum(a.sent_at > killed_at for a in lost), 0),
            at_least("answered afterwards", sum(a.status == 200 for a in later), 1),
        ]


async def terminated(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """SIGTERM in mid-stream: what was accepted ends whole within LLM_DRAIN_S, then exit 0."""
    async with run_node(folder, model, lib_dir) as node:
        await node.wait_ready()
        async with _load(node) as seen:
            await _wait(lambda: seen.answers)
            node.kill(signal.SIGTERM)
            told_at = time.monotonic()
            exit_code = await node.wait_gone()
            gone_s = time.monotonic() - told_at
            await node.wait_ready()
            back_s = time.monotonic() - told_at
        lost = [a for a in seen.answers if a.status == 200 and not a.is_whole]
        return [
            Check("exit code", str(exit_code), "0", exit_code == 0),
            at_most("gone", gone_s, 20, " s"),
            at_most("ready again", back_s, BACK_S, " s"),
            at_most("accepted and cut off", len(lost), 0),
        ]


async def stuck(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """SIGSTOP: nothing beats. NGINX must not hang for ever on what was asked, and all goes on after SIGCONT."""
    async with run_node(folder, model, lib_dir) as node:
        await node.wait_ready()
        asked = asyncio.create_task(ask(node.port, STREAM))
        await asyncio.sleep(0.2)
        os.kill(node.pid, signal.SIGSTOP)
        page = await get(node.port, "/", timeout_s=5)
        health = await get(node.port, "/healthz", timeout_s=3)
        os.kill(node.pid, signal.SIGCONT)
        answer = await asked
        return [
            Check("the page, from NGINX", str(page.status), "200", page.status == 200),
            tell("/healthz", health.fault or health.status),
            Check("the stream that was stopped", "whole" if answer.is_whole else "cut off", "whole", answer.is_whole),
        ]


async def disk_full(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """The state directory has no room: it serves, and measures again at the next start."""
    small = folder.with_name(folder.name + "-state")
    small.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        return [Check("not run", "no tmpfs can be mounted here", "", None)]
    try:
        with contextlib.suppress(OSError):
            (small / "filler").write_bytes(b"x" * 65536)
        return await _serves(folder, model, lib_dir, LLM_STATE_DIR=str(small), LLM_SYSTEM_PROMPT="You are brief. " * 20)
    finally:
        subprocess.run(["umount", small], check=False)


async def read_only(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """The state directory is not there to be written to at all."""
    return await _serves(folder, model, lib_dir, LLM_STATE_DIR="/proc/self", LLM_SYSTEM_PROMPT="You are brief. " * 20)


async def corrupt_state(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """What an earlier start kept is cut short, and then noise."""
    async with run_node(folder, model, lib_dir, LLM_SYSTEM_PROMPT="You are brief. " * 20) as node:
        await node.wait_ready()
        checks = []
        for name, change in {"cut short": lambda data: data[:-1], "noise": lambda data: os.urandom(len(data))}.items():
            files = [path for path in (folder / "state").rglob("*") if path.is_file()]
            for path in files:
                path.write_bytes(change(path.read_bytes()))
            node.kill(signal.SIGKILL)
            await node.wait_gone()
            seconds = await node.wait_ready()
            answer = await ask(node.port, STREAM)
            checks.append(at_most(f"ready with {len(files)} files {name}", seconds, BACK_S, " s"))
            checks.append(Check("answers", str(answer.status), "200", answer.status == 200))
        return [*checks, Check("deaths", str(node.deaths or 0), "0", not node.deaths)]


async def corrupt_model(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """The model's file is cut in the middle: the service says so and is tried again; NGINX answers meanwhile."""
    folder.mkdir(parents=True)
    broken = folder / "broken.gguf"
    shutil.copy(model, broken)
    os.truncate(broken, model.stat().st_size // 2)
    async with run_node(folder / "node", broken, lib_dir) as node:
        await _wait(lambda: node.exit_code is not None)
        away = await _first_refusal(node)
        told = "llama.cpp" in node.log.read_text(errors="replace")
        shutil.copy(model, broken)
        back_s = await node.wait_ready()
        return [
            Check("exit code", str(node.deaths[0]), "70", node.deaths[0] == 70),
            Check("told in the log", str(told), "True", told),
            Check("meanwhile", f"{away.status} {_code(away)}", "502 or 503", away.status in (502, 503)),
            at_most("serves once the file is whole", back_s, BACK_S, " s"),
        ]


async def wrong_settings(folder: Path, model: Path, lib_dir: Path) -> list[Check]:
    """A value that is not allowed and a name that is not known: exit 78, every fault told, not tried again."""
    async with run_node(folder, model, lib_dir, LLM_MAX_STREAMS="0", LLM_MAX_STREAM="4") as node:
        await _wait(lambda: node.exit_code is not None)
        log = node.log.read_text()
        away = await get(node.port, "/readyz")
        n_faults = log.count("settings: ")
        return [
            Check("exit code", str(node.exit_code), str(EXIT_CONFIG), node.exit_code == EXIT_CONFIG),
            Check("faults told", str(n_faults), "2", n_faults == 2),
            Check("NGINX", f"{away.status} {_code(away)}", "502 service_down", _is_down(away)),
        ]


@dataclass
class Seen:
    """What the clients of a load got."""

    answers: list[Answer] = field(default_factory=list)


@contextlib.asynccontextmanager
async def _load(node: Node) -> AsyncIterator[Seen]:
    """Clients that ask one question after another; what they got."""
    seen = Seen()

    async def work(n: int) -> None:
        while True:
            answer = await ask(node.port, STREAM, 800 + n)
            seen.answers.append(answer)
            await asyncio.sleep(0.1 if answer.status == 200 else 0.3)

    tasks = [asyncio.create_task(work(n)) for n in range(N_CLIENTS)]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serves(folder: Path, model: Path, lib_dir: Path, **settings: str) -> list[Check]:
    async with run_node(folder, model, lib_dir, **settings) as node:
        ready_s = await node.wait_ready()
        answer = await ask(node.port, STREAM)
        await asyncio.sleep(3)  # it measures, and keeps what it found if it can
        again = await ask(node.port, STREAM)
        return [
            at_most("ready", ready_s, BACK_S, " s"),
            Check("answers", f"{answer.status}, {again.status}", "200, 200", answer.status == again.status == 200),
            Check("deaths", str(node.deaths or 0), "0", not node.deaths),
        ]


async def _first_refusal(node: Node) -> Answer:
    while (answer := await get(node.port, "/readyz")).status == 200:
        await asyncio.sleep(0.01)
    return answer


async def _wait(is_so: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        await asyncio.sleep(0.02)


def _code(answer: Answer) -> str:
    return answer.body.decode("utf-8", "replace").partition('"code":"')[2].partition('"')[0]


def _is_down(answer: Answer) -> bool:
    return (answer.status, _code(answer)) == (502, "service_down") and answer.is_told_when


SCENARIOS: dict[str, Callable[[Path, Path, Path], Awaitable[list[Check]]]] = {
    "kill-9": killed,
    "sigterm": terminated,
    "stuck": stuck,
    "disk-full": disk_full,
    "read-only": read_only,
    "corrupt-state": corrupt_state,
    "corrupt-model": corrupt_model,
    "wrong-settings": wrong_settings,
}
