"""What the node shows to the network: two ports, ssh by key only, and the firewall rule in its place."""

import re
from typing import NamedTuple

import pytest

WORLD = {
    ("tcp", 22): "ssh",
    ("tcp", 80): "NGINX",
    ("udp", 68): "the DHCP client, for answers of the DHCP server",
    ("udp", 546): "the DHCPv6 client",
}
LOOPBACK = {
    ("tcp", 8080): "the service, behind NGINX",
    ("tcp", 53): "systemd-resolved's stub",
    ("udp", 53): "systemd-resolved's stub",
    ("udp", 323): "chrony's command port",
}


class Listener(NamedTuple):
    protocol: str
    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return self.address.startswith("127.") or self.address == "::1"


def listeners(facts) -> set[Listener]:
    """Read `ss -H -lntup`: protocol, state, queues, local address:port, ..."""
    found = set()
    for line in facts.lines("listening"):
        protocol, _, _, _, local = line.split()[:5]
        address, _, port = local.rpartition(":")
        found.add(Listener(protocol, address.split("%")[0].strip("[]"), int(port)))
    return found


def test_nothing_else_listens_to_the_world(facts):
    """Exactly ssh and HTTP; the DHCP client's ports are not services: they take answers only."""
    shown = {(each.protocol, each.port) for each in listeners(facts) if not each.is_loopback}
    assert shown - WORLD.keys() == set()
    assert {(protocol, port) for protocol, port in shown if protocol == "tcp"} == {("tcp", 22), ("tcp", 80)}


def test_nothing_else_listens_on_loopback(facts):
    shown = {(each.protocol, each.port) for each in listeners(facts) if each.is_loopback}
    assert shown - LOOPBACK.keys() == set()


def test_service_listens_on_loopback_only(facts):
    """Its limits stand in NGINX: nobody may walk around them."""
    assert {each.address for each in listeners(facts) if each.port == 8080} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("passwordauthentication", {"no"}),
        ("kbdinteractiveauthentication", {"no"}),
        ("permitrootlogin", {"no", "prohibit-password", "without-password", "forced-commands-only"}),
        ("permitemptypasswords", {"no"}),
        ("pubkeyauthentication", {"yes"}),
    ],
)
def test_ssh_takes_keys_only(facts, setting, values):
    """Nodes have public images of themselves: a password that was never set cannot be guessed."""
    effective = dict(line.split(" ", 1) for line in facts.lines("sshd") if " " in line)
    assert effective[setting] in values


@pytest.mark.parametrize("family", ["firewall_v4", "firewall_v6"])
def test_firewall_lets_http_in_before_it_rejects(facts, family):
    """Oracle's Ubuntu images end their INPUT chain with REJECT: an ACCEPT after it would never be reached.

    Other bases have no such file, and then nothing filters port 80 on the node.
    """
    if "No such file" in facts[family]:
        assert "Oracle Cloud" not in facts["os_release"]
        pytest.skip(f"this base has no /etc/iptables/rules.{family[-2:]}")
    rules = [line for line in facts.lines(family) if line.startswith("-A INPUT")]
    accepts = [index for index, rule in enumerate(rules) if re.search(r"-p tcp\b.*--dport 80\b.*-j ACCEPT", rule)]
    rejects = [index for index, rule in enumerate(rules) if re.search(r"-j (REJECT|DROP)", rule)]
    assert len(accepts) == 1
    assert all(accepts[0] < index for index in rejects)
