"""What the stack's tests share: Terraform, deployments, and the plans of all pairs of options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cloud.offer import said
from tests.stack import combinations
from tests.stack.deployment import Deployment, Plan, deploying, existing_network


def pytest_report_header() -> str:
    return said()


@pytest.fixture(scope="session")
def terraform() -> Path:
    home = os.environ.get("TERRAFORM_HOME")
    if not home:
        pytest.skip("TERRAFORM_HOME is not set; `make test` sets it to what scripts/setup/terraform.sh built")
    return Path(home)


@pytest.fixture
def deployment(tmp_path: Path, terraform: Path) -> Iterator[Deployment]:
    with deploying(tmp_path / "stack", terraform) as running:
        yield running


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory, terraform: Path) -> dict[str, Plan]:
    """The plan of each row of every_pair, by its label; two at a time."""
    folder = tmp_path_factory.mktemp("plans")

    def make(number: int, row: combinations.Row) -> tuple[str, Plan]:
        with deploying(folder / str(number), terraform) as running:
            network = existing_network(running.tenancy)
            return combinations.label(row), running.plan("-refresh=false", **combinations.variables(row, network))

    rows = combinations.every_pair()
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(make, range(len(rows)), rows))
