"""Tests import `service` and `tests.fakes` from the repository's root, wherever pytest was started.

And each has an id of its own, since pytest-xdist runs one test of each id and is silent about the others.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        operation = getattr(item, "operation_label", None)
        if operation and operation not in item.nodeid:  # pytest 9.2 leaves it out of the id of schemathesis's tests
            item._id = item.id.with_params(operation)
    shared = [id for id, n in Counter(item.nodeid for item in items).items() if n > 1]
    if shared:
        raise pytest.UsageError(f"several tests have the same id: {', '.join(shared)}")
