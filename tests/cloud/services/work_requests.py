"""Work requests of Compute: how far an import or the scaling of a pool is, and why it failed."""

from __future__ import annotations

import bottle

from tests.cloud.tenancy import Json, Tenancy, now

VERSION = "20160918"
STORE = "computeWorkRequests"
RUNNING = ("IMPORTING", "PROVISIONING", "SCALING")  # of the resource


def start(tenancy: Tenancy, resource: Json, operation: str, fault: str, entity: str = "image") -> None:
    """One for a resource that is being made or changed; `fault` is the error it will end with."""
    ocid = tenancy.new_ocid("coreservicesworkrequest")
    tenancy.collection(STORE)[ocid] = {
        "id": ocid,
        "compartmentId": resource["compartmentId"],
        "operationType": operation,
        "percentComplete": 0.0,
        "timeAccepted": now(),
        "resources": [{"actionType": "CREATED", "entityType": entity, "identifier": resource["id"]}],
        "fault": fault,
    }
    bottle.response.set_header("opc-work-request-id", ocid)


def add(tenancy: Tenancy) -> None:
    def shown(work: Json) -> Json:
        """Its state is that of its resource; each look finds it a third further on."""
        subject = work["resources"][0]
        resource = tenancy.find(f"{subject['entityType']}s", subject["identifier"])
        is_running = resource["lifecycleState"] in RUNNING
        status = "IN_PROGRESS" if is_running else "FAILED" if work["fault"] else "SUCCEEDED"
        work["percentComplete"] = 100.0 if status == "SUCCEEDED" else min(99.0, work["percentComplete"] + 33.0)
        return {**{name: value for name, value in work.items() if name != "fault"}, "status": status}

    def list_requests() -> list[Json]:
        wanted = bottle.request.query.get("resourceId")
        found = [work for work in tenancy.collection(STORE).values() if work["resources"][0]["identifier"] == wanted]
        return [shown(work) for work in found]

    def list_errors(ocid: str) -> list[Json]:
        fault = tenancy.find(STORE, ocid)["fault"]
        return [{"code": "InvalidParameter", "message": fault, "timestamp": now()}] if fault else []

    path = f"/{VERSION}/workRequests"
    tenancy.route("GET", path, list_requests)
    tenancy.route("GET", f"{path}/<ocid>", lambda ocid: shown(tenancy.find(STORE, ocid)))
    tenancy.route("GET", f"{path}/<ocid>/errors", list_errors)
