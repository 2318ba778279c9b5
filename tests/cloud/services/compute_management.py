"""Compute management: immutable instance configurations, and pools that make, spread, replace and end instances."""

from __future__ import annotations

from typing import Any

import bottle

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy

VERSION = "20160918"


def check_details(tenancy: Tenancy, configuration: Json) -> Json:
    details = configuration["instanceDetails"]["launchDetails"]
    size = sum(len(str(value)) for value in (details.get("metadata") or {}).values())
    if size > 32000:
        raise Refused(400, "InvalidParameter", f"Metadata has {size} bytes; 32000 are allowed")
    return {"deferredFields": []}


def fill_pool(tenancy: Tenancy, pool: Json) -> Json:
    for one in pool.get("loadBalancers") or []:
        one.update(
            {
                "id": tenancy.new_ocid("instancepoollbattachment"),
                "lifecycleState": "ATTACHED",
                "instancePoolId": pool["id"],
            }
        )
    resize(tenancy, pool, pool["size"])
    return {}


def change_pool(tenancy: Tenancy, pool: Json, body: Json) -> None:
    pool.update(
        {name: value for name, value in body.items() if name in ("instanceConfigurationId", "placementConfigurations")}
    )
    if body.get("size") is not None:
        resize(tenancy, pool, body["size"])
        tenancy.settle(pool, "SCALING", "RUNNING")


def members(tenancy: Tenancy, pool: Json) -> list[Json]:
    """Running instances of a pool, oldest first."""
    return [instance for instance in tenancy.live("instances") if instance["instancePoolId"] == pool["id"]]


def resize(tenancy: Tenancy, pool: Json, size: int) -> None:
    from tests.cloud.services.compute import KINDS

    (kind,) = (kind for kind in KINDS if kind.name == "instances")
    configuration = tenancy.find("instanceConfigurations", pool["instanceConfigurationId"])
    details = configuration["instanceDetails"]["launchDetails"]
    places = pool["placementConfigurations"]
    for number in range(len(members(tenancy, pool)), size):
        place = places[number % len(places)]
        domains = place.get("faultDomains") or ["FAULT-DOMAIN-1", "FAULT-DOMAIN-2", "FAULT-DOMAIN-3"]
        instance = tenancy.put(
            kind,
            {
                "displayName": f"{pool['displayName']}-{number + 1}",
                "compartmentId": pool["compartmentId"],
                "instancePoolId": pool["id"],
                "instanceConfigurationId": configuration["id"],
                "availabilityDomain": place["availabilityDomain"],
                "faultDomain": domains[number // len(places) % len(domains)],
                "shape": details["shape"],
                "region": "eu-frankfurt-1",
                "imageId": details["sourceDetails"]["imageId"],
                "metadata": details.get("metadata") or {},
                "subnetId": place.get("primarySubnetId") or place["primaryVnicSubnets"]["subnetId"],
                "nsgIds": details["createVnicDetails"].get("nsgIds") or [],
                "privateIp": f"10.0.1.{number + 2}",
            },
        )
        for one in pool.get("loadBalancers") or []:
            balancer = tenancy.find("loadBalancers", one["loadBalancerId"])
            name = f"{instance['privateIp']}:{one['port']}"
            balancer["backendSets"][one["backendSetName"]]["backends"].append(
                {
                    "name": name,
                    "ipAddress": instance["privateIp"],
                    "port": one["port"],
                    "weight": 1,
                    "backup": False,
                    "drain": False,
                    "offline": False,
                }
            )
    for instance in members(tenancy, pool)[size:]:
        end(tenancy, pool, instance)


def end(tenancy: Tenancy, pool: Json, instance: Json) -> None:
    tenancy.settle(instance, "TERMINATING", "TERMINATED")
    for one in pool.get("loadBalancers") or []:
        balancer = tenancy.collection("loadBalancers").get(one["loadBalancerId"])
        if balancer and one["backendSetName"] in balancer["backendSets"]:
            backends = balancer["backendSets"][one["backendSetName"]]["backends"]
            backends[:] = [backend for backend in backends if backend["ipAddress"] != instance["privateIp"]]


def end_pool(tenancy: Tenancy, pool: Json) -> None:
    for instance in members(tenancy, pool):
        end(tenancy, pool, instance)


KINDS = (
    Kind(
        "instanceConfigurations",
        VERSION,
        "instanceconfiguration",
        fill=check_details,
        used_by=(("instancePools", "instanceConfigurationId"),),
    ),
    Kind(
        "instancePools",
        VERSION,
        "instancepool",
        making="PROVISIONING",
        ready="RUNNING",
        ending="TERMINATING",
        gone="TERMINATED",
        fill=fill_pool,
        on_update=change_pool,
        on_delete=end_pool,
    ),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)

    def list_instances(ocid: str) -> Any:
        found = members(tenancy, tenancy.find("instancePools", ocid))
        keep = (
            "id",
            "availabilityDomain",
            "faultDomain",
            "compartmentId",
            "displayName",
            "instanceConfigurationId",
            "region",
            "shape",
            "timeCreated",
        )
        return tenancy.page(
            [{**{name: one[name] for name in keep}, "state": tenancy.look(one)["lifecycleState"]} for one in found]
        )

    def detach(ocid: str) -> Json:
        pool, body = tenancy.find("instancePools", ocid), bottle.request.json
        instance = tenancy.find("instances", body["instanceId"])
        end(tenancy, pool, instance)
        if body.get("isDecrementSize"):
            pool["size"] -= 1
        else:
            resize(tenancy, pool, pool["size"])
        tenancy.settle(pool, "SCALING", "RUNNING")
        return {}

    tenancy.route("GET", f"/{VERSION}/instancePools/<ocid>/instances", list_instances)
    tenancy.route("POST", f"/{VERSION}/instancePools/<ocid>/actions/detachInstance", detach)
