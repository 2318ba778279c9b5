"""Bastion: bastions with a private address in the nodes' subnet."""

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy, Work


def fill(tenancy: Tenancy, bastion: Json) -> Json:
    if not bastion["name"].isalnum():
        raise Refused(400, "InvalidParameter", f"a bastion's name has letters and digits only: {bastion['name']}")
    subnet = tenancy.find("subnets", bastion["targetSubnetId"])
    return {
        "privateEndpointIpAddress": "10.0.1.200",
        "targetVcnId": subnet["vcnId"],
        "maxSessionTtlInSeconds": bastion.get("maxSessionTtlInSeconds", 1800),
        "maxSessionsAllowed": 20,
        "dnsProxyStatus": "DISABLED",
        "timeUpdated": bastion["timeCreated"],
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
        made=202,
        changed=202,
        ended=202,
        work=Work("bastion", {f"{verb}D": f"{verb}_BASTION" for verb in ("CREATE", "UPDATE", "DELETE")}),
        fill=fill,
    ),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
