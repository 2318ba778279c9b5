"""What is left: service limits per availability domain, and room on hosts.

`tenancy.resources["capacity"]` says how many more instances a domain has room for; one that is not in it has room for
any number. compute_management counts it down.
"""

from __future__ import annotations

import bottle

from tests.cloud.tenancy import Json, Tenancy

LIMITS, CORE = "20190729", "20160918"


def add(tenancy: Tenancy) -> None:
    tenancy.resources["limits"] = {
        f"standard-{family}-{kind}-count": {"available": 100, "used": 4}
        for family in ("a1", "a2")
        for kind in ("core", "memory")
    }
    tenancy.resources["capacity"] = {}

    def report() -> Json:
        asked = bottle.request.json
        room = tenancy.resources["capacity"].get(asked["availabilityDomain"], 1)
        answer = "AVAILABLE" if room else "OUT_OF_HOST_CAPACITY"
        shapes = [{**one, "availabilityStatus": answer} for one in asked["shapeAvailabilities"]]
        return {**asked, "shapeAvailabilities": shapes, "timeCreated": "2026-11-01T00:00:00Z"}

    path = f"/{LIMITS}/services/compute/limits/<name>/resourceAvailability"
    tenancy.route("GET", path, lambda name: tenancy.find("limits", name))
    tenancy.route("POST", f"/{CORE}/computeCapacityReports", report)
