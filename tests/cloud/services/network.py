"""Networking: VCNs with their default lists, subnets, gateways, route tables, security lists and groups."""

from __future__ import annotations

import ipaddress

import bottle

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy, public

VERSION = "20160918"
LIFE = {"making": "PROVISIONING", "ready": "AVAILABLE", "ending": "TERMINATING", "gone": "TERMINATED"}


def ssh_rule(first: int = 22, last: int = 22) -> Json:
    ports = {"destinationPortRange": {"min": first, "max": last}}
    return {"protocol": "6", "source": "0.0.0.0/0", "isStateless": False, "tcpOptions": ports}


def fill_vcn(tenancy: Tenancy, vcn: Json) -> Json:
    """A VCN comes with a route table, DHCP options, and a security list that lets the world in on port 22."""
    owner = {"vcnId": vcn["id"], "compartmentId": vcn["compartmentId"]}
    rules = {
        "ingressSecurityRules": [ssh_rule()],
        "egressSecurityRules": [{"destination": "0.0.0.0/0", "protocol": "all"}],
    }
    return {
        "cidrBlock": vcn["cidrBlocks"][0],
        "defaultSecurityListId": tenancy.put(SECURITY_LIST, {**owner, **rules, "displayName": "Default"})["id"],
        "defaultRouteTableId": tenancy.put(ROUTE_TABLE, {**owner, "displayName": "Default", "routeRules": []})["id"],
        "defaultDhcpOptionsId": tenancy.new_ocid("dhcpoptions"),
        "vcnDomainName": f"{vcn.get('dnsLabel', 'vcn')}.oraclevcn.com",
    }


def drop_defaults(tenancy: Tenancy, vcn: Json) -> None:
    del tenancy.collection("securityLists")[vcn["defaultSecurityListId"]]
    del tenancy.collection("routeTables")[vcn["defaultRouteTableId"]]


def fill_subnet(tenancy: Tenancy, subnet: Json) -> Json:
    vcn = tenancy.find("vcns", subnet["vcnId"])
    block = ipaddress.ip_network(subnet["cidrBlock"])
    if not any(block.subnet_of(ipaddress.ip_network(outer)) for outer in vcn["cidrBlocks"]):
        raise Refused(400, "InvalidParameter", f"The requested CIDR {block} is not in the VCN's {vcn['cidrBlocks']}")
    for other in tenancy.live("subnets"):
        if other["vcnId"] == vcn["id"] and block.overlaps(ipaddress.ip_network(other["cidrBlock"])):
            raise Refused(400, "InvalidParameter", f"The requested CIDR {block} overlaps {other['cidrBlock']}")
    return {
        "ipv4CidrBlocks": [str(block)],
        "virtualRouterIp": str(block[1]),
        "virtualRouterMac": "00:00:17:00:00:01",
        "routeTableId": subnet.get("routeTableId") or vcn["defaultRouteTableId"],
        "securityListIds": subnet.get("securityListIds") or [vcn["defaultSecurityListId"]],
        "dhcpOptionsId": vcn["defaultDhcpOptionsId"],
        "subnetDomainName": f"{subnet.get('dnsLabel', 'subnet')}.{vcn['vcnDomainName']}",
    }


def check_routes(tenancy: Tenancy, table: Json, body: Json) -> None:
    """Oracle refuses a table that leads to an internet gateway and to all services through a service gateway."""
    targets = [rule["networkEntityId"].split(".")[1] for rule in body.get("routeRules", [])]
    if {"internetgateway", "servicegateway"} <= set(targets):
        raise Refused(
            400,
            "InvalidParameter",
            "A route table cannot use an internet gateway and a service gateway for all services",
        )


def fill_table(tenancy: Tenancy, table: Json) -> Json:
    check_routes(tenancy, table, table)
    return {}


def fill_service_gateway(tenancy: Tenancy, gateway: Json) -> Json:
    names = {service["id"]: service["name"] for service in SERVICES}
    return {"services": [{**one, "serviceName": names[one["serviceId"]]} for one in gateway["services"]]}


IN_VCN = tuple((name, "vcnId") for name in ("subnets", "internetGateways", "serviceGateways", "natGateways"))
SECURITY_LIST = Kind("securityLists", VERSION, "securitylist", **LIFE)
ROUTE_TABLE = Kind(
    "routeTables",
    VERSION,
    "routetable",
    **LIFE,
    used_by=(("subnets", "routeTableId"),),
    fill=fill_table,
    on_update=check_routes,
)
GROUP = Kind(
    "networkSecurityGroups",
    VERSION,
    "networksecuritygroup",
    **LIFE,
    used_by=(("loadBalancers", "networkSecurityGroupIds"), ("instances", "_nsgIds"), ("groupRules", "_peers")),
)
KINDS = (
    Kind(
        "vcns",
        VERSION,
        "vcn",
        **LIFE,
        fill=fill_vcn,
        on_delete=drop_defaults,
        used_by=(*IN_VCN, ("networkSecurityGroups", "vcnId")),
    ),
    Kind(
        "subnets",
        VERSION,
        "subnet",
        **LIFE,
        defaults={"prohibitPublicIpOnVnic": False, "prohibitInternetIngress": False},
        fill=fill_subnet,
        used_by=(("loadBalancers", "subnetIds"), ("instances", "_subnetId"), ("bastions", "targetSubnetId")),
    ),
    Kind(
        "internetGateways",
        VERSION,
        "internetgateway",
        **LIFE,
        defaults={"isEnabled": True},
        used_by=(("routeTables", "routeRules"),),
    ),
    Kind(
        "serviceGateways",
        VERSION,
        "servicegateway",
        **LIFE,
        defaults={"blockTraffic": False},
        fill=fill_service_gateway,
        used_by=(("routeTables", "routeRules"),),
    ),
    Kind(
        "natGateways",
        VERSION,
        "natgateway",
        **LIFE,
        defaults={"blockTraffic": False, "natIp": "198.51.100.9"},
        used_by=(("routeTables", "routeRules"),),
    ),
    ROUTE_TABLE,
    SECURITY_LIST,
    GROUP,
)
SERVICES = (
    {
        "id": "ocid1.service.oc1.eu-frankfurt-1.objectstorage",
        "name": "OCI FRA Object Storage",
        "cidrBlock": "oci-fra-objectstorage",
        "description": "OCI FRA Object Storage",
    },
    {
        "id": "ocid1.service.oc1.eu-frankfurt-1.all",
        "name": "All FRA Services In Oracle Services Network",
        "cidrBlock": "all-fra-services-in-oracle-services-network",
        "description": "All FRA Services In Oracle Services Network",
    },
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
    tenancy.route("GET", f"/{VERSION}/services", lambda: list(SERVICES))

    group = f"/{VERSION}/networkSecurityGroups/<ocid>"

    def rules_of(ocid: str) -> list[Json]:
        tenancy.find("networkSecurityGroups", ocid)
        return [rule for rule in tenancy.collection("groupRules").values() if rule["_group"] == ocid]

    def add_rules(ocid: str) -> Json:
        tenancy.find("networkSecurityGroups", ocid)
        added = []
        for rule in bottle.request.json["securityRules"]:
            name = tenancy.new_ocid("rule")[-4:].replace(".", "0")
            # `_peers` is what keeps a group that another group's rule names from being deleted
            peers = [peer for peer in (rule.get("source"), rule.get("destination")) if peer != ocid]
            fields = {"id": name, "isValid": True, "isStateless": False, "timeCreated": "2026-11-01T00:00:00Z"}
            tenancy.collection("groupRules")[name] = {**fields, **rule, "_group": ocid, "_peers": peers}
            added.append(public(tenancy.collection("groupRules")[name]))
        return {"securityRules": added}

    def update_rules(ocid: str) -> Json:
        for rule in bottle.request.json["securityRules"]:
            tenancy.find("groupRules", rule["id"]).update(rule)
        return {"securityRules": [public(rule) for rule in rules_of(ocid)]}

    def remove_rules(ocid: str) -> None:
        for name in bottle.request.json["securityRuleIds"]:
            tenancy.collection("groupRules").pop(name, None)
        bottle.response.status = 204

    tenancy.route("GET", f"{group}/securityRules", rules_of)
    tenancy.route("POST", f"{group}/actions/addSecurityRules", add_rules)
    tenancy.route("POST", f"{group}/actions/updateSecurityRules", update_rules)
    tenancy.route("POST", f"{group}/actions/removeSecurityRules", remove_rules)
