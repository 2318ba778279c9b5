"""What a bake needs in a loopback tenancy: Ubuntu's own image, and a public subnet that lets SSH in."""

from __future__ import annotations

from tests.cloud.services.compute import put_image
from tests.cloud.services.network import KINDS, ssh_rule
from tests.cloud.tenancy import COMPARTMENT, REGION, Json, Tenancy

KIND = {kind.name: kind for kind in KINDS}
BASE_IMAGE = f"ocid1.image.oc1.{REGION}.ubuntu"
BASE_IMAGE_NAME = "Canonical-Ubuntu-22.04-aarch64-2026.10.31-0"
SUBNET = f"ocid1.subnet.oc1.{REGION}.public"
GROUP = f"ocid1.networksecuritygroup.oc1.{REGION}.ssh"


def furnish(tenancy: Tenancy) -> None:
    """Put all of it in, ready."""
    looks, tenancy.looks = tenancy.looks, 0
    add_base_image(tenancy)
    add_public_subnet(tenancy)
    tenancy.looks = looks


def add_base_image(tenancy: Tenancy) -> None:
    """One of Oracle's: it is in no compartment."""
    put_image(tenancy, BASE_IMAGE, displayName=BASE_IMAGE_NAME, compartmentId=None)


def add_public_subnet(tenancy: Tenancy) -> None:
    """SUBNET, whose VCN's own security list lets SSH in, and GROUP, which does so too."""

    def put(kind: str, body: Json, ocid: str = "") -> Json:
        return tenancy.put(KIND[kind], {"compartmentId": COMPARTMENT, **body}, ocid)

    vcn = put("vcns", {"cidrBlocks": ["10.0.0.0/16"], "displayName": "bake"})
    inside = {"vcnId": vcn["id"]}
    gateway = put("internetGateways", inside)
    out = {"destination": "0.0.0.0/0", "destinationType": "CIDR_BLOCK", "networkEntityId": gateway["id"]}
    table = put("routeTables", {**inside, "routeRules": [out]})
    put("subnets", {**inside, "cidrBlock": "10.0.0.0/24", "displayName": "public", "routeTableId": table["id"]}, SUBNET)
    put("networkSecurityGroups", inside, GROUP)
    rule = {"id": "0A1B2C", "direction": "INGRESS", "isValid": True, **ssh_rule()}
    tenancy.collection("groupRules")[rule["id"]] = {**rule, "_group": GROUP, "_peers": []}
