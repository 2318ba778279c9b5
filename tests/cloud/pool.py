"""A pool behind a load balancer in a loopback tenancy, and traffic that notices what a client would.

`Traffic` sends a request to every node that may get one, at every call that anybody makes and whenever time passes.
Each takes as long as one may. It notes when fewer nodes serve than at first, and when a node ends under a request.
"""

from __future__ import annotations

from typing import Any

import oci

from tests.cloud.services.autoscaling import KINDS as AUTOSCALING
from tests.cloud.services.compute import A2, IMAGE, put_image
from tests.cloud.services.compute_management import CONFIGURATION, POOL
from tests.cloud.services.identity import DOMAINS
from tests.cloud.services.load_balancer import BALANCER, backend_health, kept
from tests.cloud.tenancy import COMPARTMENT, Tenancy, is_gone

REQUEST_S = 240.0
NEW, BAD = f"{IMAGE}-new", f"{IMAGE}-bad"


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_sleep: list[Any] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for call in self.on_sleep:
            call()


def add_image(tenancy: Tenancy, ocid: str) -> None:
    """Another that we baked."""
    put_image(tenancy, ocid, freeformTags=tenancy.find("images", IMAGE)["freeformTags"])


def add_pool(tenancy: Tenancy, size: int, *, hold_s: int = 0) -> dict[str, Any]:
    """As the stack makes it, with nodes that run; hold_s: with a pre-termination action."""
    looks, tenancy.looks = tenancy.looks, 0
    balancer = tenancy.put(
        BALANCER, {"compartmentId": COMPARTMENT, "displayName": "llamakiln-lb", "shapeName": "flexible"}
    )
    checker = {"protocol": "HTTP", "urlPath": "/readyz"}
    nodes = {"name": "nodes", "policy": "LEAST_CONNECTIONS", "healthChecker": checker}
    http = {"name": "http", "port": 80, "protocol": "HTTP", "defaultBackendSetName": "nodes"}
    balancer["backendSets"]["nodes"] = kept("BackendSet", nodes)
    balancer["listeners"]["http"] = kept("Listener", http)
    launch = {
        "compartmentId": COMPARTMENT,
        "displayName": "llamakiln-node",
        "shape": A2,
        "shapeConfig": {"ocpus": 2.0, "memoryInGBs": 16.0},
        "sourceDetails": {"sourceType": "image", "imageId": IMAGE, "bootVolumeSizeInGBs": 50},
        "metadata": {"user_data": "I2Nsb3VkLWNvbmZpZwo="},
        "createVnicDetails": {"assignPublicIp": False, "nsgIds": ["ocid1.networksecuritygroup.oc1..nodes"]},
        "instanceOptions": {"areLegacyImdsEndpointsDisabled": True},
        "freeformTags": {"product": "llamakiln"},
    }
    tags = {"product": "llamakiln", "deployment": "llamakiln"}
    configuration = tenancy.put(
        CONFIGURATION,
        {
            "compartmentId": COMPARTMENT,
            "displayName": "llamakiln-node",
            "freeformTags": tags,
            "definedTags": {"Oracle-Tags": {"CreatedBy": "somebody"}, "Cost": {"Center": "42"}},
            "instanceDetails": {"instanceType": "compute", "launchDetails": launch},
        },
    )
    on_timeout = dict.fromkeys(("preserveBootVolumeMode", "preserveBlockVolumeMode"), "DELETE_ALWAYS")
    action = {"isEnabled": True, "timeout": hold_s, "onTimeout": on_timeout}
    pool = tenancy.put(
        POOL,
        {
            "compartmentId": COMPARTMENT,
            "displayName": "llamakiln-nodes",
            "freeformTags": tags,
            "instanceConfigurationId": configuration["id"],
            "size": size,
            "placementConfigurations": [
                {"availabilityDomain": name, "primarySubnetId": "s"} for name in sorted(DOMAINS)
            ],
            "loadBalancers": [
                {
                    "loadBalancerId": balancer["id"],
                    "backendSetName": "nodes",
                    "port": 80,
                    "vnicSelection": "PrimaryVnic",
                }
            ],
            "lifecycleManagement": {"lifecycleActions": {"preTermination": action}} if hold_s else None,
        },
    )
    tenancy.looks = looks
    return pool


def add_autoscaling(tenancy: Tenancy, pool: dict[str, Any]) -> dict[str, Any]:
    (kind,) = AUTOSCALING
    wanted = {"compartmentId": COMPARTMENT, "displayName": "llamakiln-autoscaling", "isEnabled": True, "policies": []}
    return tenancy.put(kind, {**wanted, "resource": {"type": "instancePool", "id": pool["id"]}})


class Traffic:
    """faults: what a client would have noticed; empty is well."""

    def __init__(self, tenancy: Tenancy, clock: Clock, pool: dict[str, Any]) -> None:
        self.tenancy, self.clock, self.pool = tenancy, clock, pool
        self.ends_at: dict[str, float] = {}  # node -> when its last request ends
        self.faults: list[str] = []
        self.n_least = len(self.serving())
        tenancy.watch = self.look
        clock.on_sleep.append(self.look)

    def stop(self) -> None:
        self.tenancy.watch = lambda: None

    def serving(self) -> list[dict[str, Any]]:
        """The nodes that the load balancer would send a request to."""
        (attachment,) = self.pool["loadBalancers"]
        balancer = self.tenancy.find("loadBalancers", attachment["loadBalancerId"])
        return [
            node
            for backend in balancer["backendSets"][attachment["backendSetName"]]["backends"]
            for node in self.tenancy.live("instances")
            if backend["name"] == f"{node['_privateIp']}:80"
            and node["lifecycleState"] == "RUNNING"
            and not (backend["drain"] or backend["offline"])
            and backend_health(self.tenancy, backend["name"]) == "OK"
        ]

    def look(self) -> None:
        with self.tenancy.lock:
            for node in self.tenancy.collection("instances").values():
                if self.ends_at.get(node["id"], 0) > self.clock.now and is_gone(node):
                    self.faults.append(f"{node['displayName']} ended under a request")
                    self.ends_at.pop(node["id"])
            serving = self.serving()
            if len(serving) < self.n_least:
                self.faults.append(f"only {len(serving)} serve after {self.tenancy.calls[-1]}")
            for node in serving:
                self.ends_at[node["id"]] = self.clock.now + REQUEST_S


class Stopper:
    """Raises KeyboardInterrupt at one of this process's calls to Oracle Cloud, counted from 1.

    is_late: when the call has been served, and its answer is lost.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.at, self.n_calls, self.is_late = 0, 0, False
        real = oci.base_client.BaseClient.request

        def request(client: Any, *arguments: Any, **options: Any) -> Any:
            self.n_calls += 1
            if self.n_calls == self.at and not self.is_late:
                raise KeyboardInterrupt
            answer = real(client, *arguments, **options)
            if self.n_calls == self.at:
                raise KeyboardInterrupt
            return answer

        monkeypatch.setattr(oci.base_client.BaseClient, "request", request)
