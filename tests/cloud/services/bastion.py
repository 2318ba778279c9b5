"""Bastion: bastions with a private address in the nodes' subnet."""

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy


def fill(tenancy: Tenancy, bastion: Json) -> Json:
    if not bastion["name"].isalnum():
        raise Refused(400, "InvalidParameter", f"a bastion's name has letters and digits only: {bastion['name']}")
    subnet = tenancy.find("subnets", bastion["targetSubnetId"])
    return {
        "privateEndpointIpAddress": "10.0.1.200",
        "targetVcnId": subnet["vcnId"],
        "maxSessionsAllowed": 20,
        "timeUpdated": bastion["timeCreated"],
        "systemTags": {},
    }


KINDS = (
    Kind(
        "bastions",
        "20210331",
        "bastion",
        making="CREATING",
        ready="ACTIVE",
        ending="DELETING",
        gone="DELETED",
        fill=fill,
    ),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
