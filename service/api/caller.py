"""Who asks: with whom it shares what was computed, and what it is told of that.

With API keys each key has a namespace of its own. Without keys all share one, which is what common prefixes live on,
and a client is an address. A `cache_salt` narrows a namespace. Knows the request's environment and nothing of caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any


@dataclass(frozen=True)
class Caller:
    """key: the name of its API key, empty if none is asked for."""

    key: str
    address: str

    @property
    def client(self) -> str:
        return self.key or self.address

    def namespace(self, salt: str) -> str:
        return f"{self.key} {salt}"  # a key's name has no space


def read_caller(environ: dict[str, Any], key: str) -> Caller:
    """NGINX tells its client's address, as X-Real-IP. Only somebody on this machine is believed that it is NGINX."""
    peer = _read_address(environ.get("REMOTE_ADDR", ""))
    told = _read_address(environ.get("HTTP_X_REAL_IP", ""))
    return Caller(key, str((peer and peer.is_loopback and told) or peer or ""))


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
