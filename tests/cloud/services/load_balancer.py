"""Load Balancing: every change is a work request; listeners, backend sets, certificates and rule sets are its parts."""

from __future__ import annotations

import re
from collections.abc import Callable

import bottle

from tests.cloud import contract
from tests.cloud.tenancy import Json, Kind, Refused, Tenancy, now

VERSION = "20170115"
WORK = "loadBalancerWorkRequests"
ADDRESS = "203.0.113.80"


def fill_balancer(tenancy: Tenancy, balancer: Json) -> Json:
    return {
        **{name: {} for name in ("backendSets", "listeners", "certificates", "hostnames", "ruleSets", "pathRouteSets")},
        "ipAddresses": [{"ipAddress": ADDRESS, "isPublic": not balancer.get("isPrivate")}],
        "isDeleteProtectionEnabled": False,
        "ipMode": "IPV4",
    }


def backend_health(tenancy: Tenancy, name: str) -> str:
    """CRITICAL for what a test put into "unhealthy" and for nodes of an image in "badImages", UNKNOWN until a node is
    ready. A backend that belongs to no node is healthy.
    """
    node = next((one for one in tenancy.live("instances") if f"{one['_privateIp']}:" in name), None)
    if name in tenancy.collection("unhealthy") or (node and node["imageId"] in tenancy.collection("badImages")):
        return "CRITICAL"
    is_ready = node is None or (node["lifecycleState"] == "RUNNING" and node["_looksUntilReady"] <= 0)
    return "OK" if is_ready else "UNKNOWN"


def check_nodes(tenancy: Tenancy, names: list[str]) -> dict[str, str]:
    """The health of each; a node that runs comes nearer to its first answer by being looked at."""
    told = {name: backend_health(tenancy, name) for name in names}
    for node in tenancy.live("instances"):
        if node["lifecycleState"] == "RUNNING":
            node["_looksUntilReady"] -= 1
    return told


# Part -> the model that a GET of it answers, and the (part, field) whose use keeps one from being deleted
PARTS = {
    "backendSets": ("BackendSet", (("listeners", "defaultBackendSetName"),)),
    "listeners": ("Listener", ()),
    "certificates": ("Certificate", (("listeners", "sslConfiguration"),)),
    "ruleSets": ("RuleSet", (("listeners", "ruleSetNames"),)),
}


def kept(model: str, details: Json) -> Json:
    """What the API keeps and shows of a part: what its model has (no private key), and an empty list where none is."""
    fields = contract.types("load_balancer", model)
    said = {name: value for name, value in details.items() if name in fields and value is not None}
    if model == "BackendSet":
        said["healthChecker"] = {**CHECKER, **said["healthChecker"]}
    if model == "Certificate":
        said.setdefault("caCertificate", "")
    if said.get("sslConfiguration"):
        said["sslConfiguration"] = {**SSL, **said["sslConfiguration"]}
    return {**contract.empty("load_balancer", model), **said}


# What the API takes where nothing is said
CHECKER = {
    "port": 0,
    "returnCode": 200,
    "retries": 3,
    "timeoutInMillis": 3000,
    "intervalInMillis": 10000,
    "responseBodyRegex": ".*",
    "isForcePlainText": False,
}
SSL = {
    "verifyDepth": 5,
    "verifyPeerCertificate": True,
    "certificateIds": [],
    "trustedCertificateAuthorityIds": [],
    "hasSessionResumption": True,
}
BALANCER = Kind(
    "loadBalancers",
    VERSION,
    "loadbalancer",
    making="CREATING",
    ready="ACTIVE",
    ending="DELETING",
    gone="DELETED",
    fill=fill_balancer,
    used_by=(("webAppFirewalls", "loadBalancerId"),),
)


def add(tenancy: Tenancy) -> None:
    tenancy.serve(BALANCER)
    base = f"/{VERSION}/loadBalancers"

    def work(ocid: str, operation: str) -> None:
        """An accepted change; its work request is all that is answered."""
        work = tenancy.new_ocid("loadbalancerworkrequest")
        tenancy.collection(WORK)[work] = {
            "id": work,
            "loadBalancerId": ocid,
            "compartmentId": tenancy.find("loadBalancers", ocid)["compartmentId"],
            "type": operation,
            "message": "",
            "errorDetails": [],
            "timeAccepted": now(),
        }
        tenancy.settle(tenancy.collection(WORK)[work], "IN_PROGRESS", "SUCCEEDED")
        bottle.response.set_header("opc-work-request-id", work)
        bottle.response.status = 204

    def look_at_work(work: Json) -> Json:
        tenancy.look(work)
        if work["lifecycleState"] == "SUCCEEDED":
            work["message"] = "OK"
            work.setdefault("timeFinished", now())
        return work

    def create() -> None:
        balancer = tenancy.put(BALANCER, bottle.request.json)
        work(balancer["id"], "CreateLoadBalancer")

    def change(ocid: str, operation: str) -> None:
        balancer = found(ocid)
        balancer.update({name: value for name, value in bottle.request.json.items() if value is not None})
        tenancy.touch(balancer)
        work(ocid, operation)

    def found(ocid: str) -> Json:
        """To be changed: the caller saw it as it is, where it says what it saw."""
        balancer = tenancy.find("loadBalancers", ocid)
        tenancy.check_match(balancer)
        return balancer

    def delete(ocid: str) -> None:
        tenancy.delete(BALANCER, ocid)
        work(ocid, "DeleteLoadBalancer")

    def list_works(ocid: str) -> list[Json]:
        tenancy.find("loadBalancers", ocid)
        return [look_at_work(one) for one in tenancy.collection(WORK).values() if one["loadBalancerId"] == ocid]

    tenancy.route("POST", base, create)
    tenancy.route("PUT", f"{base}/<ocid>", lambda ocid: change(ocid, "UpdateLoadBalancer"))
    tenancy.route(
        "PUT", f"{base}/<ocid>/networkSecurityGroups", lambda ocid: change(ocid, "UpdateNetworkSecurityGroups")
    )
    tenancy.route("PUT", f"{base}/<ocid>/updateShape", lambda ocid: change(ocid, "UpdateShape"))
    tenancy.route("DELETE", f"{base}/<ocid>", delete)
    tenancy.route("GET", f"{base}/<ocid>/workRequests", list_works)
    tenancy.route("GET", f"/{VERSION}/{WORK}/<ocid>", lambda ocid: look_at_work(tenancy.find(WORK, ocid)))
    for part, (model, users) in PARTS.items():
        _add_part(tenancy, part, model, users, found, work)


def _add_part(tenancy: Tenancy, part: str, model: str, users: tuple, found: Callable, work: Callable) -> None:
    path = f"/{VERSION}/loadBalancers/<ocid>/{part}"

    def parts_of(ocid: str) -> dict[str, Json]:
        return tenancy.find("loadBalancers", ocid)[part]

    def changed(ocid: str, verb: str) -> None:
        tenancy.touch(tenancy.find("loadBalancers", ocid))
        work(ocid, f"{verb}{model}")

    def create(ocid: str) -> None:
        details, balancer = bottle.request.json, found(ocid)
        name = details.get("name") or details["certificateName"]
        if name in balancer[part]:
            raise Refused(409, "Conflict", f"{part} has {name} already")
        wanted = details.get("defaultBackendSetName")
        if wanted and wanted not in balancer["backendSets"]:
            raise Refused(400, "InvalidParameter", f"no backend set {wanted}")
        balancer[part][name] = kept(model, details)
        changed(ocid, "Create")

    def update(ocid: str, name: str) -> None:
        """A PUT replaces the whole part; what is left out is gone, but for a backend set's backends."""
        found(ocid)
        old = known(ocid, name)
        stays = {key: old[key] for key in ("name", "backends") if key in old}
        parts_of(ocid)[name] = {**kept(model, bottle.request.json), **stays}
        changed(ocid, "Update")

    def known(ocid: str, name: str) -> Json:
        if name not in parts_of(ocid):
            raise Refused(404, "NotAuthorizedOrNotFound", f"no {name} in {part}")
        return parts_of(ocid)[name]

    def show(ocid: str, name: str) -> Json:
        tenancy.show(tenancy.find("loadBalancers", ocid))  # whose etag is that of its parts
        return known(ocid, name)

    def delete(ocid: str, name: str) -> None:
        balancer = found(ocid)
        known(ocid, name)
        for kind, reference in users:
            for user, details in balancer[kind].items():
                if name in str(details.get(reference)):
                    raise Refused(409, "Conflict", f"{name} is used by {kind} {user}")
        del balancer[part][name]
        changed(ocid, "Delete")

    if contract.find("GET", re.sub(r"<\w+>", "x", path)):  # the API lists no listeners
        tenancy.route("GET", path, lambda ocid: list(parts_of(ocid).values()))
    tenancy.route("POST", path, create)
    if contract.find("GET", re.sub(r"<\w+>", "x", f"{path}/<name>")):
        tenancy.route("GET", f"{path}/<name>", show)
    if contract.find("PUT", re.sub(r"<\w+>", "x", f"{path}/<name>")):
        tenancy.route("PUT", f"{path}/<name>", update)
    tenancy.route("DELETE", f"{path}/<name>", delete)

    if part == "backendSets":

        def health(ocid: str, name: str) -> Json:
            known(ocid, name)
            told = check_nodes(tenancy, [backend["name"] for backend in known(ocid, name)["backends"]])
            by_state = {state: [one for one in told if told[one] == state] for state in ("CRITICAL", "UNKNOWN")}
            n_bad = sum(map(len, by_state.values()))
            return {
                "status": "OK" if not n_bad else "CRITICAL" if n_bad == len(told) else "WARNING",
                "totalBackendCount": len(told),
                "criticalStateBackendNames": by_state["CRITICAL"],
                "warningStateBackendNames": [],
                "unknownStateBackendNames": by_state["UNKNOWN"],
            }

        def change_backend(ocid: str, name: str, backend: str) -> None:
            found(ocid)
            named = [one for one in known(ocid, name)["backends"] if one["name"] == backend]
            if not named:
                raise Refused(404, "NotAuthorizedOrNotFound", f"no backend {backend} in {name}")
            named[0].update({key: value for key, value in bottle.request.json.items() if value is not None})
            tenancy.touch(tenancy.find("loadBalancers", ocid))
            work(ocid, "UpdateBackend")

        tenancy.route("GET", f"{path}/<name>/health", health)
        tenancy.route("PUT", f"{path}/<name>/backends/<backend>", change_backend)
