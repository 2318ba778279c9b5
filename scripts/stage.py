"""Run the steps of long work so that a person can follow: what runs, for how long, its last words, and what to try.

Knows names, seconds and log files. Knows nothing of what a step does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .problem import Problem

TAIL_LINES = 25
HEARTBEAT_S = 30.0


def clock_text(seconds: float) -> str:
    """Seconds as a person reads a stopwatch: 75 -> '1:15'."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Stages:
    """Announces each step with the time since the start; `done` keeps its name, its seconds and if it was cached."""

    def __init__(self, log_directory: Path):
        self.log_directory = log_directory
        self.done: list[dict[str, str | float | bool]] = []
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line for the person, after the time since the start."""
        print(f"[{clock_text(time.monotonic() - self._began):>6}] {line}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One step: says when it begins and how long it took."""
        began = time.monotonic()
        self.say(f"{name} ...")
        yield
        seconds = round(time.monotonic() - began, 1)
        self.done.append({"name": name, "seconds": seconds, "is_cached": False})
        self.say(f"{name}: done in {clock_text(seconds)}")

    def skip(self, name: str, why: str) -> None:
        """One step that need not be done again."""
        self.done.append({"name": name, "seconds": 0.0, "is_cached": True})
        self.say(f"{name}: {why}")

    def run(self, command: Sequence[str | Path], log: str, way_out: str = "", env: dict[str, str] | None = None) -> str:
        """Run `command` with all it says in the log file; return the last line of it, the answer of our scripts.

        A line every half minute shows that it lives. Raises Problem with the log's tail and path when it fails.
        """
        self.log_directory.mkdir(parents=True, exist_ok=True)
        path = self.log_directory / f"{log}.log"
        began = time.monotonic()
        stopped = threading.Event()

        def heartbeat() -> None:
            while not stopped.wait(HEARTBEAT_S):
                self.say(f"  {clock_text(time.monotonic() - began)} {log}: {last_line(path)}")

        with path.open("wb") as file:
            beat = threading.Thread(target=heartbeat, daemon=True)
            beat.start()
            try:
                # One file for both: what was said last stands last, whichever way it was said.
                command_line = [str(word) for word in command]
                done = subprocess.run(
                    command_line, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, check=False
                )
            finally:
                stopped.set()
        if done.returncode:
            raise failure(f"{log} failed (exit {done.returncode})", path, way_out)
        return "".join(tail(path, 1))


def last_line(path: Path) -> str:
    """The last line with text in it, cut to fit a terminal."""
    lines = tail(path, 1)
    return lines[0][:110] if lines else ""


def tail(path: Path, n_lines: int = TAIL_LINES) -> list[str]:
    """The last `n_lines` lines with text in them."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()][-n_lines:]


def failure(message: str, log: Path, way_out: str) -> Problem:
    """A Problem that shows the log's last lines and where the whole log is."""
    shown = "\n".join(f"    {line}" for line in tail(log))
    return Problem(f"{message}; the last lines of {log}:\n{shown}", way_out)
