"""Who asks: by key, or by address where nobody has a key. And may this page ask: the Host header against DNS rebinding.

NGINX tells the address in X-Real-IP, which no client can choose behind it; it is believed from this machine only. The
words that come out tell neither key nor address: they are hashed with a number that this process made up.

Knows a request's environment. Knows no limit, no queue and no key by itself.
"""

from __future__ import annotations

import hashlib
import secrets
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from ..errors import Misdirected

IPV6_PREFIX = 64  # what one customer is given, and may take any address of
_SALT = secrets.token_bytes(16)


def find_address(environ: dict[str, Any]) -> str:
    """The client's address, of IPv6 its network; "" if nobody told one."""
    peer = environ.get("REMOTE_ADDR", "")
    if not peer or is_loopback(peer):
        peer = environ.get("HTTP_X_REAL_IP", "") or peer
    try:
        address = ip_address(peer)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address), IPV6_PREFIX), strict=False))
    return str(address)


def name_client(key: str, address: str) -> str:
    """key: of Keys.check, "" without keys."""
    told = f"key {key}" if key else f"address {address}"
    return hashlib.blake2s(told.encode(), key=_SALT, digest_size=8).hexdigest()


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
