"""tests/image/facts.sh and the tests that read it, held together without a node."""

from __future__ import annotations

import re
from pathlib import Path

IMAGE_TESTS = Path(__file__).resolve().parents[1] / "image"
REPORT = IMAGE_TESTS.parents[1] / "scripts" / "bake" / "test_image.py"
NAMES = re.findall(r"^fact (\w+)", (IMAGE_TESTS / "facts.sh").read_text(), re.M)


def test_no_fact_is_read_twice():
    assert len(NAMES) == len(set(NAMES)) > 50


def test_every_fact_has_a_reader():
    """A fact that nobody asks about costs seconds on an emulated node."""
    readers = "".join(path.read_text() for path in (*IMAGE_TESTS.glob("*.py"), REPORT))
    assert [name for name in NAMES if f'"{name}"' not in readers] == []


def test_every_fact_that_is_asked_for_is_read():
    asked = set()
    for path in IMAGE_TESTS.glob("*.py"):
        asked |= set(re.findall(r'facts(?:\[|\.lines\(|\.table\()"(\w+)"', path.read_text()))
    assert asked - set(NAMES) == set()
