"""A rollout that is stopped anywhere: the next run ends as if nothing had been, and no request fails on the way.

Stopped is: Ctrl-C at a call to Oracle Cloud, before it was served or when its answer is lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import oci
import pytest

from scripts.files import REPOSITORY
from scripts.problem import Problem
from tests.cloud.person import environment
from tests.cloud.pool import BAD, NEW, Stopper
from tests.cloud.rollout import Place, renting
from tests.cloud.services.compute import IMAGE


@pytest.fixture
def tenancy(monkeypatch, tmp_path):
    with renting(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def place(tenancy) -> Place:
    return Place(tenancy)


def stop_at(place: Place, stopper: Stopper, number: int, *, is_late: bool = False) -> None:
    """A run that is stopped at its call with this number, and the run after it."""
    stopper.n_calls, stopper.at, stopper.is_late = 0, number, is_late
    with pytest.raises(KeyboardInterrupt):
        place.roll()
    stopper.at = 0
    place.roll()


def record(monkeypatch, tmp_path, size: int, hold_s: int) -> list[str]:
    """The calls of a run from beginning to end."""
    with renting(monkeypatch, tmp_path) as tenancy:
        Place(tenancy, size, hold_s).roll()
        return tenancy.calls


def check_stops(monkeypatch, tmp_path, size: int, hold_s: int, stops: list[tuple[int, bool]]) -> None:
    stopper = Stopper(monkeypatch)
    for number, is_late in stops:
        with renting(monkeypatch, tmp_path) as tenancy:
            place = Place(tenancy, size, hold_s)
            stop_at(place, stopper, number, is_late=is_late)
            where = f"call {number}, {'after' if is_late else 'before'} it was served"
            assert place.state() == place.rolled(), where
            assert place.traffic.faults == [], where


def test_a_run_stopped_at_any_call_is_finished_by_the_next(tenancy, monkeypatch, tmp_path):
    """Every call of a rollout of one node, with autoscaling; a call that only asks need not be stopped after it too."""
    calls = record(monkeypatch, tmp_path, 1, 0)
    stops = [(number, False) for number in range(1, len(calls) + 1)]
    stops += [(number, True) for number, call in enumerate(calls, 1) if not call.startswith("GET ")]
    check_stops(monkeypatch, tmp_path, 1, 0, stops)


def test_a_larger_run_stopped_at_any_change_is_finished_by_the_next(tenancy, monkeypatch, tmp_path):
    """Before and after each change, with nodes that the pool holds."""
    size, hold_s = 2, 240
    calls = record(monkeypatch, tmp_path, size, hold_s)
    changes = [number for number, call in enumerate(calls, 1) if not call.startswith("GET ") and "Reports" not in call]
    assert len(changes) > 5 * size
    stops = [(number, is_late) for number in changes for is_late in (False, True)]
    check_stops(monkeypatch, tmp_path, size, hold_s, stops)


def test_a_way_back_stopped_at_any_change_leaves_the_next_run_a_way(tenancy, monkeypatch, tmp_path):
    """The bad image is tried again, fails again, and the pool is as before."""
    stopper = Stopper(monkeypatch)

    def try_bad(number: int, is_late: bool) -> list[str]:
        with renting(monkeypatch, tmp_path) as tenancy:
            place = Place(tenancy)
            stopper.n_calls, stopper.at, stopper.is_late = 0, number, is_late
            with pytest.raises(KeyboardInterrupt if number else Problem):
                place.roll(BAD, "--timeout=1")
            calls, stopper.at = list(tenancy.calls), 0
            assert "was taken back" in place.fault(BAD, "--timeout=1").message
            assert place.state() == place.first, (number, is_late)
            assert place.traffic.faults == [], (number, is_late)
            return calls

    calls = try_bad(0, False)
    grown = max(number for number, call in enumerate(calls, 1) if call.startswith("POST") and "detach" in call)
    changes = [n for n, call in enumerate(calls, 1) if n >= grown - 20 and not call.startswith("GET ")]
    assert len(changes) >= 4
    for number in changes:
        for is_late in (False, True):
            try_bad(number, is_late)


def test_another_image_takes_over_a_stopped_rollout(place, monkeypatch):
    """Half-way to the new image, the person goes back to the old one: its own configuration is used again."""
    sleep, place.clock.sleep = place.clock.sleep, stop_when(place, lambda: any(b["drain"] for b in place.backends()))
    with pytest.raises(KeyboardInterrupt):
        place.roll()
    place.clock.sleep = sleep
    place.roll(IMAGE)
    assert place.state() == place.first
    assert place.pool["instanceConfigurationId"] == place.own
    assert place.traffic.faults == []


def stop_when(place: Place, is_so: Any) -> Any:
    sleep = place.clock.sleep

    def stop(seconds: float) -> None:
        if is_so():
            raise KeyboardInterrupt
        sleep(seconds)

    return stop


def test_a_pool_resized_since_it_was_stopped_keeps_its_new_size(place, monkeypatch):
    sleep, place.clock.sleep = place.clock.sleep, stop_when(place, lambda: place.pool["size"] == 3)
    with pytest.raises(KeyboardInterrupt):
        place.roll()
    place.clock.sleep = sleep
    place.tenancy.looks = 0
    client = oci.core.ComputeManagementClient(place.tenancy.config, service_endpoint=place.tenancy.url)
    place.pool["lifecycleState"] = "RUNNING"
    client.update_instance_pool(place.pool["id"], oci.core.models.UpdateInstancePoolDetails(size=4))
    place.roll()
    assert place.images() == [NEW] * 4
    assert place.traffic.faults == []


def test_a_killed_run_ends_like_ctrl_c(tenancy, tmp_path):
    """As a process of its own, told to end when autoscaling is off: it is on when the process is gone."""
    place = Place(tenancy)
    command = [sys.executable, "-m", "scripts.cloud.rollout", place.pool["id"], NEW, "--yes"]
    running = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **environment(tenancy, tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in running.stderr:
        if "gets the new configuration" in line:
            break
    running.send_signal(signal.SIGTERM)
    rest = running.stderr.read()
    assert running.wait(timeout=60) == 130
    assert "the same command goes on from here" in rest
    assert place.autoscaling["isEnabled"]


def test_an_apply_since_it_was_stopped_is_what_a_failure_goes_back_to(place):
    """Terraform put a configuration of its own on the pool, and removed the one from before."""
    sleep, place.clock.sleep = place.clock.sleep, stop_when(place, lambda: place.pool["size"] == 3)
    with pytest.raises(KeyboardInterrupt):
        place.roll()
    place.clock.sleep = sleep
    configurations = place.tenancy.resources["instanceConfigurations"]
    applied = {**configurations[place.own], "id": "ocid1.instanceconfiguration.oc1..applied"}
    configurations[applied["id"]] = applied
    del configurations[place.own]
    place.pool["instanceConfigurationId"] = applied["id"]
    assert "was taken back" in place.fault(BAD).message
    assert place.pool["instanceConfigurationId"] == applied["id"]
    assert place.traffic.faults == []
