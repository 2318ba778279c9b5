"""clean_image.sh and check_hygiene.sh are a pair: what must be gone is removed, and looked for."""

import pytest

from scripts.files import REPOSITORY

CLEAN = (REPOSITORY / "scripts" / "node" / "clean_image.sh").read_text()
CHECK = (REPOSITORY / "scripts" / "node" / "check_hygiene.sh").read_text()


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        ("/etc/ssh/ssh_host_", "nodes with the same host key can be impersonated"),
        ("authorized_keys", "the bake's key would open every node"),
        ("/etc/machine-id", "nodes would get the same DHCP lease and journal id"),
        ("/var/lib/cloud/", "cloud-init would think it had run"),
        ("/var/lib/systemd/random-seed", "nodes would start from the same entropy"),
        ("/var/log/journal", "the bake's log is nobody's"),
        ("/var/lib/apt/lists/", "stale lists, 100 MB"),
        ("/root/.cache", "caches"),
        ("_history", "what was typed is nobody's"),
        ("ssl-cert-snakeoil.key", "a private key that every node would share"),
        ("/var/tmp/stage", "the bake's own files"),
    ],
)
def test_what_is_removed_is_looked_for(trace, why):
    assert trace in CLEAN, f"not removed: {why}"
    assert trace in CHECK, f"not looked for: {why}"


def test_cleaning_upgrades_and_installs_nothing():
    """A cleanup that touches packages bakes an image that no test has seen."""
    for word in ("upgrade", "apt-get install", "apt install"):
        assert word not in CLEAN
