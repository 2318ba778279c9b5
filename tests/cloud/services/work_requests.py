"""Work requests of every API but Load Balancing's: what a call that is accepted does, how far it is and why it failed.

Compute's are asked from an API for all services; WAF, Bastion and Logging each have one of their own, of the same form.
"""

from __future__ import annotations

import bottle

from tests.cloud.tenancy import COMPARTMENT, Json, Tenancy, now

CORE, WAF, BASTION, LOGGING = "20160918", "20210930", "20210331", "20200531"


def start(
    tenancy: Tenancy, version: str, operation: str, action: str, entity: str, item: Json, fault: str = ""
) -> None:
    """One for a resource that is being made, changed or ended; `fault` is the error it will end with.

    It runs as long as its resource settles; for one that has settled already, `looks` looks.
    """
    ocid = tenancy.new_ocid("coreservicesworkrequest" if version == CORE else "workrequest")
    accepted = now()
    work = {
        "id": ocid,
        "compartmentId": item.get("compartmentId", COMPARTMENT),
        "operationType": operation,
        "percentComplete": 0.0,
        "timeAccepted": accepted,
        "timeStarted": accepted,
        "resources": [{"actionType": "IN_PROGRESS", "entityType": entity, "identifier": item["id"]}],
        "_item": item,
        "_action": action,
        "_fault": fault,
    }
    tenancy.collection(f"{version}/workRequests")[ocid] = work
    if tenancy.is_settled(item):
        tenancy.settle(work, "IN_PROGRESS", "SUCCEEDED", "status")
    bottle.response.set_header("opc-work-request-id", ocid)


def look(tenancy: Tenancy, work: Json) -> Json:
    """How far it is: each look finds it a third further on."""
    item = tenancy.look(work["_item"])
    tenancy.look(work)
    if tenancy.is_settled(item) and tenancy.is_settled(work):
        work["status"] = "FAILED" if work["_fault"] else "SUCCEEDED"
        work.setdefault("timeFinished", now())
        if not work["_fault"]:
            work["percentComplete"] = 100.0
            work["resources"][0]["actionType"] = work["_action"]
    else:
        work["status"], work["percentComplete"] = "IN_PROGRESS", min(99.0, work["percentComplete"] + 33.0)
    return work


def add(tenancy: Tenancy) -> None:
    for version in (CORE, WAF, BASTION, LOGGING):
        _add_api(tenancy, version)


def _add_api(tenancy: Tenancy, version: str) -> None:
    store = f"{version}/workRequests"

    def list_requests() -> list[Json]:
        wanted = bottle.request.query.get("resourceId")
        found = tenancy.collection(store).values()
        return [look(tenancy, work) for work in found if wanted in (None, work["_item"]["id"])]

    def list_errors(ocid: str) -> list[Json]:
        work = tenancy.find(store, ocid)
        told = {"code": "InvalidParameter", "message": work["_fault"], "timestamp": work["timeAccepted"]}
        return [told] if work.get("status") == "FAILED" else []

    def list_logs(ocid: str) -> list[Json]:
        work = tenancy.find(store, ocid)
        return [{"message": f"{work['operationType']} was accepted", "timestamp": work["timeAccepted"]}]

    path = f"/{version}/workRequests"
    tenancy.route("GET", path, list_requests)
    tenancy.route("GET", f"{path}/<ocid>", lambda ocid: tenancy.show(look(tenancy, tenancy.find(store, ocid))))
    tenancy.route("GET", f"{path}/<ocid>/errors", list_errors)
    tenancy.route("GET", f"{path}/<ocid>/logs", list_logs)
