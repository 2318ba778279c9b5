"""`make rollout`: what is checked before anything changes, what is asked and told, and autoscaling meanwhile.

How the nodes move is in test_replacement.py.
"""

from __future__ import annotations

import io
from typing import Any

import pytest

from scripts.cloud import rollout
from scripts.problem import Problem
from tests.cloud.person import Terminal
from tests.cloud.pool import BAD, NEW, add_autoscaling, add_pool
from tests.cloud.rollout import Place, renting
from tests.cloud.services.compute import A1, A2
from tests.cloud.services.compute_management import resize
from tests.cloud.services.identity import DOMAINS
from tests.cloud.tenancy import Fault

FORBIDDEN = (404, "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.")


@pytest.fixture
def tenancy(monkeypatch, tmp_path):
    with renting(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def place(tenancy) -> Place:
    return Place(tenancy)


def test_the_copy_differs_in_the_image_only(place):
    (old,) = place.tenancy.live("instanceConfigurations")
    place.roll()
    new = place.tenancy.find("instanceConfigurations", place.pool["instanceConfigurationId"])
    launch = dict(old["instanceDetails"]["launchDetails"])
    launch["sourceDetails"] = {**launch["sourceDetails"], "imageId": NEW}
    assert new["instanceDetails"] == {"instanceType": "compute", "launchDetails": launch}
    assert new["displayName"] == old["displayName"]
    assert new["freeformTags"].items() >= old["freeformTags"].items()
    assert new["definedTags"] == {"Cost": {"Center": "42"}}  # who made it is for OCI to say


# Autoscaling


def test_autoscaling_is_off_while_nodes_move(place):
    seen = []
    sleep = place.clock.sleep

    def note(seconds: float) -> None:
        seen.append(place.autoscaling["isEnabled"])
        sleep(seconds)

    place.clock.sleep = note
    place.roll()
    assert set(seen) == {False}
    assert place.autoscaling["isEnabled"]


def test_the_last_act_of_autoscaling_counts(place):
    """It made the pool larger after the checks and before it was paused."""

    def grow() -> None:
        if not place.autoscaling["isEnabled"] and place.pool["size"] == 2:
            place.pool["size"] = 3
            resize(place.tenancy, place.pool, 3)

    place.traffic.stop()
    place.tenancy.watch = grow
    place.roll()
    assert place.images() == [NEW] * 3


def test_autoscaling_that_was_off_stays_off(place):
    place.autoscaling["isEnabled"] = False
    place.roll()
    assert not place.autoscaling["isEnabled"]


def test_autoscaling_that_a_killed_run_left_off_is_switched_on_by_the_next(place):
    place.roll()
    place.autoscaling.update(isEnabled=False, freeformTags={"rollout-paused": "yes"})
    place.roll()
    assert (place.autoscaling["isEnabled"], place.autoscaling["freeformTags"]) == (True, {})


def test_autoscaling_of_other_pools_is_left_alone(place):
    other = add_autoscaling(place.tenancy, add_pool(place.tenancy, 0))
    place.tenancy.calls.clear()
    place.roll()
    assert not [call for call in place.changes() if other["id"] in call]


def test_autoscaling_that_cannot_be_switched_on_does_not_hide_the_first_fault(place, capsys):
    add_fault = Fault(r"PUT .*/autoScalingConfigurations/", *FORBIDDEN, times=0)
    place.tenancy.faults.append(add_fault)
    place.clock.on_sleep.append(lambda: setattr(add_fault, "times", 1))
    assert "was taken back" in place.fault(BAD).message
    assert "autoscaling may still be paused" in capsys.readouterr().err


# What is checked before anything changes


def image_of(place: Place) -> dict[str, Any]:
    return place.tenancy.resources["images"][NEW]


def fill(place: Place) -> None:
    place.tenancy.resources["capacity"].update(dict.fromkeys(DOMAINS, 0))


FAULTS = {
    "no such image": (
        lambda place: place.tenancy.resources["images"].pop(NEW),
        f"image {NEW}: not there, or not yours",
        "an image stays in its region",
    ),
    "image being made": (
        lambda place: image_of(place).update(lifecycleState="IMPORTING"),
        "is IMPORTING: must be AVAILABLE",
        "wait",
    ),
    "image for BIOS": (
        lambda place: image_of(place).update(launchOptions={"firmware": "BIOS"}),
        "boots with BIOS: Arm shapes need UEFI_64",
        ".oci file",
    ),
    "image for another shape": (
        lambda place: place.tenancy.resources["imageShapes"].update({NEW: {A1: {}}}),
        f"does not allow {A2}",
        f"image-shape-compatibility-entry add --image-id {NEW} --shape-name {A2}",
    ),
    "no quota": (
        lambda place: place.tenancy.resources["limits"]["standard-a2-core-count"].update(available=1),
        "limit standard-a2-core-count leaves 1 (4 in use), a node takes 2",
        "ask for a higher limit",
    ),
    "no host": (fill, "no room for one node more, VM.Standard.A2.Flex", "wait"),
    "pool stopped": (
        lambda place: place.pool.update(lifecycleState="STOPPED"),
        "llamakiln-nodes is STOPPED: must be RUNNING",
        "start it",
    ),
    "no load balancer": (lambda place: place.pool.update(loadBalancers=[]), "has no load balancer", "attach one"),
    "no such pool": (
        lambda place: place.tenancy.resources["instancePools"].clear(),
        "instance pool ocid1.instancepool",
        "manage compute-management-family in compartment",
    ),
    "no right to see balancers": (
        lambda place: place.tenancy.faults.append(Fault(r"GET .*/backendSets/", *FORBIDDEN)),
        "backend set nodes of ocid1.loadbalancer",
        "manage load-balancers in compartment",
    ),
    "no right to see autoscaling": (
        lambda place: place.tenancy.faults.append(Fault(r"GET .*/autoScalingConfigurations", *FORBIDDEN)),
        "the autoscaling configurations: not there, or not yours",
        "manage auto-scaling-configurations in compartment",
    ),
    "configuration from a boot volume": (
        lambda place: place.tenancy.live("instanceConfigurations")[0]["instanceDetails"]["launchDetails"].update(
            sourceDetails={"sourceType": "bootVolume", "bootVolumeId": "ocid1.bootvolume.oc1..1"}
        ),
        "does not launch from an image named by its OCID",
        "as the stack's has",
    ),
}


@pytest.mark.parametrize(("bend", "message", "way_out"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_is_named_before_anything_changes(place, bend, message, way_out):
    bend(place)
    place.tenancy.watch = lambda: None
    problem = place.fault()
    assert message in problem.message
    assert way_out in problem.way_out
    assert place.changes() == []


def test_every_fault_is_told_at_once(place):
    image_of(place).update(launchOptions={"firmware": "BIOS"}, lifecycleState="IMPORTING")
    fill(place)
    message = place.fault().message
    for part in ("boots with BIOS", "is IMPORTING", "no room for one node more"):
        assert part in message


def test_one_domain_with_room_is_enough(place):
    fill(place)
    del place.tenancy.resources["capacity"][DOMAINS[2]]
    place.roll(NEW, "--dry-run")


def test_quota_and_capacity_that_cannot_be_read_are_said_and_passed_over(place, capsys):
    place.tenancy.faults.append(Fault("computeCapacityReports", *FORBIDDEN, times=3))
    place.tenancy.resources["limits"].clear()
    place.roll(NEW, "--dry-run")
    told = capsys.readouterr().err
    assert "manage compute-capacity-reports in tenancy" in told
    assert "read resource-availability in tenancy" in told


def test_dry_run_changes_nothing_and_says_what_it_would(place, capsys):
    place.roll(NEW, "--dry-run")
    assert place.changes() == []
    told = capsys.readouterr().err
    assert "to replace, one at a time: llamakiln-nodes-1, llamakiln-nodes-2" in told
    assert "dry run: nothing was changed" in told


@pytest.mark.parametrize(("answer", "is_done"), [("yes\n", True), ("no\n", False), ("", False)])
def test_a_person_is_asked(place, monkeypatch, answer, is_done):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    rollout.main([place.pool["id"], NEW], clock=place.clock, sleep=place.clock.sleep)
    assert place.state() == (place.rolled() if is_done else place.first)


def test_without_a_terminal_nobody_can_be_asked(place, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    with pytest.raises(Problem, match="no terminal to ask on"):
        rollout.main([place.pool["id"], NEW], clock=place.clock, sleep=place.clock.sleep)
    assert place.changes() == []


def test_a_missing_right_on_the_way_is_named_and_autoscaling_goes_on(place):
    place.tenancy.faults.append(Fault(r"POST .*/detachInstance", *FORBIDDEN))
    problem = place.fault()
    assert "detaching llamakiln-nodes-1: not there, or not yours" in problem.message
    assert "manage compute-management-family" in problem.way_out
    assert place.autoscaling["isEnabled"]
    place.roll()
    assert place.state() == place.rolled()


def test_each_line_tells_the_nodes_and_how_many_serve(place, capsys):
    place.roll()
    told = capsys.readouterr().err
    assert "2/3 healthy  llamakiln-nodes-3 is RUNNING, its backend UNKNOWN" in told
    assert "llamakiln-nodes-1 finishes its answers: 5:00 left" in told
    assert "done: every node of llamakiln-nodes is of llamakiln-new" in told


def test_grace_is_what_the_pool_says_unless_told(tenancy, capsys):
    place = Place(tenancy, hold_s=120)
    place.roll(NEW, "--dry-run")
    assert "120 s for its answers" in capsys.readouterr().err
    place.roll(NEW, "--dry-run", "--grace=30")
    assert "30 s for its answers" in capsys.readouterr().err
