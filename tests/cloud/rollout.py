"""What the tests of rollouts share: a tenancy with one pool under traffic, and the script to run there."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oci
import pytest

from scripts.cloud import rollout
from scripts.problem import Problem
from tests.cloud.person import settle_in
from tests.cloud.pool import BAD, NEW, Clock, Traffic, add_autoscaling, add_image, add_pool
from tests.cloud.tenancy import Tenancy, is_gone

load_key = functools.cache(oci.signer.load_private_key_from_file)  # which takes longer than a rollout's other work


@contextmanager
def renting(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Tenancy]:
    """A tenancy for this process; the SDK's own waits take no time."""
    with Tenancy() as tenancy:
        settle_in(monkeypatch, tenancy, folder)
        monkeypatch.setattr(oci.signer, "load_private_key_from_file", load_key)
        monkeypatch.setattr("oci.retry.retry.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
        yield tenancy


class Place:
    """A tenancy with one pool under traffic, and `roll()` to run the script there."""

    def __init__(self, tenancy: Tenancy, size: int = 2, hold_s: int = 0) -> None:
        self.tenancy = tenancy
        self.pool = add_pool(tenancy, size, hold_s=hold_s)
        self.autoscaling = add_autoscaling(tenancy, self.pool)
        add_image(tenancy, NEW)
        add_image(tenancy, BAD)
        tenancy.collection("badImages")[BAD] = {}
        self.first = self.state()
        self.own = self.pool["instanceConfigurationId"]
        self.clock = Clock()
        self.traffic = Traffic(tenancy, self.clock, self.pool)

    def roll(self, image: str = NEW, *options: str) -> None:
        arguments = [self.pool["id"], image, "--yes", *options]
        rollout.main(arguments, clock=self.clock, sleep=self.clock.sleep)

    def fault(self, image: str = NEW, *options: str) -> Problem:
        with pytest.raises(Problem) as raised:
            self.roll(image, *options)
        return raised.value

    def nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.tenancy.collection("instances").values() if not is_gone(node)]

    def images(self) -> list[str]:
        return [node["imageId"] for node in self.nodes()]

    def backends(self) -> list[dict[str, Any]]:
        (balancer,) = self.tenancy.live("loadBalancers")
        return balancer["backendSets"]["nodes"]["backends"]

    def changes(self) -> list[str]:
        """The calls that changed something; a capacity report changes nothing."""
        return [call for call in self.tenancy.calls if not call.startswith("GET ") and "Reports" not in call]

    def state(self) -> dict[str, Any]:
        """All that a rollout may leave behind, without OCIDs that differ from run to run."""
        configuration = self.tenancy.find("instanceConfigurations", self.pool["instanceConfigurationId"])
        return {
            "image": configuration["instanceDetails"]["launchDetails"]["sourceDetails"]["imageId"],
            "nodes": self.images(),
            "size": self.pool["size"],
            "tags": self.pool["freeformTags"],
            "drained": [backend["name"] for backend in self.backends() if backend["drain"]],
            "n_backends": len(self.backends()),
            "n_configurations": len(self.tenancy.live("instanceConfigurations")),
            "autoscaling": (self.autoscaling["isEnabled"], self.autoscaling["freeformTags"]),
        }

    def rolled(self, image: str = NEW) -> dict[str, Any]:
        """The state after a rollout; the stack's own configuration is left to the stack."""
        return {**self.first, "image": image, "nodes": [image] * self.first["size"], "n_configurations": 2}
