"""PROVIDER=/path: the stack's tests run with a provider that the user has, told where the tenancy is.

The program here is the stand-in under another path; Oracle's own was not run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cloud import offer
from tests.stack.combinations import OPTIONS
from tests.stack.deployment import REPOSITORY, deploying


@pytest.fixture
def program(tmp_path: Path, terraform: Path) -> Path:
    """A terraform-provider-oci as a person has it: one file, somewhere."""
    file = tmp_path / "bin/terraform-provider-oci_v8.28.0"
    file.parent.mkdir()
    file.write_text(
        f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m tests.cloud.provider_binary'
        f' "{terraform}/tfplugin5.proto"\n'
    )
    file.chmod(0o755)
    return file


def test_provider_that_the_user_has_applies_plans_nothing_more_and_destroys(
    program: Path, tmp_path: Path, terraform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER", str(program))
    chosen = {**OPTIONS["image"]["oci file"], **OPTIONS["ssh"]["bastion"], **OPTIONS["waf"]["on"]}
    with deploying(tmp_path / "stack", terraform) as running:
        assert "TF_REATTACH_PROVIDERS" not in running.offer.variables
        running.apply(**chosen)
        assert len(running.tenancy.live("instances")) == 2
        assert running.plan(**chosen).actions == {}
        running.destroy()
        assert running.tenancy.live("vcns") == []
        # the import's, which no override leads here
        assert any(call.startswith("GET /20160918/workRequests/") for call in running.tenancy.calls)


def test_path_that_is_no_program_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROVIDER", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="must be the path of a terraform-provider-oci that can be run"):
        offer.chosen()


def test_which_provider_runs_is_said_in_a_line(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROVIDER", raising=False)
    assert offer.said().startswith("stack tests: the stand-in OCI provider (PROVIDER=")
    monkeypatch.setenv("PROVIDER", str(program))
    assert offer.said() == f"stack tests: OCI provider {program}"


def test_nothing_of_a_persons_own_settings_reaches_terraform() -> None:
    made = offer.Offer(Path("terraform"), {"TF_VAR_region": "r"}, timeout_s=1)
    theirs = {"TF_VAR_region": "theirs", "OCI_CLI_PROFILE": "x", "https_proxy": "http://proxy", "PATH": os.defpath}
    assert made.environment(theirs, TF_VAR_name="n") == {
        "PATH": os.defpath,
        "TF_VAR_name": "n",
        "TF_VAR_region": "r",
    }
