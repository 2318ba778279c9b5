"""`make rollout` on a stack that Terraform applied, and Terraform after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.cloud import rollout
from tests.cloud.person import settle_in
from tests.cloud.pool import NEW, Clock, Traffic, add_image
from tests.stack.deployment import Deployment


@pytest.mark.parametrize("options", [{}, {"autoscaling": "waiting", "has_drain": False}], ids=["as it is", "scaled"])
def test_rollout_of_an_applied_stack_fails_no_request_and_the_next_apply_replaces_no_node(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict
) -> None:
    deployment.apply(**options)
    tenancy, clock = deployment.tenancy, Clock()
    settle_in(monkeypatch, tenancy, tmp_path)
    add_image(tenancy, NEW)
    pool = tenancy.find("instancePools", deployment.outputs()["instance_pool_ocid"])
    traffic = Traffic(tenancy, clock, pool)
    rollout.main([pool["id"], NEW, "--yes"], clock=clock, sleep=clock.sleep)
    nodes = {node["id"] for node in tenancy.live("instances")}
    assert {node["imageId"] for node in tenancy.live("instances")} == {NEW}
    assert len(nodes) == 2

    deployment.apply(image_ocid=NEW, **options)
    assert {node["id"] for node in tenancy.live("instances")} == nodes
    assert deployment.plan(image_ocid=NEW, **options).actions == {}
    rollout.main([pool["id"], NEW, "--yes"], clock=clock, sleep=clock.sleep)
    assert {node["id"] for node in tenancy.live("instances")} == nodes
    assert traffic.faults == []
    traffic.stop()
    deployment.destroy()
    assert tenancy.live("instances") == tenancy.live("instanceConfigurations") == []
