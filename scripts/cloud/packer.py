"""Find a Packer that can bake in OCI, and run it: all of its output in a log, its steps on the screen.

Knows Packer's command line and its output's form. Knows nothing of Oracle Cloud.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..bake.payload import read_pins
from ..files import REPOSITORY
from ..problem import Problem
from ..stage import clock_text

TEMPLATE = "packer/oci"
TAIL_LINES = 20
STEP = re.compile(r"^==> [^:]+: (?P<step>\S.*)")


class PackerFailed(Exception):
    """`packer build` ended with an error. Its image may exist all the same."""

    def __init__(self, returncode: int, log_file: Path, tail: list[str]):
        super().__init__(f"packer build ended with {returncode}")
        self.log_file = log_file
        self.tail = tail


def find_packer() -> tuple[str, str]:
    """Path and version of a Packer new enough for packer/oci, its plugin installed.

    Raises Problem for an older one and where the plugin can be neither found nor downloaded.
    """
    setup = subprocess.run(
        [REPOSITORY / "scripts/setup/packer.sh"], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False
    )
    if setup.returncode:
        raise Problem("Packer could not be set up: see the lines above")
    packer = setup.stdout.splitlines()[-1]
    version = ask(packer, "version").removeprefix("Packer v").split()[0]
    needed = read_pins()["PACKER_MIN_OCI"]
    if numbers(version) < numbers(needed):
        raise Problem(
            f"{packer} is Packer {version}; baking in OCI needs {needed} or newer, for flexible shapes",
            "install a newer Packer or Go, or PACKER=/path/to/packer make image-oci",
        )
    try:
        ask(packer, "init", TEMPLATE)
    except Problem as problem:
        raise Problem(
            f"Packer's oracle plugin is neither installed nor could it be downloaded: {problem.message}",
            "packer plugins install github.com/hashicorp/oracle, on a machine that reaches GitHub",
        ) from problem
    return packer, version


def numbers(version: str) -> tuple[int, ...]:
    """1.10.0-dev -> (1, 10, 0): enough to compare releases."""
    return tuple(int(part) for part in version.split("-")[0].split("."))


def ask(packer: str, *arguments: str) -> str:
    """What a short Packer command says; Problem with its own words if it fails."""
    done = subprocess.run([packer, *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode:
        said = " ".join(line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip())
        raise Problem(f"packer {arguments[0]}: {said}")
    return done.stdout


def variable_arguments(var_file: Path, filled_in: Mapping[str, Any]) -> list[str]:
    """The person's file first, ours after it, as `packer validate` and `packer build` take them."""
    return [f"-var-file={var_file.resolve()}", *(f"-var={name}={value}" for name, value in filled_in.items())]


def validate(packer: str, arguments: list[str]) -> None:
    """Packer's own check of template, variables and files. It asks no cloud."""
    ask(packer, "validate", *arguments, TEMPLATE)


def build(packer: str, arguments: list[str], log_file: Path, log: Callable[[str], None]) -> None:
    """Bake. Raises PackerFailed with the last lines.

    Ctrl-C reaches Packer too, which then ends its instance: its output is read until it is done.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    began = time.monotonic()
    command = [packer, "build", "-color=false", *arguments, TEMPLATE]
    with (
        log_file.open("w") as record,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=REPOSITORY
        ) as process,
    ):
        stopped = None
        while True:
            try:
                for line in process.stdout:
                    record.write(line)
                    record.flush()
                    tail.append(line.rstrip())
                    if step := STEP.match(line):
                        log(f"  {clock_text(time.monotonic() - began)} {step['step']}")
                break
            except KeyboardInterrupt as interrupt:
                log("stopping: Packer ends its instance first, which takes a minute")
                stopped = interrupt
    if stopped:
        raise stopped
    if process.returncode:
        raise PackerFailed(process.returncode, log_file, list(tail))
