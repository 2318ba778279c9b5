"""The zip that Resource Manager takes: what runs and nothing else, and the same bytes from the same files."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.stack.deployment import STACK


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    from scripts.stack.pack import pack

    shutil.copytree(STACK, tmp_path / "copy")
    for number, file in enumerate(sorted((tmp_path / "copy").iterdir(), reverse=True)):
        os.utime(file, (number, number))
        file.chmod(0o600)
    pack(STACK, tmp_path / "one.zip")
    pack(tmp_path / "copy", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_zip_holds_what_runs_and_nothing_else(tmp_path: Path) -> None:
    from scripts.stack.pack import MAX_BYTES, pack

    shutil.copytree(STACK, tmp_path / "copy")
    for name in ("terraform.tfstate", ".terraform.lock.hcl", "terraform.tfvars", "notes.md"):
        (tmp_path / "copy" / name).write_text("secret")
    (tmp_path / "copy" / ".terraform").mkdir()
    n_bytes = pack(tmp_path / "copy", tmp_path / "stack.zip")
    names = zipfile.ZipFile(tmp_path / "stack.zip").namelist()
    assert names == sorted({file.name for file in STACK.iterdir()} - {"README.md"})
    assert {"schema.yaml", "versions.tf", "cloud-init.yaml.tftpl"} <= set(names)
    assert n_bytes < MAX_BYTES / 100


def test_form_with_faults_is_not_packed(tmp_path: Path) -> None:
    from scripts.problem import Problem
    from scripts.stack.pack import pack

    shutil.copytree(STACK, tmp_path / "copy")
    (tmp_path / "copy" / "more.tf").write_text('variable "extra" {\n  type = string\n}\n')
    with pytest.raises(Problem, match="extra: this variable is not in the form"):
        pack(tmp_path / "copy", tmp_path / "stack.zip")
    assert not (tmp_path / "stack.zip").exists()


def test_zip_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    from scripts.problem import Problem
    from scripts.stack.pack import MAX_BYTES, pack

    shutil.copytree(STACK, tmp_path / "copy")
    (tmp_path / "copy" / "large.tf").write_text("#" * MAX_BYTES)
    with pytest.raises(Problem, match="Resource Manager takes at most"):
        pack(tmp_path / "copy", tmp_path / "stack.zip")
    assert not (tmp_path / "stack.zip").exists()


def test_provider_takes_only_the_region() -> None:
    """Resource Manager brings the credentials; a profile or a key in the provider block would break it."""
    versions = (STACK / "versions.tf").read_text()
    assert 'provider "oci" {\n  region = var.region\n}\n' in versions
