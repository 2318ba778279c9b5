"""Load Balancing: every change is a work request; listeners, backend sets, certificates and rule sets are its parts."""

from __future__ import annotations

import bottle

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy

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
    node = next((one for one in tenancy.live("instances") if f"{one['privateIp']}:" in name), None)
    if name in tenancy.collection("unhealthy") or (node and node["imageId"] in tenancy.collection("badImages")):
        return "CRITICAL"
    is_ready = node is None or (node["lifecycleState"] == "RUNNING" and node["looksUntilReady"] <= 0)
    return "OK" if is_ready else "UNKNOWN"


def check_nodes(tenancy: Tenancy, names: list[str]) -> dict[str, str]:
    """The health of each; a node that runs comes nearer to its first answer by being looked at."""
    told = {name: backend_health(tenancy, name) for name in names}
    for node in tenancy.live("instances"):
        if node["lifecycleState"] == "RUNNING":
            node["looksUntilReady"] -= 1
    return told


def shown_certificate(details: Json) -> Json:
    return {name: value for name, value in details.items() if name != "privateKey"}


def with_backends(details: Json) -> Json:
    return {"backends": [], **details}


# Part -> how it is kept, and the (part, field) whose use keeps it from being deleted
PARTS = {
    "backendSets": (with_backends, (("listeners", "defaultBackendSetName"),)),
    "listeners": (dict, ()),
    "certificates": (shown_certificate, (("listeners", "sslConfiguration"),)),
    "ruleSets": (dict, (("listeners", "ruleSetNames"),)),
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
        tenancy.start_work(WORK, operation, type=operation, loadBalancerId=ocid, message="OK", errorDetails=[])
        bottle.response.status = 204

    def create() -> None:
        balancer = tenancy.put(BALANCER, bottle.request.json)
        work(balancer["id"], "CreateLoadBalancer")

    def change(ocid: str, kind: str) -> None:
        tenancy.find("loadBalancers", ocid).update(
            {name: value for name, value in bottle.request.json.items() if value is not None}
        )
        work(ocid, kind)

    def delete(ocid: str) -> None:
        tenancy._delete(BALANCER, ocid)
        work(ocid, "DeleteLoadBalancer")

    tenancy.route("POST", base, create)
    tenancy.route("PUT", f"{base}/<ocid>", lambda ocid: change(ocid, "UpdateLoadBalancer"))
    tenancy.route(
        "PUT", f"{base}/<ocid>/networkSecurityGroups", lambda ocid: change(ocid, "UpdateNetworkSecurityGroups")
    )
    tenancy.route("PUT", f"{base}/<ocid>/updateShape", lambda ocid: change(ocid, "UpdateShape"))
    tenancy.route("DELETE", f"{base}/<ocid>", delete)

    def get_work(ocid: str) -> Json:
        found = tenancy.look(tenancy.find(WORK, ocid))
        return {**found, "lifecycleState": found["lifecycleState"]}

    tenancy.route("GET", f"/{VERSION}/{WORK}/<ocid>", get_work)

    for part, (keep, users) in PARTS.items():
        _add_part(tenancy, base, part, keep, users, work)


def _add_part(tenancy: Tenancy, base: str, part: str, keep, users, work) -> None:
    path = f"{base}/<ocid>/{part}"

    def parts_of(ocid: str) -> dict[str, Json]:
        return tenancy.find("loadBalancers", ocid)[part]

    def create(ocid: str) -> None:
        details = bottle.request.json
        name = details.get("name") or details["certificateName"]
        if name in parts_of(ocid):
            raise Refused(409, "Conflict", f"{part} has {name} already")
        for kind, reference in (("backendSets", "defaultBackendSetName"),):
            if details.get(reference) and details[reference] not in tenancy.find("loadBalancers", ocid)[kind]:
                raise Refused(400, "InvalidParameter", f"no backend set {details[reference]}")
        parts_of(ocid)[name] = keep(details)
        work(ocid, f"Create{part}")

    def update(ocid: str, name: str) -> None:
        """A PUT replaces the whole part; what is left out is gone, but for a backend set's backends."""
        old = known(ocid, name)
        stays = {key: old[key] for key in ("name", "backends") if key in old}
        said = {key: value for key, value in bottle.request.json.items() if value is not None and key != "backends"}
        parts_of(ocid)[name] = {**keep(said), **stays}
        work(ocid, f"Update{part}")

    def known(ocid: str, name: str) -> Json:
        if name not in parts_of(ocid):
            raise Refused(404, "NotAuthorizedOrNotFound", f"no {name} in {part}")
        return parts_of(ocid)[name]

    def delete(ocid: str, name: str) -> None:
        known(ocid, name)
        for kind, reference in users:
            for user, details in tenancy.find("loadBalancers", ocid)[kind].items():
                if name in str(details.get(reference)):
                    raise Refused(409, "Conflict", f"{name} is used by {kind} {user}")
        del parts_of(ocid)[name]
        work(ocid, f"Delete{part}")

    tenancy.route("GET", path, lambda ocid: list(parts_of(ocid).values()))
    tenancy.route("POST", path, create)
    tenancy.route("GET", f"{path}/<name>", known)
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
            found = [one for one in known(ocid, name)["backends"] if one["name"] == backend]
            if not found:
                raise Refused(404, "NotAuthorizedOrNotFound", f"no backend {backend} in {name}")
            found[0].update({key: value for key, value in bottle.request.json.items() if value is not None})
            work(ocid, "UpdateBackend")

        tenancy.route("GET", f"{path}/<name>/health", health)
        tenancy.route("PUT", f"{path}/<name>/backends/<backend>", change_backend)
