"""What the tests of scripts share: the scripts' folder on the path, a hub on loopback, a way to run a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
for folder in (REPOSITORY / "scripts", Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def hub():
    from hub import Hub

    with Hub() as running:
        yield running


@pytest.fixture
def run_script(tmp_path):
    """Call `run_script("fetch_model.py", *arguments, HF_TOKEN="x")` as a person would, and get the finished process.

    In a fresh home, with nothing inherited that would reach a real hub.
    """

    def run(script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "LLAMAKILN_"))}
        environment = {
            **{k: v for k, v in inherited.items() if not k.lower().endswith("_proxy")},
            "HOME": str(tmp_path / "home"),
            "LLAMAKILN_CACHE": str(tmp_path / "cache"),
            "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens on the discard port
            **variables,
        }
        command = [sys.executable, str(REPOSITORY / "scripts" / script), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def deployer(tmp_path, monkeypatch) -> Iterator:
    """Somebody who deploys: a loopback tenancy whose Resource Manager runs the real Terraform."""
    from tests.cloud.deployer import Deployer
    from tests.cloud.services.resource_manager import running_jobs
    from tests.cloud.tenancy import Tenancy

    home = os.environ.get("TERRAFORM_HOME")
    if not home:
        pytest.skip("TERRAFORM_HOME is not set; `make test` sets it to what scripts/setup_terraform.sh built")
    with Tenancy() as tenancy, running_jobs(tenancy, Path(home), tmp_path / "jobs"):
        yield Deployer(tmp_path, tenancy, monkeypatch)
