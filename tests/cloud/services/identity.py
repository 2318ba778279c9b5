"""Identity: the region's availability domains, each with three fault domains, and the compartments."""

from tests.cloud.tenancy import COMPARTMENT, N_DOMAINS, REGION, TENANCY, Tenancy

VERSION = "20160918"
DOMAINS = tuple(f"Test:{REGION.upper()}-AD-{number}" for number in range(1, N_DOMAINS + 1))


def put_compartment(tenancy: Tenancy, ocid: str, name: str, parent: str = TENANCY) -> None:
    tenancy.collection("compartments")[ocid] = {
        "id": ocid,
        "compartmentId": parent,
        "name": name,
        "description": name,
        "lifecycleState": "ACTIVE",
        "timeCreated": "2026-11-01T00:00:00Z",
        "freeformTags": {},
        "definedTags": {},
    }


def add(tenancy: Tenancy) -> None:
    tenancy.resources["availabilityDomains"] = {
        name: {"name": name, "id": f"ocid1.availabilitydomain.oc1..{name[-1]}", "compartmentId": TENANCY}
        for name in reversed(DOMAINS)  # in no useful order, as in the cloud
    }

    def list_domains() -> list:
        return list(tenancy.collection("availabilityDomains").values())

    def list_fault_domains() -> list:
        from bottle import request

        domain = request.query["availabilityDomain"]
        return [
            {
                "name": f"FAULT-DOMAIN-{n}",
                "id": f"ocid1.faultdomain.oc1..{domain[-1]}{n}",
                "compartmentId": TENANCY,
                "availabilityDomain": domain,
            }
            for n in (2, 1, 3)
        ]

    def list_compartments() -> list:
        from bottle import request

        is_deep = request.query.get("compartmentIdInSubtree") == "true"
        above = request.query["compartmentId"]
        return [one for one in tenancy.live("compartments") if is_deep or one["compartmentId"] == above]

    put_compartment(tenancy, COMPARTMENT, "stack")
    tenancy.route("GET", f"/{VERSION}/compartments", list_compartments)
    tenancy.route(
        "GET", f"/{VERSION}/compartments/<ocid>", lambda ocid: tenancy.show(tenancy.find("compartments", ocid))
    )
    anywhere = ("compartmentId",)  # every compartment has them, and they are the tenancy's
    tenancy.route("GET", f"/{VERSION}/availabilityDomains", list_domains, unfiltered=anywhere)
    tenancy.route("GET", f"/{VERSION}/faultDomains", list_fault_domains, unfiltered=anywhere)
