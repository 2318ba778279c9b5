"""Nodes move and no request fails: to the end, and back again when the new ones come to nothing.

Traffic watches every run: as many nodes serve as at first, and no node ends while a request of four minutes may run.
"""

from __future__ import annotations

import oci
import pytest

from scripts.cloud import replacement, rollout
from tests.cloud.pool import BAD, NEW
from tests.cloud.rollout import Place, renting
from tests.cloud.services.compute import IMAGE
from tests.cloud.services.identity import DOMAINS
from tests.cloud.tenancy import OUT_OF_CAPACITY, TOO_MANY, Fault, is_gone

LIMIT = (400, "LimitExceeded", "The following service limits were exceeded: standard-a2-core-count.")


@pytest.fixture
def tenancy(monkeypatch, tmp_path):
    with renting(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def place(tenancy) -> Place:
    return Place(tenancy)


@pytest.mark.parametrize("hold_s", [0, 240], ids=["no hook", "held by the pool"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_rollout_replaces_every_node_and_no_request_fails(tenancy, size, hold_s):
    place = Place(tenancy, size, hold_s)
    place.roll()
    assert place.state() == place.rolled()
    assert place.traffic.faults == []


def test_second_run_does_nothing(place, capsys):
    place.roll()
    place.tenancy.calls.clear()
    place.roll()
    assert place.changes() == []
    assert "nothing to do" in capsys.readouterr().err


def test_going_back_to_the_old_image_is_a_rollout_too(place):
    place.roll()
    place.roll(IMAGE)
    assert place.state() == place.rolled(IMAGE)
    assert place.traffic.faults == []


def test_changed_settings_reach_the_nodes_without_naming_an_image(place):
    """As an apply of the stack leaves it: another configuration on the pool, nodes of the one before."""
    (old,) = place.tenancy.live("instanceConfigurations")
    old["instanceDetails"]["launchDetails"]["metadata"]["user_data"] = "Y2hhbmdlZA=="
    for node in place.nodes():
        node["instanceConfigurationId"], node["metadata"] = "ocid1.gone", {"user_data": "Zmlyc3Q="}
    rollout.main([place.pool["id"], "--yes"], clock=place.clock, sleep=place.clock.sleep)
    assert {node["metadata"]["user_data"] for node in place.nodes()} == {"Y2hhbmdlZA=="}
    assert place.traffic.faults == []


def test_an_apply_of_the_same_image_afterwards_leaves_nothing_to_replace(place, capsys):
    """Terraform makes a configuration of its own with the same content, and removes the one it knew."""
    place.roll()
    ours = place.tenancy.find("instanceConfigurations", place.pool["instanceConfigurationId"])
    twin = {**ours, "id": "ocid1.instanceconfiguration.oc1..applied", "freeformTags": {}}
    place.tenancy.resources["instanceConfigurations"] = {twin["id"]: twin}
    place.pool["instanceConfigurationId"] = twin["id"]
    place.tenancy.calls.clear()
    place.roll()
    assert place.changes() == []
    assert "nothing to do" in capsys.readouterr().err


def test_a_node_that_does_not_serve_goes_first(place):
    """Else a pool with one bad node would be left with fewer than it can have."""
    bad = place.nodes()[1]
    place.tenancy.collection("unhealthy")[f"{bad['_privateIp']}:80"] = {}
    place.traffic.n_least = 1
    place.roll()
    drains = [call for call in place.tenancy.calls if call.startswith("PUT") and "/backends/" in call]
    assert bad["_privateIp"] in drains[0]
    assert place.state() == place.rolled()


def test_a_node_that_is_drained_already_goes_first(place):
    """By hand, or by a run that was stopped: draining another would leave one fewer."""
    first, second = place.nodes()
    place.backends()[1]["drain"] = True
    place.traffic.n_least = 1
    ends: list[str] = []

    def note() -> None:
        gone = [node["id"] for node in (first, second) if is_gone(node)]
        ends.extend(ocid for ocid in gone if ocid not in ends)

    place.clock.on_sleep.append(note)
    place.roll()
    assert ends == [second["id"], first["id"]]
    assert place.traffic.faults == []


def test_a_drained_node_is_not_held_a_second_time(tenancy):
    place = Place(tenancy, hold_s=240)
    place.roll()
    assert len([call for call in tenancy.calls if call.endswith("terminationProceed")]) == 2


def test_a_node_that_somebody_else_detached_is_held_to_its_end(tenancy):
    """Nobody here gave it time for its answers, so the pool does."""
    place = Place(tenancy, hold_s=240)
    client = oci.core.ComputeManagementClient(tenancy.config, service_endpoint=tenancy.url)
    details = {"instance_id": place.nodes()[0]["id"], "is_decrement_size": False, "is_auto_terminate": True}
    place.traffic.n_least = 1
    client.detach_instance_pool_instance(place.pool["id"], oci.core.models.DetachInstancePoolInstanceDetails(**details))
    place.roll()
    assert len([call for call in tenancy.calls if call.endswith("terminationProceed")]) == 2
    assert place.images() == [NEW, NEW]


# New nodes that come to nothing


def test_nodes_that_never_serve_are_taken_back(place):
    problem = place.fault(BAD)
    assert "its backend CRITICAL, and that for 20:00 minutes" in problem.message
    assert place.state() == place.first
    assert place.traffic.faults == []


def test_nodes_that_serve_stay_when_a_later_one_does_not(tenancy):
    """Half the pool is new and good when the next new node fails: nobody who serves goes."""
    place = Place(tenancy, 3)
    sleep = place.clock.sleep

    def sicken(seconds: float) -> None:
        if IMAGE in place.images() and place.images().count(NEW) == 2:
            tenancy.collection("unhealthy")[f"{place.nodes()[-1]['_privateIp']}:80"] = {}
        sleep(seconds)

    place.clock.sleep = sicken
    problem = place.fault()
    assert "was taken back" in problem.message
    assert sorted(place.images()) == [IMAGE, IMAGE, NEW]
    assert place.state() == {**place.first, "nodes": [IMAGE, IMAGE, NEW]}
    assert place.traffic.faults == []


def test_a_drained_node_serves_again_when_the_new_one_fails_meanwhile(place):
    sleep = place.clock.sleep

    def sicken(seconds: float) -> None:
        if any(backend["drain"] for backend in place.backends()):
            place.tenancy.collection("unhealthy")[f"{place.nodes()[-1]['_privateIp']}:80"] = {}
        sleep(seconds)

    place.clock.sleep = sicken
    assert "was taken back" in place.fault().message
    assert place.state() == place.first


def test_a_bad_node_is_kept_when_there_is_no_old_configuration_to_replace_it(place):
    """The pool's own configuration has the bad image, and one node of it stands among the old ones."""
    configuration = place.tenancy.find("instanceConfigurations", place.own)
    configuration["instanceDetails"]["launchDetails"]["sourceDetails"] = {"sourceType": "image", "imageId": BAD}
    old, bad = place.nodes()
    old["instanceConfigurationId"] = "ocid1.gone"
    bad.update(imageId=BAD, sourceDetails={"sourceType": "image", "imageId": BAD})
    problem = place.fault(BAD)
    assert "its configuration was the new one before, and stays" in problem.message
    assert [node["id"] for node in place.nodes()] == [old["id"], bad["id"]]
    assert place.pool["size"] == 2


def test_grace_longer_than_the_timeout_is_no_timeout(place):
    place.roll(NEW, "--timeout=2", "--grace=300")
    assert place.state() == place.rolled()


@pytest.mark.parametrize("error", [OUT_OF_CAPACITY, LIMIT], ids=["capacity", "limit"])
def test_refused_growth_is_taken_back(place, error):
    place.tenancy.faults.append(Fault(r"PUT .*/instancePools/", *error, times=0))
    watch = place.tenancy.watch

    def refuse_growth() -> None:  # every change of the pool after the one that brought the configuration
        if "rollout-size" in place.pool["freeformTags"] and not place.tenancy.faults[0].times:
            place.tenancy.faults[0].times = 8 if error == OUT_OF_CAPACITY else 1
            place.tenancy.watch = watch
        watch()

    place.tenancy.watch = refuse_growth
    problem = place.fault()
    assert error[2] in problem.message
    assert "another shape" in problem.way_out
    assert place.state() == place.first
    assert place.traffic.faults == []


def test_growth_that_fails_later_is_taken_back_with_its_reason(place):
    """The usual way: OCI accepts the size, and its work request fails."""
    for domain in DOMAINS[1:]:
        place.tenancy.resources["capacity"][domain] = 0
    place.tenancy.resources["capacity"][DOMAINS[0]] = 1  # the report is hopeful
    place.tenancy.collection("launches")[place.pool["id"]] = 4  # the next goes to a full one
    problem = place.fault()
    assert "Out of host capacity" in problem.message
    assert "another shape" in problem.way_out
    assert place.state() == place.first
    assert place.traffic.faults == []


def test_a_drain_that_does_not_take_is_told_and_nothing_goes(place):
    """The balancer refuses each change for now: the rollout waits, says so, and the next run goes on."""
    place.tenancy.faults.append(Fault(r"PUT .*/backends/", 409, "Conflict", "being updated", times=10**6))
    problem = place.fault(NEW, "--timeout=5")
    assert "gets no new request, and that for 5:00 minutes" in problem.message
    assert place.images().count(IMAGE) == 2
    assert place.autoscaling["isEnabled"]
    place.tenancy.faults.clear()
    place.roll()
    assert place.state() == place.rolled()
    assert place.traffic.faults == []


def test_a_busy_cloud_is_asked_again(place):
    for call in (r"PUT .*/instancePools/", r"POST .*/instanceConfigurations", r"PUT .*/backends/", r"POST .*/detach"):
        place.tenancy.faults.append(Fault(call, *TOO_MANY, times=2))
    place.roll()
    assert place.state() == place.rolled()
    assert place.traffic.faults == []


def test_a_node_that_ends_between_two_calls_is_no_fault(place):
    """The pool lists it, and when it is asked for it is gone."""

    def end_it() -> None:
        if place.tenancy.calls[-1].endswith("/instances"):
            for node in place.tenancy.collection("instances").values():
                if node["lifecycleState"] == "TERMINATING":
                    node["lifecycleState"] = "TERMINATED"
                    ended.append(node["id"])

    ended: list[str] = []
    place.tenancy.watch = end_it
    place.roll()
    assert len(ended) == 2
    assert place.state() == place.rolled()


def test_a_pool_that_stays_busy_is_told(place):
    place.pool["lifecycleState"] = "SCALING"
    problem = place.fault(NEW, "--timeout=5")
    assert "gets the new configuration, and that for 5:00 minutes" in problem.message
    assert place.images() == [IMAGE, IMAGE]


# The proof itself


def test_traffic_notices_a_node_that_goes_too_early(place):
    """The proof above can fail: with half the time for its answers a node ends under a request."""
    place.roll(NEW, "--grace=120")
    assert any("ended under a request" in fault for fault in place.traffic.faults)


def test_traffic_notices_too_few_nodes(place, monkeypatch):
    """And with a rollout that believes every new node to serve."""
    monkeypatch.setattr(replacement.Node, "is_serving", True)
    place.roll(BAD)
    assert any("only 1 serve" in fault for fault in place.traffic.faults)
