"""Notices to systemd, read from the other end of the socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.notice import Heartbeat, notify


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(5)
        yield path, listener


def test_notice_arrives(manager: tuple[str, socket.socket]):
    path, listener = manager
    notify(path, "READY=1\nSTATUS=ready")
    assert listener.recv(99) == b"READY=1\nSTATUS=ready"


def test_abstract_name(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0llamakiln{tmp_path}")
        listener.settimeout(5)
        notify(f"@llamakiln{tmp_path}", "READY=1")
        assert listener.recv(99) == b"READY=1"


def test_outside_systemd_nothing_happens():
    notify("", "READY=1")


def test_deaf_manager_does_not_stop_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    notify(str(tmp_path / "nobody"), "READY=1")
    assert "notice 'READY' not sent" in caplog.text


def test_heartbeat_is_sent_four_times_a_period_at_most(manager: tuple[str, socket.socket]):
    path, listener = manager
    heartbeat = Heartbeat(path, watchdog_s=120)
    for now in (0, 1, 29, 30, 31, 61):
        heartbeat.beat(now)
    listener.setblocking(False)
    received = []
    with pytest.raises(BlockingIOError):
        while True:
            received.append(listener.recv(99))
    assert received == [b"WATCHDOG=1"] * 3  # at 0, 30 and 61


def test_without_a_watchdog_there_is_no_heartbeat(manager: tuple[str, socket.socket]):
    path, listener = manager
    Heartbeat(path, watchdog_s=0).beat(0)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(99)
