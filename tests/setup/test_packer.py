"""Which Packer scripts/setup/packer.sh gives, and what it says about it; nothing is built here.

The script runs with a PATH that holds only what a test puts there, the usual commands, and a `go` that answers as told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
USUAL = [
    *("awk", "bash", "cat", "chmod", "cut", "dirname", "env", "head", "mkdir", "mktemp", "mv", "nice", "rm", "sed"),
    *("sh", "sha256sum", "sort", "tail", "tr", "uname"),
]


@pytest.fixture
def machine(tmp_path):
    """`machine(go="1.19", packer="1.6.6")` runs the script where these are installed; None is not installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in USUAL:
        (folder / name).symlink_to(shutil.which(name))

    def command(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def run(go: str, packer: str | None, **variables: str) -> subprocess.CompletedProcess:
        answers = f'env) echo go{go} ;; version) echo "go version go{go}" ;; *) echo refused >&2; exit 1 ;;'
        command("go", f'case "$1" in {answers} esac')
        if packer:
            command("packer", f"echo Packer v{packer}")
        inherited = {name: value for name, value in os.environ.items() if name != "PACKER"}
        environment = {**inherited, "PATH": str(folder), "LLAMAKILN_CACHE": str(tmp_path / "cache"), **variables}
        script = REPOSITORY / "scripts/setup/packer.sh"
        return subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)

    run.folder = folder
    run.cache = tmp_path / "cache"
    return run


def test_old_go_leads_to_the_installed_packer_and_says_why(machine):
    done = machine(go="1.19", packer="1.6.6")
    assert done.stdout.splitlines() == [str(machine.folder / "packer")]
    assert "packer 1.6.6" in done.stderr
    assert "Go 1.19 is older than 1.24.0" in done.stderr


def test_modules_that_cannot_be_downloaded_lead_to_the_installed_packer_and_leave_nothing(machine):
    done = machine(go="1.99", packer="1.6.6")
    assert done.stdout.splitlines() == [str(machine.folder / "packer")]
    assert "its Go modules could not be downloaded" in done.stderr
    assert list(machine.cache.glob("packer/*")) == []


def test_no_packer_and_no_way_to_build_one_is_an_error_with_a_way_out(machine):
    done = machine(go="1.19", packer=None)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no Packer" in done.stderr
    assert "try: install Packer, or Go 1.24.0 or newer" in done.stderr


def test_packer_of_the_environment_is_taken_as_it_is(machine):
    own = machine.folder / "own-packer"
    own.write_text("#!/bin/sh\necho Packer v1.12.0\n")
    own.chmod(0o755)
    done = machine(go="1.99", packer="1.6.6", PACKER=str(own))
    assert done.stdout.splitlines() == [str(own)]
    assert "packer 1.12.0" in done.stderr


def test_program_that_is_not_packer_is_refused(machine):
    done = machine(go="1.99", packer="1.6.6", PACKER=shutil.which("true"))
    assert done.returncode == 1
    assert "does not answer `version` like Packer" in done.stderr
