"""Who asks: with whom it shares what was computed, what it is told of that, and whose turn it is.

And may this page ask: the Host header against DNS rebinding.

With API keys each key has a namespace of its own. Without keys all share one, which is what common prefixes live on,
and a client is an address. A `cache_salt` narrows a namespace. Knows the request's environment and nothing of caches,
queues or limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from ..errors import Misdirected

IPV6_PREFIX = 64  # what one customer is given, and may take any address of


@dataclass(frozen=True)
class Caller:
    """key: the name of its API key, empty if none is asked for. address: as find_address tells it."""

    key: str
    address: str

    @property
    def client(self) -> str:
        return self.key or self.address

    def namespace(self, salt: str) -> str:
        return f"{self.key} {salt}"  # a key's name has no space


def find_address(environ: dict[str, Any]) -> str:
    """The client's address, of IPv6 its network; "" if nobody told one. NGINX tells it, as X-Real-IP, which no client
    can choose behind it; only somebody on this machine is believed that it is NGINX."""
    peer = _read_address(environ.get("REMOTE_ADDR", ""))
    told = _read_address(environ.get("HTTP_X_REAL_IP", ""))
    address = told if told and (peer is None or peer.is_loopback) else peer
    if isinstance(address, IPv6Address) and not address.is_loopback:
        return str(ip_network((int(address), IPV6_PREFIX), strict=False))
    return str(address or "")


def check_host(host: str) -> None:
    """For a service that listens on this machine only. A page of a stranger can have its name point to 127.0.0.1 and
    then ask here as if it were our own page (DNS rebinding); its requests still carry its name. Raises Misdirected."""
    name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
    name = name.rstrip(".").lower()
    if name in ("", "localhost") or name.endswith(".localhost"):
        return
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        raise Misdirected(
            f"Host: {name[:80]}: this service listens on this machine only, so it must be localhost or an address; a "
            "proxy in front of it must send Host: localhost"
        ) from None


def is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
