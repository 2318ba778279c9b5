"""Tell systemd how the service is: READY=1, STOPPING=1, STATUS=..., WATCHDOG=1 (sd_notify(3), one datagram each).

Knows only the socket's name. Outside systemd there is none, and every call does nothing.
"""

from __future__ import annotations

import logging
import socket

log = logging.getLogger(__name__)


def notify(address: str, message: str) -> None:
    """Send one notice to the socket named by NOTIFY_SOCKET ("" = not under systemd; "@x" = abstract name)."""
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(message.encode(), address)
    except OSError as error:  # a deaf manager must not stop the service
        log.warning("notice %r not sent: %s", message.split("=")[0], error)


class Heartbeat:
    """Feeds systemd's watchdog from the engine's own loop, so a hung engine starves it. Called by the engine thread."""

    def __init__(self, address: str, watchdog_s: float) -> None:
        self._address = address
        self._every_s = watchdog_s / 4
        self._last = float("-inf")

    def beat(self, now: float) -> None:
        """The engine is alive at `now` (its clock's seconds). Sends at most four notices per watchdog period."""
        if self._every_s > 0 and now - self._last >= self._every_s:
            self._last = now
            notify(self._address, "WATCHDOG=1")
