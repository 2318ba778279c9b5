"""Two first boots of the same image are two different machines with the same contents. Needs facts, not nodes."""

import json

import pytest


@pytest.fixture(scope="module")
def copies(pytestconfig):
    return [json.loads(path.read_text()) for path in pytestconfig.getoption("--copies")]


def test_copies_have_different_machine_ids(copies):
    """systemd, DHCP and the journal take it for the machine's name."""
    assert copies[0]["machine_id"] != copies[1]["machine_id"]


def test_copies_have_different_host_keys(copies):
    keys = [{line.split()[1] for line in copy["host_keys"].splitlines()} for copy in copies]
    assert keys[0]
    assert keys[1]
    assert keys[0] & keys[1] == set()


@pytest.mark.parametrize("fact", ["image_json", "packages", "wheels", "sets", "model_digests", "unit_links", "llm_env"])
def test_copies_hold_the_same(copies, fact):
    """First boot installs and changes nothing: what a node is was decided by the bake."""
    assert copies[0][fact] == copies[1][fact]
