"""Who asks, and with whom it shares."""

from __future__ import annotations

import pytest

from service.api.caller import Caller, find_address

KEYS = ["sk-0123456789abcdef", "sk-fedcba9876543210"]


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),  # the same customer
        ("::1", None, "::1"),
        ("127.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.9", "203.0.113.9", "10.0.0.9"),  # only NGINX on this machine is believed
        ("203.0.113.1", "127.0.0.1", "203.0.113.1"),
        ("127.0.0.1", "203.0.113.9, 10.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "nonsense\xff", "127.0.0.1"),
        ("", None, ""),
    ],
)
def test_address_is_the_peers_or_what_nginx_says(peer: str, told: str | None, address: str):
    environ = {"REMOTE_ADDR": peer, **({} if told is None else {"HTTP_X_REAL_IP": told})}
    assert find_address(environ) == Caller("", address).client == address


def test_key_is_the_client_wherever_it_asks_from():
    callers = [Caller("abc", address) for address in ("10.0.0.1", "10.0.0.2")]
    assert [caller.client for caller in callers] == ["abc", "abc"]


def test_namespace_is_the_keys_and_the_salt_narrows_it():
    names = [Caller(key, "").namespace(salt) for key in ("", "1", "2") for salt in ("", "1", "1 2")]
    assert len(set(names)) == len(names)
