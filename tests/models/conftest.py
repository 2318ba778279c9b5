"""A model hub on loopback, for all tests of this room."""

import pytest

from tests.models.hub import Hub


@pytest.fixture
def hub():
    with Hub() as running:
        yield running
