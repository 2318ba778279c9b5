"""The parts of `make stress` that judge: a budget that is missed is told, and what was not seen was not kept."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest

from tests.stress import bodies
from tests.stress.client import address
from tests.stress.verdict import Check, at_least, at_most, write_table
from tests.stress.witness import percentile


@pytest.mark.parametrize(
    ("check", "is_kept"),
    [
        (at_most("x", 0.2, 0.2), True),
        (at_most("x", 0.21, 0.2), False),
        (at_most("x", math.nan, 0.2), False),
        (at_least("x", 0.7, 0.7), True),
        (at_least("x", 0.69, 0.7), False),
        (at_least("x", math.nan, 0.7), False),
    ],
)
def test_budgets(check: Check, is_kept: bool):
    assert check.ok is is_kept


def test_percentile_is_the_nearest_rank():
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    assert percentile([7], 99) == 7 and math.isnan(percentile([], 99))


def test_table_marks_what_was_missed():
    text = write_table([("a", at_most("x", 1, 0)), ("a", at_most("y", 0, 0)), ("b", Check("z", "1"))])
    assert [line.split()[-1] for line in text.splitlines()] == ["budget", "FAIL", "pass", "1"]


def test_every_client_has_an_address_of_its_own():
    addresses = [address(n) for n in range(70_000)]
    assert len(set(addresses)) == 70_000 and "127.0.0.1" not in addresses
    assert all(0 < int(part) < 256 or part == "0" for part in addresses[-1].split("."))


def test_poisonous_bodies_fit_what_a_node_takes():
    """Otherwise all that is tried is the limit itself."""
    thrown = list(bodies.poisonous())
    assert len(thrown) > 80 and len({name for name, _, _ in thrown}) == len(thrown)
    assert [name for name, _, data in thrown if len(data) > bodies.MIB] == []


def test_mutants_come_again_by_their_seed_and_differ():
    first, again = (list(itertools.islice(bodies.mutants(random.Random(15)), 50)) for _ in range(2))
    assert first == again and len({data for _, _, data in first}) > 40


def test_running_requests_are_read_from_status():
    told = json.dumps({"metrics": {"llm_requests_running": 2.0}}).encode()
    assert bodies.read_running(b"5\r\n" + told + b"\r\n0\r\n\r\n") == 2
    assert bodies.read_running(b"nothing") == math.inf
