"""Tests import `service`, `scripts` and `tests` from the repository's root, wherever pytest was started.

`run_script` calls one of our commands as a person would. And each test has an id of its own, since pytest-xdist runs
one test of each id and is silent about the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        operation = getattr(item, "operation_label", None)
        if operation and operation not in item.nodeid:  # pytest 9.2 leaves it out of the id of schemathesis's tests
            item._id = item.id.with_params(operation)
    shared = [id for id, n in Counter(item.nodeid for item in items).items() if n > 1]
    if shared:
        raise pytest.UsageError(f"several tests have the same id: {', '.join(shared)}")


@pytest.fixture
def run_script(tmp_path):
    """Call `run_script("models.fetch", *arguments, HF_TOKEN="x")` as a person would, and get the finished process.

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
        command = [sys.executable, "-m", f"scripts.{script}", *map(str, arguments)]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run
