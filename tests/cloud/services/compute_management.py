"""Compute management: immutable instance configurations, and pools that make, spread, replace and end instances."""

from __future__ import annotations

from typing import Any

import bottle

from tests.cloud.services import work_requests
from tests.cloud.services.load_balancer import backend_health
from tests.cloud.tenancy import Json, Kind, Refused, Tenancy

VERSION = "20160918"
LOOKS_HELD = 10  # how long a pre-termination action holds a node


def check_details(tenancy: Tenancy, configuration: Json) -> Json:
    details = configuration["instanceDetails"]["launchDetails"]
    size = sum(len(str(value)) for value in (details.get("metadata") or {}).values())
    if size > 32000:
        raise Refused(400, "InvalidParameter", f"Metadata has {size} bytes; 32000 are allowed")
    configuration.pop("source", None)
    return {}


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
    return {"availabilityDomains": domains_of(pool)}


def domains_of(pool: Json) -> list[str]:
    return [place["availabilityDomain"] for place in pool["placementConfigurations"]]


def change_pool(tenancy: Tenancy, pool: Json, body: Json) -> None:
    refuse_if_busy(tenancy, pool)
    pool.update(
        {name: value for name, value in body.items() if name in ("instanceConfigurationId", "placementConfigurations")}
    )
    pool["availabilityDomains"] = domains_of(pool)
    tenancy.find("instanceConfigurations", pool["instanceConfigurationId"])
    if body.get("size") is not None and body["size"] != pool["size"]:
        fault = resize(tenancy, pool, body["size"])
        scale(tenancy, pool, fault)


def refuse_if_busy(tenancy: Tenancy, pool: Json) -> None:
    if pool["lifecycleState"] == "SCALING":
        raise Refused(409, "Conflict", f"The instance pool {pool['id']} is SCALING")


def scale(tenancy: Tenancy, pool: Json, fault: str) -> None:
    tenancy.settle(pool, "SCALING", "RUNNING")
    work_requests.start(tenancy, VERSION, "ScaleInstancePool", "UPDATED", "instancePool", pool, fault)


def members(tenancy: Tenancy, pool: Json) -> list[Json]:
    """Instances that count towards a pool's size, oldest first."""
    found = [instance for instance in tenancy.live("instances") if instance.get("_instancePoolId") == pool["id"]]
    return [instance for instance in found if instance["_membership"] == "ACTIVE"]


def resize(tenancy: Tenancy, pool: Json, size: int) -> str:
    """Launch what is missing and end what is too much, the oldest first: a size says nothing of which nodes are meant.

    Returns why some could not be launched.
    """
    for _ in range(len(members(tenancy, pool)), size):
        if not launch(tenancy, pool):
            return "Out of host capacity."
    for instance in members(tenancy, pool)[: max(0, len(members(tenancy, pool)) - size)]:
        end(tenancy, pool, instance)
    return ""


def launch(tenancy: Tenancy, pool: Json) -> bool:
    from tests.cloud.services.compute import KINDS

    (kind,) = (kind for kind in KINDS if kind.name == "instances")
    configuration = tenancy.find("instanceConfigurations", pool["instanceConfigurationId"])
    details = configuration["instanceDetails"]["launchDetails"]
    places = pool["placementConfigurations"]
    number = tenancy.collection("launches").get(pool["id"], 0)
    tenancy.collection("launches")[pool["id"]] = number + 1
    place = places[number % len(places)]
    room = tenancy.collection("capacity")
    if place["availabilityDomain"] in room:
        if not room[place["availabilityDomain"]]:
            return False
        room[place["availabilityDomain"]] -= 1
    domains = place.get("faultDomains") or ["FAULT-DOMAIN-1", "FAULT-DOMAIN-2", "FAULT-DOMAIN-3"]
    instance = tenancy.put(
        kind,
        {
            "displayName": f"{pool['displayName']}-{number + 1}",
            "compartmentId": pool["compartmentId"],
            "_instancePoolId": pool["id"],
            "instanceConfigurationId": configuration["id"],
            "availabilityDomain": place["availabilityDomain"],
            "faultDomain": domains[number // len(places) % len(domains)],
            "shape": details["shape"],
            "shapeConfig": details.get("shapeConfig"),
            "sourceDetails": details["sourceDetails"],
            "metadata": details.get("metadata") or {},
            "subnetId": place.get("primarySubnetId") or place["primaryVnicSubnets"]["subnetId"],
            "createVnicDetails": details.get("createVnicDetails"),
            "_privateIp": f"10.0.{1 + number // 250}.{number % 250 + 2}",
            "_membership": "ACTIVE",
        },
    )
    for one in pool.get("loadBalancers") or []:
        balancer = tenancy.find("loadBalancers", one["loadBalancerId"])
        backend = {"name": f"{instance['_privateIp']}:{one['port']}", "ipAddress": instance["_privateIp"]}
        flags = dict.fromkeys(("backup", "drain", "offline"), False)
        balancer["backendSets"][one["backendSetName"]]["backends"].append(
            {**backend, "port": one["port"], "weight": 1, **flags}
        )
    return True


def deregister(tenancy: Tenancy, pool: Json, instance: Json) -> None:
    for one in pool.get("loadBalancers") or []:
        balancer = tenancy.collection("loadBalancers").get(one["loadBalancerId"])
        if balancer and one["backendSetName"] in balancer["backendSets"]:
            backends = balancer["backendSets"][one["backendSetName"]]["backends"]
            backends[:] = [backend for backend in backends if backend["ipAddress"] != instance["_privateIp"]]


def end(tenancy: Tenancy, pool: Json, instance: Json) -> None:
    instance["_membership"] = "DETACHING"
    tenancy.settle(instance, "TERMINATING", "TERMINATED")
    deregister(tenancy, pool, instance)


def end_pool(tenancy: Tenancy, pool: Json) -> None:
    for instance in tenancy.live("instances"):
        if instance.get("_instancePoolId") == pool["id"]:
            end(tenancy, pool, instance)


def shown_member(tenancy: Tenancy, pool: Json, instance: Json) -> Json:
    """An instance as its pool tells of it. One that is held ends when it was looked at often enough."""
    if instance["_membership"] == "TERMINATION_AWAIT":
        instance["_looksHeld"] -= 1
        if not instance["_looksHeld"]:
            end(tenancy, pool, instance)
    names = [f"{instance['_privateIp']}:{one['port']}" for one in pool.get("loadBalancers") or []]
    backends = [
        {
            "loadBalancerId": one["loadBalancerId"],
            "backendSetName": one["backendSetName"],
            "backendName": name,
            "backendHealthStatus": backend_health(tenancy, name),
        }
        for name, one in zip(names, pool.get("loadBalancers") or [], strict=True)
    ]
    state = tenancy.look(instance)["lifecycleState"]
    told = {"state": state.capitalize(), "lifecycleState": instance["_membership"], "loadBalancerBackends": backends}
    return {**{name: instance[name] for name in MEMBER}, "instancePoolId": pool["id"], **told}


MEMBER = (
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
        ours=("availabilityDomains",),  # which only a list shows
        on_update=change_pool,
        on_delete=end_pool,
    ),
)


CONFIGURATION, POOL = KINDS


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)

    def of_pool(ocid: str) -> list[Json]:
        tenancy.find("instancePools", ocid)
        found = [one for one in tenancy.collection("instances").values() if one.get("_instancePoolId") == ocid]
        return [one for one in found if one["lifecycleState"] != "TERMINATED"]

    def list_instances(ocid: str) -> Any:
        pool = tenancy.find("instancePools", ocid)
        return [shown_member(tenancy, pool, one) for one in of_pool(ocid)]

    def get_instance(ocid: str, instance: str) -> Json:
        if instance not in [one["id"] for one in of_pool(ocid)]:
            raise Refused(404, "NotAuthorizedOrNotFound", f"{instance} is not in {ocid}")
        return shown_member(tenancy, tenancy.find("instancePools", ocid), tenancy.find("instances", instance))

    def detach(ocid: str) -> None:
        pool, body = tenancy.find("instancePools", ocid), bottle.request.json
        refuse_if_busy(tenancy, pool)
        instance = tenancy.find("instances", body["instanceId"])
        if instance not in members(tenancy, pool):
            raise Refused(404, "NotAuthorizedOrNotFound", f"{instance['id']} is not in {ocid}")
        action = ((pool.get("lifecycleManagement") or {}).get("lifecycleActions") or {}).get("preTermination") or {}
        if action.get("isEnabled"):
            instance["_membership"], instance["_looksHeld"] = "TERMINATION_AWAIT", LOOKS_HELD
            deregister(tenancy, pool, instance)
        else:
            end(tenancy, pool, instance)
        if body.get("isDecrementSize", True):
            pool["size"] -= 1
        scale(tenancy, pool, resize(tenancy, pool, pool["size"]))
        bottle.response.status = 204

    def proceed(ocid: str) -> None:
        instance = tenancy.find("instances", bottle.request.json["instanceId"])
        if instance["_membership"] != "TERMINATION_AWAIT":
            raise Refused(409, "IncorrectState", f"{instance['id']} does not wait for its end")
        end(tenancy, tenancy.find("instancePools", ocid), instance)
        bottle.response.status = 204

    path = f"/{VERSION}/instancePools/<ocid>"
    tenancy.route("GET", f"{path}/instances", list_instances)
    tenancy.route("GET", f"{path}/instances/<instance>", get_instance)
    tenancy.route("POST", f"{path}/actions/detachInstance", detach)
    tenancy.route("POST", f"{path}/actions/terminationProceed", proceed)
