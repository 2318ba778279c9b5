"""How scripts/setup/provider.sh gets Oracle's provider; the Terraform here does as told, and asks nobody."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BRINGS = (
    'folder="$asked/.terraform/providers/some.host/oracle/oci/8.28.0/linux_arm64"\n'
    'mkdir -p "$folder"; echo program >"$folder/terraform-provider-oci_v8.28.0"'
)
Run = Callable[[str], subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(script)` runs provider.sh with a Terraform that does this; $asked is the folder that it was asked in."""

    def run(script: str) -> subprocess.CompletedProcess:
        terraform = tmp_path / "home/terraform.bin"
        terraform.parent.mkdir(exist_ok=True)
        terraform.write_text(
            f'#!/bin/sh\nasked="${{1#-chdir=}}"\necho "$@" >>"{tmp_path}/calls"\ncp "$asked/main.tf" "{tmp_path}"\n'
            f"{script}\n"
        )
        terraform.chmod(0o755)
        return subprocess.run(
            ["bash", REPOSITORY / "scripts/setup/provider.sh", terraform.parent],
            env={**os.environ, "LLAMAKILN_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_release_that_the_stack_names_is_fetched_once(run: Run, tmp_path: Path) -> None:
    first, second = run(BRINGS), run("exit 1")
    (path,) = first.stdout.splitlines()
    assert second.stdout == first.stdout
    assert Path(path).read_text() == "program\n"
    assert os.access(path, os.X_OK)
    assert 'version = "8.28.0"' in (tmp_path / "main.tf").read_text()
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [("exit 1", "the registry did not give provider oracle/oci 8.28.0"), ("true", "but brought no provider")],
    ids=["not reached", "nothing brought"],
)
def test_registry_that_gives_nothing_is_told_and_nothing_is_kept(run: Run, tmp_path: Path, script, words) -> None:
    done = run(script)
    assert done.returncode != 0
    assert words in done.stderr
    assert done.stdout == ""
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
