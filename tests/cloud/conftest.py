"""Somebody who deploys, for the tests of the commands that do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def deployer(tmp_path, monkeypatch) -> Iterator:
    """Somebody who deploys: a loopback tenancy whose Resource Manager runs the real Terraform."""
    from tests.cloud.deployer import Deployer
    from tests.cloud.services.resource_manager import running_jobs
    from tests.cloud.tenancy import Tenancy

    home = os.environ.get("TERRAFORM_HOME")
    if not home:
        pytest.skip("TERRAFORM_HOME is not set; `make test` sets it to what scripts/setup/terraform.sh built")
    with Tenancy() as tenancy, running_jobs(tenancy, Path(home), tmp_path / "jobs"):
        yield Deployer(tmp_path, tenancy, monkeypatch)
