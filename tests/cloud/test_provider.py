"""The stand-in provider forgives no more than Oracle's own: work requests, and lists that an answer leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.provider import SCHEMA, UNKNOWN, never_answered
from tests.cloud.provider_table import LEFT, RESOURCES, Cloud, NotDone, refresh
from tests.cloud.services import bastion, work_requests
from tests.cloud.services.network import KINDS
from tests.cloud.tenancy import COMPARTMENT, Tenancy

OCI_FILE = "https://objectstorage.eu-frankfurt-1.oraclecloud.com/p/x/n/ns/b/images/o/x.oci"


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    with Tenancy() as running:
        yield running


@pytest.fixture
def cloud(tenancy: Tenancy) -> Cloud:
    return Cloud(tenancy.config, tenancy.url)


def block_of(name: str) -> dict[str, Any]:
    return SCHEMA["resource_schemas"][name]["block"]


def values(kind: str, **said: Any) -> dict[str, Any]:
    """A resource's values with nothing said but this."""
    block = block_of(kind)
    return {**dict.fromkeys((*block["attributes"], *block.get("block_types", {}))), **said}


def make_bastion(tenancy: Tenancy, cloud: Cloud) -> dict[str, Any]:
    vcns, subnets = (kind for kind in KINDS if kind.name in ("vcns", "subnets"))
    inside = {"compartmentId": COMPARTMENT}
    vcn = tenancy.put(vcns, {**inside, "cidrBlocks": ["10.0.0.0/16"]})
    subnet = tenancy.put(subnets, {**inside, "vcnId": vcn["id"], "cidrBlock": "10.0.0.0/24"})
    wanted = {
        "compartment_id": COMPARTMENT,
        "bastion_type": "STANDARD",
        "name": "door",
        "target_subnet_id": subnet["id"],
    }
    made = values("oci_bastion_bastion", **wanted)
    made["id"] = RESOURCES["oci_bastion_bastion"].create(cloud, block_of("oci_bastion_bastion"), made)
    return made


def make_image(cloud: Cloud, **source: str) -> str:
    details = {**values_of_source(), **source}
    wanted = values("oci_core_image", compartment_id=COMPARTMENT, image_source_details=[details])
    return RESOURCES["oci_core_image"].create(cloud, block_of("oci_core_image"), wanted)


def values_of_source() -> dict[str, Any]:
    names = block_of("oci_core_image")["block_types"]["image_source_details"]["block"]["attributes"]
    return dict.fromkeys(names)


def test_bastion_lives_by_its_work_requests(tenancy: Tenancy, cloud: Cloud) -> None:
    made = make_bastion(tenancy, cloud)
    resource, block = RESOURCES["oci_bastion_bastion"], block_of("oci_bastion_bastion")
    assert resource.read(cloud, made).lifecycle_state == "ACTIVE"
    resource.update(cloud, block, made, {**made, "max_session_ttl_in_seconds": 3600})
    resource.delete(cloud, made)
    assert resource.read(cloud, made) is None
    actions = [work["resources"][0]["actionType"] for work in tenancy.collection("20210331/workRequests").values()]
    assert actions == ["CREATED", "UPDATED", "DELETED"]


def test_work_request_of_another_entity_is_no_success(tenancy: Tenancy, cloud: Cloud, monkeypatch) -> None:
    real = work_requests.start

    def start(*arguments: Any, **options: Any) -> None:
        tenant, version, operation, action, _entity, item = arguments
        real(tenant, version, operation, action, "session", item, **options)

    monkeypatch.setattr(work_requests, "start", start)
    with pytest.raises(NotDone, match=r"work request did not succeed, .* entity: bastion, action: CREATED"):
        make_bastion(tenancy, cloud)


def test_work_request_without_an_end_is_not_waited_for_in_vain(tenancy: Tenancy, cloud: Cloud, monkeypatch) -> None:
    monkeypatch.setattr("tests.cloud.provider_table.MAX_LOOKS", 3)
    tenancy.looks = 9
    with pytest.raises(NotDone, match="never tells when it finished"):
        make_bastion(tenancy, cloud)


def test_answer_that_names_no_work_request_is_told(tenancy: Tenancy, cloud: Cloud, monkeypatch) -> None:
    monkeypatch.setattr(work_requests, "start", lambda *_arguments: None)
    with pytest.raises(NotDone, match="the answer of CREATED for bastion names no work request"):
        make_bastion(tenancy, cloud)


def test_import_is_waited_for_by_the_work_request_of_all_services(tenancy: Tenancy, cloud: Cloud) -> None:
    ocid = make_image(cloud, source_type="objectStorageUri", source_uri=OCI_FILE)
    assert tenancy.find("images", ocid)["lifecycleState"] == "AVAILABLE"
    assert any("/20160918/workRequests/" in call for call in tenancy.calls)


def test_import_that_fails_is_told_in_the_services_words(tenancy: Tenancy, cloud: Cloud) -> None:
    from tests.cloud.services.object_storage import NAMESPACE, put_bucket, put_object

    put_bucket(tenancy, "b")
    put_object(tenancy, "b", "x.oci", b"no archive")
    source = {"namespace_name": NAMESPACE, "bucket_name": "b", "object_name": "x.oci"}
    with pytest.raises(NotDone, match="not a valid OCI image archive"):
        make_image(cloud, source_type="objectStorageTuple", **source)


@pytest.mark.parametrize("name", LEFT)
def test_list_that_was_never_answered_makes_the_next_plan_not_empty(name: str) -> None:
    block = {"attributes": {name: {"type": ["list", "string"], "computed": True, "optional": True}}}
    state = refresh(block, {name: None}, Answer({name: None}))
    assert never_answered(block, state, {name: None}) == {name: UNKNOWN}
    state = refresh(block, {name: None}, Answer({name: []}))
    assert never_answered(block, state, {name: None}) == {}


def test_other_lists_that_are_left_out_are_taken_for_empty() -> None:
    block = {
        "attributes": {
            "cidrs": {"type": ["list", "string"], "computed": True},
            "labels": {"type": ["map", "string"], "computed": True},
            "note": {"type": "string", "computed": True},
        }
    }
    nothing = dict.fromkeys(block["attributes"])
    assert refresh(block, nothing, Answer(nothing)) == {"cidrs": [], "labels": {}, "note": None}


class Answer:
    """As much of an SDK's model as the provider looks at."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.swagger_types = dict.fromkeys(fields, "list[str]")
        vars(self).update(fields)


def test_double_sends_every_list_that_the_provider_would_miss(tenancy: Tenancy, cloud: Cloud) -> None:
    """What is read of a bastion has no list or map that is unknown."""
    made = make_bastion(tenancy, cloud)
    block = block_of("oci_bastion_bastion")
    state = refresh(block, made, RESOURCES["oci_bastion_bastion"].read(cloud, made))
    assert never_answered(block, state, state) == {}
    assert bastion.KINDS[0].work.entity == "bastion"
