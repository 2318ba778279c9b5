"""The stack's life against the loopback tenancy: made, found unchanged, changed, and taken away without a rest."""

from __future__ import annotations

import pytest

from tests.cloud.services.compute import IMAGE
from tests.cloud.tenancy import OUT_OF_CAPACITY, TOO_MANY, Fault
from tests.stack.combinations import OPTIONS, every_choice, label, variables
from tests.stack.deployment import OCI_FILE, Deployment, Refused, existing_network

MADE = (
    "alarms",
    "autoScalingConfigurations",
    "bastions",
    "images",
    "instanceConfigurations",
    "instancePools",
    "instances",
    "loadBalancers",
    "logGroups",
    "logs",
    "networkSecurityGroups",
    "subnets",
    "subscriptions",
    "topics",
    "vcns",
    "webAppFirewallPolicies",
    "webAppFirewalls",
)


def left(deployment: Deployment) -> dict[str, int]:
    counts = {kind: len(deployment.tenancy.live(kind)) for kind in MADE}
    return {kind: count for kind, count in counts.items() if count}


@pytest.mark.parametrize("row", every_choice(), ids=label)
def test_apply_then_no_change_then_nothing_left(deployment: Deployment, row: dict) -> None:
    chosen = variables(row, existing_network(deployment.tenancy))
    before = left(deployment)
    deployment.apply(**chosen)
    assert len(deployment.tenancy.live("instances")) == (4 if row["autoscaling"] == "cpu" else 2)
    assert deployment.plan(**chosen).actions == {}
    outputs = deployment.outputs()
    assert outputs["url"].startswith("http://" if row["https"] == "off" else "https://")
    assert outputs["model_name"] == "demo"
    assert len(outputs["api_key"]) == {"made": 36, "given": 25, "none": 0}[row["key"]]
    deployment.destroy()
    assert left(deployment) == before


def test_the_made_key_stays_the_same(deployment: Deployment) -> None:
    deployment.apply()
    first = deployment.outputs()["api_key"]
    deployment.apply(pool_size=3)
    assert deployment.outputs()["api_key"] == first


def test_nodes_join_the_load_balancer_over_all_domains(deployment: Deployment) -> None:
    deployment.apply(pool_size=3)
    (balancer,) = deployment.tenancy.live("loadBalancers")
    assert len(balancer["backendSets"]["nodes"]["backends"]) == 3
    assert len({node["availabilityDomain"] for node in deployment.tenancy.live("instances")}) == 3


def test_a_new_image_makes_a_new_configuration_and_keeps_the_pool(deployment: Deployment) -> None:
    deployment.apply()
    newer = IMAGE + "2"
    deployment.tenancy.resources["images"][newer] = {**deployment.tenancy.resources["images"][IMAGE], "id": newer}
    deployment.tenancy.resources["imageShapes"][newer] = deployment.tenancy.resources["imageShapes"][IMAGE]
    actions = deployment.plan(image_ocid=newer).actions
    assert actions == {
        "oci_core_instance_configuration.node": ["create", "delete"],  # in this order: the old one is in use
        "oci_core_instance_pool.nodes": ["update"],
    }
    deployment.apply(image_ocid=newer)
    assert len(deployment.tenancy.live("instances")) == 2
    assert deployment.plan(image_ocid=newer).actions == {}


def test_a_new_link_imports_before_the_old_image_goes(deployment: Deployment) -> None:
    link = {"image_source": "link", "image_ocid": ""}
    deployment.apply(**link, image_url=OCI_FILE)
    actions = deployment.plan(**link, image_url=OCI_FILE.replace("0.1.0", "0.2.0")).actions
    assert actions["oci_core_image.imported[0]"] == ["create", "delete"]


def test_autoscaling_keeps_the_size_that_it_reached(deployment: Deployment) -> None:
    deployment.apply(autoscaling="waiting")
    (pool,) = deployment.tenancy.live("instancePools")
    pool["size"] = 3  # as autoscaling would
    assert "oci_core_instance_pool.nodes" not in deployment.plan(autoscaling="waiting").actions
    pool["size"] = 9  # beyond what was allowed
    assert deployment.plan(autoscaling="waiting").one("oci_core_instance_pool")["size"] == 4


def test_switching_autoscaling_replaces_no_node(deployment: Deployment) -> None:
    deployment.apply()
    assert deployment.plan(autoscaling="schedule").actions == {
        "oci_autoscaling_auto_scaling_configuration.nodes[0]": ["create"]
    }


def test_switching_https_off_removes_listener_and_certificate(deployment: Deployment) -> None:
    deployment.apply()
    deployment.apply(https="off")
    (balancer,) = deployment.tenancy.live("loadBalancers")
    assert (list(balancer["listeners"]), balancer["certificates"], balancer["ruleSets"]) == (["http"], {}, {})
    assert deployment.plan(https="off").actions == {}


def test_options_are_switched_on_and_off_on_a_running_deployment(deployment: Deployment) -> None:
    """Nothing is removed while something still holds it, in either direction, and no node is replaced."""
    switched = {
        "autoscaling": "schedule",
        "https": "own",
        "key": "given",
        "ssh": "bastion",
        "nodes": "nat",
        "clients": "two",
        "drain": "off",
        "logs": "on",
        "sticky": "on",
        "waf": "on",
        "alarms": "on",
    }
    on = {name: value for option, choice in switched.items() for name, value in OPTIONS[option][choice].items()}
    deployment.apply()
    nodes = {node["id"] for node in deployment.tenancy.live("instances")}
    for chosen in (on, {}, on, {**on, "https": "off"}, {}):
        deployment.apply(**chosen)
        assert deployment.plan(**chosen).actions == {}
    assert {node["id"] for node in deployment.tenancy.live("instances")} == nodes
    assert len(deployment.tenancy.live("natGateways")) == len(deployment.tenancy.live("bastions")) == 0


def test_slow_provisioning_is_waited_for(deployment: Deployment) -> None:
    deployment.tenancy.looks = 20
    deployment.apply()
    assert deployment.plan().actions == {}


def test_a_busy_api_is_asked_again(deployment: Deployment) -> None:
    deployment.tenancy.faults.append(Fault(r"POST .*/vcns", *TOO_MANY, times=2))
    deployment.apply()
    assert len(deployment.tenancy.live("vcns")) == 1


def test_out_of_capacity_is_told_and_the_next_apply_goes_on(deployment: Deployment) -> None:
    deployment.tenancy.faults.append(Fault(r"POST .*/instancePools$", *OUT_OF_CAPACITY))
    with pytest.raises(Refused, match="Out of host capacity"):
        deployment.apply()
    assert len(deployment.tenancy.live("loadBalancers")) == 1
    deployment.apply()
    assert len(deployment.tenancy.live("instances")) == 2
    assert deployment.plan().actions == {}


def test_a_conflict_that_stays_ends_the_destroy_and_the_next_one_finishes(deployment: Deployment) -> None:
    deployment.apply()
    deployment.tenancy.faults.append(
        Fault(r"DELETE .*/loadBalancers/[^/]+$", 409, "Conflict", "being updated", times=6)
    )
    with pytest.raises(Refused, match="being updated"):
        deployment.destroy()
    deployment.destroy()
    assert set(left(deployment)) == {"images"}
