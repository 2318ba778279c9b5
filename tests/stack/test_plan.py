"""What the plan promises, for every pair of options: read here as somebody who runs OCI would read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from tests.cloud.services.identity import DOMAINS
from tests.stack.combinations import every_pair, label
from tests.stack.deployment import REPOSITORY, Deployment, Plan

ROWS = [(label(row), row) for row in every_pair()]
BALANCER = "oci_load_balancer_load_balancer"
RULE = "oci_core_network_security_group_security_rule"


def launch_details(plan: Plan) -> dict[str, Any]:
    return plan.one("oci_core_instance_configuration")["instance_details"][0]["launch_details"][0]


def rules(plan: Plan, key: str) -> list[dict[str, Any]]:
    """Planned rules whose resource has this name."""
    return [one["change"]["after"] for one in plan.changes if one["type"] == RULE and one["name"] == key]


def ports(rule: dict[str, Any]) -> tuple[int, int] | None:
    found = (rule["tcp_options"] or [{}])[0].get("destination_port_range")
    return (found[0]["min"], found[0]["max"]) if found else None


def only_imds_v2(plan: Plan, _row: dict) -> None:
    """IMDSv1 answers any request that a node can be tricked into: off."""
    assert launch_details(plan)["instance_options"] == [{"are_legacy_imds_endpoints_disabled": True}]


def volumes_are_encrypted_on_their_way(plan: Plan, _row: dict) -> None:
    assert launch_details(plan)["is_pv_encryption_in_transit_enabled"] is True


def nodes_come_back_after_a_host_fails(plan: Plan, _row: dict) -> None:
    assert launch_details(plan)["availability_config"][0]["recovery_action"] == "RESTORE_INSTANCE"


def nodes_have_public_addresses_only_when_asked(plan: Plan, row: dict) -> None:
    is_public = row["nodes"] == "public"
    assert launch_details(plan)["create_vnic_details"][0]["assign_public_ip"] is is_public
    for subnet in plan.all("oci_core_subnet"):
        if subnet["dns_label"] == "nodes":
            assert subnet["prohibit_public_ip_on_vnic"] is not is_public


def the_world_reaches_only_the_load_balancers_ports(plan: Plan, row: dict) -> None:
    """Groups allow TCP from clients on 80 and 443, path MTU discovery, and nothing else from an address range."""
    open_ports = {80} if row["https"] == "off" else {80, 443}
    assert {ports(rule)[0] for rule in rules(plan, "clients")} == open_ports
    for rule in plan.all(RULE):
        if rule["direction"] != "INGRESS" or not rule.get("source") or rule["source_type"] != "CIDR_BLOCK":
            continue
        if rule["protocol"] == "1":
            assert (rule["icmp_options"][0]["type"], rule["icmp_options"][0]["code"]) == (3, 4)
        elif ip_network(rule["source"]).prefixlen == 0:
            assert rule["protocol"] == "6" and ports(rule)[0] == ports(rule)[1] in open_ports
    (inward,) = rules(plan, "nodes_from_lb")
    assert (inward["source_type"], ports(inward)) == ("NETWORK_SECURITY_GROUP", (80, 80))


def nodes_reach_the_internet_only_when_asked(plan: Plan, row: dict) -> None:
    outward = [
        rule for rule in plan.all(RULE) if rule["direction"] == "EGRESS" and rule.get("destination") == "0.0.0.0/0"
    ]
    assert len(outward) == (row["nodes"] == "nat")
    has_gateway = row["nodes"] == "nat" and row["network"] == "new"
    assert len(plan.all("oci_core_nat_gateway")) == has_gateway


def ssh_is_closed_unless_asked(plan: Plan, row: dict) -> None:
    found = [rule for rule in plan.all(RULE) if ports(rule) == (22, 22)]
    assert len(found) == (row["ssh"] != "off")
    assert ("ssh_authorized_keys" in launch_details(plan).get("metadata", {})) == (row["ssh"] != "off") or row[
        "key"
    ] == "made"
    if row["ssh"] == "range":
        assert found[0]["source"] == "203.0.113.7/32"
    assert len(plan.all("oci_bastion_bastion")) == (row["ssh"] == "bastion")


def the_default_security_list_is_emptied(plan: Plan, row: dict) -> None:
    lists = plan.all("oci_core_default_security_list")
    assert len(lists) == (row["network"] == "new")
    for one in lists:
        assert one["ingress_security_rules"] == one["egress_security_rules"] == []


def an_existing_network_is_left_alone(plan: Plan, row: dict) -> None:
    made = [
        one for kind in ("vcn", "subnet", "route_table", "internet_gateway") for one in plan.all(f"oci_core_{kind}")
    ]
    assert bool(made) == (row["network"] == "new")


def no_route_table_has_both_gateways(plan: Plan, row: dict) -> None:
    """OCI refuses a table with an internet gateway and a service gateway for all services."""
    for table in plan.all("oci_core_route_table"):
        kinds = {rule["destination_type"] for rule in table["route_rules"]}
        is_public = table["display_name"].endswith("-public")
        assert not (is_public and "SERVICE_CIDR_BLOCK" in kinds)


def timeouts_are_in_order(plan: Plan, _row: dict) -> None:
    """A request ends by the service, not by who waits for it: service < NGINX < load balancer < NGINX keep-alive."""
    nginx = (REPOSITORY / "packer/files/etc/nginx/llamakiln/proxy.conf").read_text()
    keepalive = (REPOSITORY / "packer/files/etc/nginx/nginx.conf").read_text()
    nginx_s = int(re.search(r"proxy_read_timeout (\d+)s", nginx)[1])
    keepalive_s = int(re.search(r"keepalive_timeout (\d+)s", keepalive)[1])
    for listener in plan.all("oci_load_balancer_listener"):
        lb_s = int(listener["connection_configuration"][0]["idle_timeout_in_seconds"])
        assert 280 < nginx_s < lb_s < keepalive_s


def health_is_readiness(plan: Plan, _row: dict) -> None:
    backend_set = plan.one("oci_load_balancer_backend_set")
    (check,) = backend_set["health_checker"]
    assert (check["protocol"], check["port"], check["url_path"], check["return_code"]) == ("HTTP", 80, "/readyz", 200)
    assert check["timeout_in_millis"] < check["interval_ms"]
    assert backend_set["policy"] == "LEAST_CONNECTIONS"


def the_load_balancer_is_flexible_and_numbers_requests(plan: Plan, _row: dict) -> None:
    balancer = plan.one(BALANCER)
    assert (balancer["shape"], balancer["is_private"], balancer["is_request_id_enabled"]) == ("flexible", False, True)
    assert balancer["shape_details"][0] == {"minimum_bandwidth_in_mbps": 10, "maximum_bandwidth_in_mbps": 100}


def http_leads_to_https(plan: Plan, row: dict) -> None:
    listeners = {one["name"]: one for one in plan.all("oci_load_balancer_listener")}
    has_tls = row["https"] != "off"
    assert set(listeners) == ({"http", "https"} if has_tls else {"http"})
    assert listeners["http"].get("rule_set_names") == (["to_https"] if has_tls else [])
    for rule_set in plan.all("oci_load_balancer_rule_set"):
        (item,) = rule_set["items"]
        assert (item["action"], item["response_code"]) == ("REDIRECT", 308)
    if has_tls:
        (tls,) = listeners["https"]["ssl_configuration"]
        assert tls["protocols"] == ["TLSv1.2", "TLSv1.3"]
        assert bool(tls.get("certificate_ids")) == (row["https"] == "own")
    assert len(plan.all("tls_self_signed_cert")) == (row["https"] == "self-signed")


def the_self_signed_certificate_says_so(plan: Plan, row: dict) -> None:
    for certificate in plan.all("tls_self_signed_cert"):
        (subject,) = certificate["subject"]
        assert "self-signed" in subject["common_name"] and "self-signed" in subject["organization"]
        assert certificate["dns_names"] == (["llm.example.com"] if row["host"] == "named" else [])


def nodes_stand_in_every_domain(plan: Plan, row: dict) -> None:
    places = plan.one("oci_core_instance_pool")["placement_configurations"]
    assert [one["availability_domain"] for one in places] == sorted(DOMAINS)
    for one in places:
        strict = ["FAULT-DOMAIN-1", "FAULT-DOMAIN-2", "FAULT-DOMAIN-3"]
        assert one.get("fault_domains") == (strict if row["domains"] == "strict" else None)


def the_pool_has_its_size(plan: Plan, row: dict) -> None:
    assert plan.one("oci_core_instance_pool")["size"] == (4 if row["autoscaling"] == "cpu" else 2)


def a_node_drains_before_it_ends(plan: Plan, row: dict) -> None:
    found = plan.one("oci_core_instance_pool")["lifecycle_management"]
    if row["drain"] == "off":
        assert found == []
        return
    (action,) = found[0]["lifecycle_actions"][0]["pre_termination"]
    assert (action["is_enabled"], action["timeout"]) == (True, 240)


def the_shape_is_the_one_asked_for(plan: Plan, row: dict) -> None:
    details = launch_details(plan)
    wanted = ("VM.Standard.A1.Flex", 4, 24) if row["shape"] == "a1" else ("VM.Standard.A2.Flex", 2, 16)
    assert (
        details["shape"],
        details["shape_config"][0]["ocpus"],
        details["shape_config"][0]["memory_in_gbs"],
    ) == wanted
    (source,) = details["source_details"]
    assert (source["boot_volume_size_in_gbs"], source["boot_volume_vpus_per_gb"]) == ("50", "10")


def an_import_is_made_bootable_on_arm(plan: Plan, row: dict) -> None:
    images = plan.all("oci_core_image")
    assert len(images) == (row["image"] != "ocid")
    shapes = {one["shape_name"] for one in plan.all("oci_core_shape_management")}
    assert shapes == ({"VM.Standard.A1.Flex", "VM.Standard.A2.Flex"} if images else set())
    schemas = plan.all("oci_core_compute_image_capability_schema")
    assert len(schemas) == (row["image"] == "qcow2")
    for schema in schemas:
        assert '"defaultValue":"UEFI_64"' in schema["schema_data"]["Compute.Firmware"]


def everything_that_can_be_tagged_is(plan: Plan, _row: dict) -> None:
    tags = {"product": "llamakiln", "deployment": "llamakiln"}
    for one in plan.changes:
        after, unknown = one["change"]["after"] or {}, one["change"]["after_unknown"]
        if "freeform_tags" in after or "freeform_tags" in unknown:
            assert after.get("freeform_tags") == tags, one["address"]


def autoscaling_is_what_was_asked(plan: Plan, row: dict) -> None:
    found = plan.all("oci_autoscaling_auto_scaling_configuration")
    assert len(found) == (row["autoscaling"] != "off")
    for one in found:
        assert one["cool_down_in_seconds"] >= 300
        kinds = [policy["policy_type"] for policy in one["policies"]]
        assert kinds == (["scheduled", "scheduled"] if row["autoscaling"] == "schedule" else ["threshold"])
        changes = {rule["action"][0]["value"] for policy in one["policies"] for rule in policy["rules"]}
        assert changes == (set() if row["autoscaling"] == "schedule" else {1, -1})


def options_make_their_resources(plan: Plan, row: dict) -> None:
    assert len(plan.all("oci_logging_log")) == (2 if row["logs"] == "on" else 0)
    assert len(plan.all("oci_waf_web_app_firewall")) == (row["waf"] == "on")
    assert len(plan.all("oci_monitoring_alarm")) == (3 if row["alarms"] == "on" else 0)
    assert len(plan.all("oci_ons_subscription")) == (row["alarms"] == "on")
    sticky = plan.one("oci_load_balancer_backend_set")["lb_cookie_session_persistence_configuration"]
    assert len(sticky) == (row["sticky"] == "on")
    for cookie in sticky:
        assert cookie["is_secure"] == (row["https"] != "off")


def the_estimate_is_told(plan: Plan, _row: dict) -> None:
    assert re.match(r"About \$\d+ a month: \d+ x \$", plan.outputs["monthly_estimate"])


def urls_begin_as_clients_must(plan: Plan, row: dict) -> None:
    if row["host"] == "named":
        scheme = "http" if row["https"] == "off" else "https"
        assert plan.outputs["url"] == f"{scheme}://llm.example.com"
        assert plan.outputs["api_base_url"] == f"{scheme}://llm.example.com/v1"


PROMISES: list[Callable[[Plan, dict], None]] = [
    only_imds_v2,
    volumes_are_encrypted_on_their_way,
    nodes_come_back_after_a_host_fails,
    nodes_have_public_addresses_only_when_asked,
    the_world_reaches_only_the_load_balancers_ports,
    nodes_reach_the_internet_only_when_asked,
    ssh_is_closed_unless_asked,
    the_default_security_list_is_emptied,
    an_existing_network_is_left_alone,
    no_route_table_has_both_gateways,
    timeouts_are_in_order,
    health_is_readiness,
    the_load_balancer_is_flexible_and_numbers_requests,
    http_leads_to_https,
    the_self_signed_certificate_says_so,
    nodes_stand_in_every_domain,
    the_pool_has_its_size,
    a_node_drains_before_it_ends,
    the_shape_is_the_one_asked_for,
    an_import_is_made_bootable_on_arm,
    everything_that_can_be_tagged_is,
    autoscaling_is_what_was_asked,
    options_make_their_resources,
    the_estimate_is_told,
    urls_begin_as_clients_must,
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"row{number}" for number in range(len(ROWS))])
def test_plan_keeps(plans: dict[str, Plan], name: str, row: dict, promise: Callable[[Plan, dict], None]) -> None:
    promise(plans[name], row)


def test_domains_without_the_shape_are_left_out(deployment: Deployment) -> None:
    last = sorted(DOMAINS)[-1]
    del deployment.tenancy.resources["shapes"][last]["VM.Standard.A2.Flex"]
    places = deployment.plan().one("oci_core_instance_pool")["placement_configurations"]
    assert [one["availability_domain"] for one in places] == sorted(DOMAINS)[:-1]


def test_a_shape_without_a_known_price_is_told(deployment: Deployment) -> None:
    for shapes in deployment.tenancy.resources["shapes"].values():
        shapes["VM.Standard.A4.Flex"] = {"shape": "VM.Standard.A4.Flex"}
    (image,) = deployment.tenancy.resources["imageShapes"].values()
    image["VM.Standard.A4.Flex"] = {}
    told = deployment.plan(shape="VM.Standard.A4.Flex").outputs["monthly_estimate"]
    assert told.startswith("No price of VM.Standard.A4.Flex is known")
