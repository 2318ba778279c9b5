"""What the stand-in provider does with each type of resource: a table of SDK clients, nouns and exceptions.

RESOURCES and DATA are the tables. Values go to the API through Oracle's SDK models, attribute by attribute, by the same
names; ALIASES has the few that differ. An attribute that the API's model does not have is an error, as is a value that
the model does not allow, so a stack that applies here uses only what Oracle's API knows.
Knows Terraform's values and the SDK. Knows nothing of the plugin protocol.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import oci
import oci.autoscaling
import oci.bastion
import oci.load_balancer
import oci.logging
import oci.monitoring
import oci.ons
import oci.waf

Values = dict[str, Any]
Ids = tuple[str, ...]

# Terraform's name -> the API's, where they differ. Used only where the model has the second.
ALIASES = {
    "auto_scaling_resources": "resource",
    "enabled": "is_enabled",
    "idle_timeout_in_seconds": "idle_timeout",
    "interval_ms": "interval_in_millis",
    "ip_address_details": "ip_addresses",
    "name": "shape",
    "shape": "shape_name",
    "state": "lifecycle_state",
    "stateless": "is_stateless",
}
RETRIED = (409, 429)
MAX_TRIES = 6
GONE = ("TERMINATED", "DELETED")
READY = ("AVAILABLE", "RUNNING", "ACTIVE", "SUCCEEDED", "PENDING", "ENABLED")
FAILED = ("FAILED", "FAULTY")


class NotDone(Exception):
    """The API refused, or the stack said something that the API does not know."""


class Cloud:
    """The SDK's clients, made when first asked for, all against one address."""

    def __init__(self, config: Values, url: str) -> None:
        self.config, self.url = config, url
        self._clients: dict[str, Any] = {}

    def client(self, name: str) -> Any:
        if name not in self._clients:
            module, kind = name.split(".")
            make = getattr(getattr(oci, module), kind)
            once = oci.retry.NoneRetryStrategy()
            self._clients[name] = make(self.config, service_endpoint=self.url, retry_strategy=once)
        return self._clients[name]

    def ask(self, client: str, method: str, ids: Ids, details: Any = None) -> Any:
        """One API call. The SDK's methods differ in order and names of their parameters: details go where they go."""
        function = getattr(self.client(client), method)
        names = [one.name for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
        rest = iter(ids)
        is_details = [name.startswith(("create_", "update_", "add_", "remove_", "topic_attr")) for name in names]
        return function(*(details if is_it else next(rest) for is_it in is_details))

    def call(self, client: str, method: str, ids: Ids = (), details: Any = None) -> Any:
        """The same, tried again as the real provider does when the API is busy."""
        for left in reversed(range(MAX_TRIES)):
            try:
                return self.ask(client, method, ids, details)
            except oci.exceptions.ServiceError as error:
                if error.status not in RETRIED or not left:
                    raise NotDone(f"{error.status}-{error.code}, {error.message} (calling {method})") from error
                time.sleep(0.02)
        raise AssertionError("unreachable")

    def find(self, client: str, method: str, ids: Ids) -> Any:
        """What a GET answers, or None when it is not there."""
        try:
            found = self.ask(client, method, ids).data
        except oci.exceptions.ServiceError as error:
            if error.status == 404:
                return None
            raise NotDone(f"{error.status}-{error.code}, {error.message} (calling {method})") from error
        return None if getattr(found, "lifecycle_state", None) in GONE else found

    def wait(self, client: str, method: str, ids: Ids) -> Any:
        """Look until it is ready or gone."""
        while True:
            found = self.find(client, method, ids)
            state = found and (getattr(found, "lifecycle_state", None) or getattr(found, "status", None))
            if found is None or state is None or state in READY:
                return found
            if state in FAILED:
                raise NotDone(f"{method}: it is {state}")
            time.sleep(0.005)


@dataclass(frozen=True)
class Resource:
    """The usual kind: create_<noun>, get_<noun>, update_<noun>, delete_<noun>."""

    client: str
    noun: str
    replace: tuple[str, ...] = ()
    deleted_by: str = "delete"
    update_details: str = ""
    id_field: str = "id"
    defaults: Values = field(default_factory=dict)  # of the real provider, which its printed schema does not have

    @property
    def models(self) -> Any:
        return getattr(oci, self.client.split(".")[0]).models

    @property
    def pascal(self) -> str:
        return "".join(word.capitalize() for word in self.noun.split("_"))

    def ids(self, state: Values) -> Ids:
        return (state["id"],)

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        said = {**self.defaults, **given(block, wanted)}
        details = build(self.models, f"Create{self.pascal}Details", said, self.noun)
        made = cloud.call(self.client, f"create_{self.noun}", (), details)
        ocid = getattr(made.data, self.id_field)
        cloud.wait(self.client, f"get_{self.noun}", (ocid,))
        return ocid

    def read(self, cloud: Cloud, state: Values) -> Any:
        return cloud.find(self.client, f"get_{self.noun}", self.ids(state))

    def update(self, cloud: Cloud, block: Values, prior: Values, wanted: Values) -> None:
        kind = self.update_details or f"Update{self.pascal}Details"
        changed = {name: wanted[name] for name in settable(block) if wanted[name] not in (None, prior[name])}
        details = build(self.models, kind, changed, self.noun)
        cloud.call(self.client, f"update_{self.noun}", self.ids(wanted), details)
        cloud.wait(self.client, f"get_{self.noun}", self.ids(wanted))

    def delete(self, cloud: Cloud, state: Values) -> None:
        cloud.call(self.client, f"{self.deleted_by}_{self.noun}", self.ids(state))
        while cloud.find(self.client, f"get_{self.noun}", self.ids(state)) is not None:
            time.sleep(0.005)


class ByWork(Resource):
    """What an accepted work request makes: log groups and logs."""

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        values = given(block, wanted)
        owner = tuple(values.pop(name) for name in ("log_group_id",) if name in values)
        details = build(self.models, f"Create{self.pascal}Details", values, self.noun)
        made = cloud.call(self.client, f"create_{self.noun}", owner, details)
        work = cloud.wait(self.client, "get_work_request", (made.headers["opc-work-request-id"],))
        return work.resources[0].identifier

    def ids(self, state: Values) -> Ids:
        return (state["log_group_id"], state["id"]) if self.noun == "log" else (state["id"],)


class Balancer(Resource):
    """A load balancer: made by a work request that tells its OCID."""

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        details = build(self.models, "CreateLoadBalancerDetails", given(block, wanted), self.noun)
        ocid = self.finish(cloud, "create_load_balancer", (), details).load_balancer_id
        cloud.wait(self.client, "get_load_balancer", (ocid,))
        return ocid

    def finish(self, cloud: Cloud, method: str, ids: Ids, details: Any = None) -> Any:
        """Call, and wait for the work request that the answer names."""
        made = cloud.call(self.client, method, ids, details)
        return cloud.wait(self.client, "get_work_request", (made.headers["opc-work-request-id"],))

    def update(self, cloud: Cloud, block: Values, prior: Values, wanted: Values) -> None:
        if wanted["shape_details"] != prior["shape_details"]:
            shape = build(self.models, "ShapeDetails", wanted["shape_details"], "shape_details")
            details = self.models.UpdateLoadBalancerShapeDetails(shape_name=wanted["shape"], shape_details=shape)
            self.finish(cloud, "update_load_balancer_shape", (wanted["id"],), details)
        tags = {name: wanted[name] for name in ("display_name", "freeform_tags") if wanted[name] != prior[name]}
        if tags:
            details = build(self.models, "UpdateLoadBalancerDetails", tags, self.noun)
            self.finish(cloud, "update_load_balancer", (wanted["id"],), details)


class Part(Balancer):
    """A listener, backend set, certificate or rule set of a load balancer; each change is a work request."""

    def ids(self, state: Values) -> Ids:
        return (state["load_balancer_id"], state.get("name") or state["certificate_name"])

    def said(self, block: Values, wanted: Values, *without: str) -> Values:
        return {name: value for name, value in given(block, wanted).items() if name not in without}

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        values = self.said(block, wanted, "load_balancer_id")
        details = build(self.models, f"Create{self.pascal}Details", values, self.noun)
        balancer, name = self.ids(wanted)
        self.finish(cloud, f"create_{self.noun}", (balancer,), details)
        return f"loadBalancers/{balancer}/{camel(self.noun)}s/{name}"

    def read(self, cloud: Cloud, state: Values) -> Any:
        balancer, name = self.ids(state)
        if self.noun == "certificate":
            found = cloud.find(self.client, "list_certificates", (balancer,)) or []
            return next((one for one in found if one.certificate_name == name), None)
        if self.noun == "listener":  # the API has no call for one
            found = cloud.find(self.client, "get_load_balancer", (balancer,))
            return found and found.listeners.get(name)
        return super().read(cloud, state)

    def update(self, cloud: Cloud, block: Values, prior: Values, wanted: Values) -> None:
        details = build(
            self.models, f"Update{self.pascal}Details", self.said(block, wanted, "load_balancer_id", "name"), self.noun
        )
        self.finish(cloud, f"update_{self.noun}", self.ids(wanted), details)

    def delete(self, cloud: Cloud, state: Values) -> None:
        self.finish(cloud, f"delete_{self.noun}", self.ids(state))


class SecurityRule(Resource):
    """One rule of a group: the API adds, lists and removes them by the group."""

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        values = {name: value for name, value in given(block, wanted).items() if name != "network_security_group_id"}
        rule = build(self.models, "AddSecurityRuleDetails", values, "rule")
        details = self.models.AddNetworkSecurityGroupSecurityRulesDetails(security_rules=[rule])
        group = (wanted["network_security_group_id"],)
        made = cloud.call(self.client, "add_network_security_group_security_rules", group, details)
        return made.data.security_rules[0].id

    def read(self, cloud: Cloud, state: Values) -> Any:
        group = (state["network_security_group_id"],)
        if cloud.find(self.client, "get_network_security_group", group) is None:
            return None
        list_rules = cloud.client(self.client).list_network_security_group_security_rules
        rules = oci.pagination.list_call_get_all_results(list_rules, *group).data
        return next((rule for rule in rules if rule.id == state["id"]), None)

    def delete(self, cloud: Cloud, state: Values) -> None:
        details = self.models.RemoveNetworkSecurityGroupSecurityRulesDetails(security_rule_ids=[state["id"]])
        group = (state["network_security_group_id"],)
        cloud.call(self.client, "remove_network_security_group_security_rules", group, details)


class DefaultSecurityList(Resource):
    """Taken over instead of made; left as it is when the VCN goes."""

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        self.update(cloud, block, {}, {**wanted, "id": wanted["manage_default_resource_id"]})
        return wanted["manage_default_resource_id"]

    def update(self, cloud: Cloud, block: Values, prior: Values, wanted: Values) -> None:
        names = ("display_name", "freeform_tags", "ingress_security_rules", "egress_security_rules")
        details = build(self.models, "UpdateSecurityListDetails", {name: wanted[name] for name in names}, self.noun)
        cloud.call(self.client, "update_security_list", (wanted["id"],), details)

    def delete(self, cloud: Cloud, state: Values) -> None:
        pass


class ImageShape(Resource):
    """One entry of an image's shape list."""

    def ids(self, state: Values) -> Ids:
        return (state["image_id"], state["shape_name"])

    def create(self, cloud: Cloud, block: Values, wanted: Values) -> str:
        cloud.client(self.client).add_image_shape_compatibility_entry(*self.ids(wanted))
        return "/".join(self.ids(wanted))

    def read(self, cloud: Cloud, state: Values) -> Any:
        return cloud.find(self.client, "get_image_shape_compatibility_entry", self.ids(state))

    def delete(self, cloud: Cloud, state: Values) -> None:
        cloud.client(self.client).remove_image_shape_compatibility_entry(*self.ids(state))


NETWORK, COMPUTE, POOLS = "core.VirtualNetworkClient", "core.ComputeClient", "core.ComputeManagementClient"
BALANCING = "load_balancer.LoadBalancerClient"
RESOURCES: dict[str, Resource] = {
    "oci_autoscaling_auto_scaling_configuration": Resource(
        "autoscaling.AutoScalingClient", "auto_scaling_configuration", replace=("policies", "auto_scaling_resources")
    ),
    "oci_bastion_bastion": Resource("bastion.BastionClient", "bastion", replace=("target_subnet_id", "name")),
    "oci_core_compute_image_capability_schema": Resource(
        COMPUTE, "compute_image_capability_schema", replace=("image_id",)
    ),
    "oci_core_default_security_list": DefaultSecurityList(NETWORK, "security_list"),
    "oci_core_image": Resource(COMPUTE, "image", replace=("image_source_details", "launch_mode")),
    "oci_core_instance_configuration": Resource(POOLS, "instance_configuration", replace=("instance_details",)),
    "oci_core_instance_pool": Resource(POOLS, "instance_pool", replace=("load_balancers",), deleted_by="terminate"),
    "oci_core_internet_gateway": Resource(NETWORK, "internet_gateway", replace=("vcn_id",), defaults={"enabled": True}),
    "oci_core_nat_gateway": Resource(NETWORK, "nat_gateway", replace=("vcn_id",)),
    "oci_core_network_security_group": Resource(NETWORK, "network_security_group", replace=("vcn_id",)),
    "oci_core_network_security_group_security_rule": SecurityRule(
        NETWORK, "rule", replace=("source", "destination", "tcp_options", "direction", "network_security_group_id")
    ),
    "oci_core_route_table": Resource(NETWORK, "route_table", replace=("vcn_id",)),
    "oci_core_service_gateway": Resource(NETWORK, "service_gateway", replace=("vcn_id",)),
    "oci_core_shape_management": ImageShape(COMPUTE, "shape", replace=("image_id", "shape_name")),
    "oci_core_subnet": Resource(NETWORK, "subnet", replace=("vcn_id", "cidr_block", "prohibit_public_ip_on_vnic")),
    "oci_core_vcn": Resource(NETWORK, "vcn", replace=("dns_label", "cidr_blocks")),
    "oci_load_balancer_backend_set": Part(BALANCING, "backend_set", replace=("name", "load_balancer_id")),
    "oci_load_balancer_certificate": Part(
        BALANCING,
        "certificate",
        replace=("certificate_name", "public_certificate", "private_key", "load_balancer_id"),
    ),
    "oci_load_balancer_listener": Part(BALANCING, "listener", replace=("name", "load_balancer_id")),
    "oci_load_balancer_load_balancer": Balancer(BALANCING, "load_balancer", replace=("subnet_ids", "is_private")),
    "oci_load_balancer_rule_set": Part(BALANCING, "rule_set", replace=("name", "load_balancer_id")),
    "oci_logging_log": ByWork("logging.LoggingManagementClient", "log", replace=("log_group_id", "configuration")),
    "oci_logging_log_group": ByWork("logging.LoggingManagementClient", "log_group"),
    "oci_monitoring_alarm": Resource("monitoring.MonitoringClient", "alarm"),
    "oci_ons_notification_topic": Resource(
        "ons.NotificationControlPlaneClient",
        "topic",
        replace=("name",),
        update_details="TopicAttributesDetails",
        id_field="topic_id",
    ),
    "oci_ons_subscription": Resource(
        "ons.NotificationDataPlaneClient", "subscription", replace=("endpoint", "protocol", "topic_id")
    ),
    "oci_waf_web_app_firewall": Resource("waf.WafClient", "web_app_firewall", replace=("load_balancer_id",)),
    "oci_waf_web_app_firewall_policy": Resource("waf.WafClient", "web_app_firewall_policy"),
}


@dataclass(frozen=True)
class Data:
    """A data source: the call that answers it, and the attribute that holds what it lists ("" for one object)."""

    client: str
    method: str
    listed: str = ""


DATA = {
    "oci_core_compute_global_image_capability_schemas": Data(
        COMPUTE, "list_compute_global_image_capability_schemas", "compute_global_image_capability_schemas"
    ),
    "oci_core_image": Data(COMPUTE, "get_image"),
    "oci_core_image_shapes": Data(COMPUTE, "list_image_shape_compatibility_entries", "image_shape_compatibilities"),
    "oci_core_instance_pools": Data(POOLS, "list_instance_pools", "instance_pools"),
    "oci_core_services": Data(NETWORK, "list_services", "services"),
    "oci_core_shapes": Data(COMPUTE, "list_shapes", "shapes"),
    "oci_identity_availability_domains": Data(
        "identity.IdentityClient", "list_availability_domains", "availability_domains"
    ),
    "oci_identity_fault_domains": Data("identity.IdentityClient", "list_fault_domains", "fault_domains"),
}


def read_data(cloud: Cloud, name: str, block: Values, config: Values) -> Values:
    """A data source's answer to its arguments, filtered as its filter blocks say."""
    data = DATA[name]
    call: Callable[..., Any] = getattr(cloud.client(data.client), data.method)
    arguments = {
        key: value for key, value in config.items() if value is not None and key not in ("filter", "id", "state")
    }
    try:
        if not data.listed:
            return refresh(block, config, call(**arguments).data)
        found = oci.pagination.list_call_get_all_results(call, **arguments).data
    except oci.exceptions.ServiceError as error:
        raise NotDone(f"{error.status}-{error.code}, {error.message} (calling {data.method})") from error
    items = coerce(block["attributes"][data.listed]["type"], found)
    for wanted in config.get("filter") or []:
        match = re.search if wanted["regex"] else lambda pattern, text: pattern == text
        items = [item for item in items if any(match(value, item[wanted["name"]]) for value in wanted["values"])]
    return {**config, "id": f"{name}-{hash(json.dumps(arguments)) & 0xFFFF}", data.listed: items}


def given(block: Values, values: Values) -> Values:
    """What the stack said: attributes that can be set, and blocks."""
    return {name: values[name] for name in settable(block) if values[name] not in (None, [])}


def settable(block: Values) -> list[str]:
    """The names that a stack can set: attributes that are not only computed, and blocks."""
    attributes = block.get("attributes", {}).items()
    names = {name for name, one in attributes if one.get("optional") or one.get("required")}
    return sorted((names | set(block.get("block_types", {}))) - {"id", "timeouts", "state"})


def build(models: Any, kind: str, value: Any, path: str) -> Any:
    """Terraform's value as what the SDK's type `kind` wants. Raises NotDone for what that type does not have."""
    if value is None:
        return None
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return [build(models, inner[1], one, path) for one in value]
    if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {name: build(models, inner[1], one, f"{path}.{name}") for name, one in value.items()}
    if kind in ("int", "float"):
        return int(value) if kind == "int" else float(value)
    if kind in ("str", "bool", "object", "datetime"):
        return value
    if isinstance(value, str):  # JSON in a string, in the API's own spelling
        value = {snake(name): one for name, one in json.loads(value).items()}
    if isinstance(value, list):  # a block of which there may be one
        if not value:
            return None
        (value,) = value
    model = getattr(models, kind)
    said = {name: one for name, one in value.items() if one not in (None, [])}
    if "get_subtype" in vars(model):
        told = {camel(name): one for name, one in said.items() if isinstance(one, str)}
        model = getattr(models, model.get_subtype(told))
    known = model().swagger_types
    fields = {}
    for name, one in said.items():
        field = api_name(name, known)
        if field not in known:
            raise NotDone(f"{path}.{name}: Oracle's {model.__name__} has no such field")
        fields[field] = build(models, known[field], one, f"{path}.{name}")
    try:
        return model(**fields)
    except ValueError as error:
        raise NotDone(f"{path}: {error}") from error


def refresh(block: Values, state: Values, found: Any) -> Values:
    """The state with what the API answers. Blocks stay as they were written; what is inside is not looked at again."""
    known = getattr(found, "swagger_types", {})
    fresh = {}
    for name, attribute in block.get("attributes", {}).items():
        field = api_name(name, known)
        answer = getattr(found, field, None) if field in known else None
        is_secret = attribute.get("sensitive") or name in ("private_key", "passphrase")
        is_unset = state.get(name) is None and not attribute.get("computed")
        is_json = name == "schema_data"  # the real provider compares what the JSON says, not how it is spelled
        if answer is None or is_secret or is_unset or is_json:
            fresh[name] = state.get(name)
        else:
            fresh[name] = coerce(attribute["type"], answer)
    for name, nested in block.get("block_types", {}).items():
        old = state.get(name)
        is_list = isinstance(old, list)
        fresh[name] = [refresh(nested["block"], one, None) for one in old] if is_list else old
    return fresh


def coerce(kind: Any, value: Any) -> Any:
    """The API's value as Terraform's type `kind` wants it."""
    if value is None:
        return None
    if kind == "string":
        return value.isoformat() if isinstance(value, datetime) else str(value)
    if kind in ("number", "bool", "dynamic"):
        return value
    word, inner = kind
    if word in ("list", "set"):
        return [coerce(inner, one) for one in (value if isinstance(value, list) else [value])]
    if word == "map":
        return {name: coerce(inner, one) for name, one in value.items() if not isinstance(one, dict)}
    known = value.swagger_types
    return {name: coerce(one, getattr(value, api_name(name, known), None)) for name, one in inner.items()}


def api_name(name: str, known: Values) -> str:
    return name if name in known or ALIASES.get(name) not in known else ALIASES[name]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
