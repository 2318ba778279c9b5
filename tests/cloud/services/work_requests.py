"""Work requests of Compute: how far an import is, and why it failed."""

from __future__ import annotations

import bottle

from tests.cloud.tenancy import Json, Tenancy, now

VERSION = "20160918"
STORE = "computeWorkRequests"
STATUS = {"IMPORTING": "IN_PROGRESS", "PROVISIONING": "IN_PROGRESS", "AVAILABLE": "SUCCEEDED", "DELETED": "FAILED"}


def start(tenancy: Tenancy, image: Json, operation: str, fault: str) -> None:
    """One for an image that is being made; `fault` is the error it will end with."""
    ocid = tenancy.new_ocid("coreservicesworkrequest")
    tenancy.collection(STORE)[ocid] = {
        "id": ocid,
        "compartmentId": image["compartmentId"],
        "operationType": operation,
        "percentComplete": 0.0,
        "timeAccepted": now(),
        "resources": [{"actionType": "CREATED", "entityType": "image", "identifier": image["id"]}],
        "fault": fault,
    }
    bottle.response.set_header("opc-work-request-id", ocid)


def add(tenancy: Tenancy) -> None:
    def shown(work: Json) -> Json:
        """Its state is that of its image; each look finds it a third further on."""
        image = tenancy.find("images", work["resources"][0]["identifier"])
        status = STATUS[image["lifecycleState"]]
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
