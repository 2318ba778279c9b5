"""The loopback tenancy answers Oracle's own SDK as the cloud does where it matters to the stack and the scripts."""

from __future__ import annotations

from collections.abc import Iterator

import oci
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud.tenancy import COMPARTMENT, OUT_OF_CAPACITY, Fault, Tenancy

MODELS = oci.core.models


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    with Tenancy() as running:
        yield running


@pytest.fixture
def network(tenancy: Tenancy) -> oci.core.VirtualNetworkClient:
    once = oci.retry.NoneRetryStrategy()
    return oci.core.VirtualNetworkClient(tenancy.config, service_endpoint=tenancy.url, retry_strategy=once)


def vcn_details(name: str = "one") -> MODELS.CreateVcnDetails:
    return MODELS.CreateVcnDetails(compartment_id=COMPARTMENT, cidr_blocks=["10.0.0.0/16"], display_name=name)


def test_another_key_is_refused(tenancy: Tenancy) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    config = {**tenancy.config, "key_content": other.decode()}
    client = oci.identity.IdentityClient(config, service_endpoint=tenancy.url)
    with pytest.raises(oci.exceptions.ServiceError) as refused:
        client.list_availability_domains(COMPARTMENT)
    assert (refused.value.status, refused.value.code) == (401, "NotAuthenticated")


def test_resource_is_ready_after_some_looks_and_gone_after_some(tenancy: Tenancy, network) -> None:
    tenancy.looks = 2
    vcn = network.create_vcn(vcn_details()).data
    states = [network.get_vcn(vcn.id).data.lifecycle_state for _ in range(3)]
    assert [vcn.lifecycle_state, *states] == ["PROVISIONING", "PROVISIONING", "PROVISIONING", "AVAILABLE"]
    network.delete_vcn(vcn.id)
    states = [network.get_vcn(vcn.id).data.lifecycle_state for _ in range(3)]
    assert states == ["TERMINATING", "TERMINATING", "TERMINATED"]


def test_lists_come_in_pages_and_are_filtered(tenancy: Tenancy, network) -> None:
    tenancy.page_size = 2
    for name in ("one", "two", "three", "two", "five"):
        network.create_vcn(vcn_details(name))
    assert len(network.list_vcns(COMPARTMENT).data) == 2
    found = oci.pagination.list_call_get_all_results(network.list_vcns, COMPARTMENT).data
    assert [vcn.display_name for vcn in found] == ["one", "two", "three", "two", "five"]
    assert len(network.list_vcns(COMPARTMENT, display_name="two").data) == 2


def test_stale_etag_is_refused(network) -> None:
    made = network.create_vcn(vcn_details())
    etag = network.get_vcn(made.data.id).headers["etag"]
    changed = MODELS.UpdateVcnDetails(display_name="two")
    network.update_vcn(made.data.id, changed, if_match=etag)
    with pytest.raises(oci.exceptions.ServiceError) as refused:
        network.update_vcn(made.data.id, changed, if_match=etag)
    assert refused.value.status == 412


def test_same_retry_token_makes_one_resource(network) -> None:
    first = network.create_vcn(vcn_details(), opc_retry_token="t").data
    assert network.create_vcn(vcn_details(), opc_retry_token="t").data.id == first.id


def test_what_is_in_use_is_not_deleted(network) -> None:
    vcn = network.create_vcn(vcn_details()).data
    network.create_subnet(
        MODELS.CreateSubnetDetails(compartment_id=COMPARTMENT, vcn_id=vcn.id, cidr_block="10.0.1.0/24")
    )
    with pytest.raises(oci.exceptions.ServiceError) as refused:
        network.delete_vcn(vcn.id)
    assert refused.value.status == 409


@pytest.mark.parametrize("block", ["10.1.0.0/24", "10.0.1.128/25"], ids=["outside", "overlapping"])
def test_subnet_that_does_not_fit_is_refused(network, block: str) -> None:
    vcn = network.create_vcn(vcn_details()).data
    details = {"compartment_id": COMPARTMENT, "vcn_id": vcn.id}
    network.create_subnet(MODELS.CreateSubnetDetails(**details, cidr_block="10.0.1.0/24"))
    with pytest.raises(oci.exceptions.ServiceError) as refused:
        network.create_subnet(MODELS.CreateSubnetDetails(**details, cidr_block=block))
    assert refused.value.code == "InvalidParameter"


def test_fault_comes_as_often_as_told(tenancy: Tenancy, network) -> None:
    tenancy.faults.append(Fault(r"POST .*/vcns", *OUT_OF_CAPACITY, times=1))
    with pytest.raises(oci.exceptions.ServiceError, match="Out of host capacity"):
        network.create_vcn(vcn_details())
    assert network.create_vcn(vcn_details()).data.display_name == "one"


def test_new_vcn_lets_the_world_in_on_port_22(network) -> None:
    """As the cloud does: what the stack must close."""
    vcn = network.create_vcn(vcn_details()).data
    (rule,) = network.get_security_list(vcn.default_security_list_id).data.ingress_security_rules
    assert (rule.source, rule.tcp_options.destination_port_range.min) == ("0.0.0.0/0", 22)


def test_unhealthy_backend_shows_in_the_backend_sets_health(tenancy: Tenancy) -> None:
    balancers = oci.load_balancer.LoadBalancerClient(tenancy.config, service_endpoint=tenancy.url)
    models = oci.load_balancer.models
    shape = models.ShapeDetails(minimum_bandwidth_in_mbps=10, maximum_bandwidth_in_mbps=10)
    made = balancers.create_load_balancer(
        models.CreateLoadBalancerDetails(
            compartment_id=COMPARTMENT, display_name="lb", shape_name="flexible", shape_details=shape, subnet_ids=["s"]
        )
    )
    work = balancers.get_work_request(made.headers["opc-work-request-id"]).data
    assert work.lifecycle_state in ("IN_PROGRESS", "SUCCEEDED")
    checker = models.HealthCheckerDetails(protocol="HTTP", url_path="/readyz")
    details = models.CreateBackendSetDetails(name="nodes", policy="ROUND_ROBIN", health_checker=checker)
    balancers.create_backend_set(details, work.load_balancer_id)
    balancer = tenancy.collection("loadBalancers")[work.load_balancer_id]
    balancer["backendSets"]["nodes"]["backends"] = [{"name": "10.0.1.2:80"}, {"name": "10.0.1.3:80"}]
    health = balancers.get_backend_set_health(work.load_balancer_id, "nodes")
    assert health.data.status == "OK"
    tenancy.collection("unhealthy")["10.0.1.2:80"] = {}
    health = balancers.get_backend_set_health(work.load_balancer_id, "nodes").data
    assert (health.status, health.critical_state_backend_names) == ("WARNING", ["10.0.1.2:80"])
