"""Every operation of the loopback tenancy against what Oracle's SDK says of it: its call, its answer, its headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud import contract
from tests.cloud.caller import COMPARTMENT, TAGS, Caller, live_through, make_all
from tests.cloud.services.compute import A1, A2, IMAGE, put_image
from tests.cloud.services.object_storage import put_bucket, put_object
from tests.cloud.tenancy import Tenancy

CHANGES = ("POST", "PUT", "DELETE")


@pytest.fixture(scope="module")
def life() -> Iterator[Caller]:
    """A tenancy in which everything was made, changed and taken away."""
    with Tenancy() as tenancy:
        caller = Caller(tenancy)
        live_through(caller)
        yield caller


@pytest.fixture
def caller() -> Iterator[Caller]:
    with Tenancy() as tenancy:
        yield Caller(tenancy)


def operation_of(route: Any) -> contract.Operation | None:
    return contract.find(route.method, re.sub(r"<\w+>", "x", route.rule))


def test_every_route_is_an_operation_of_the_sdk_and_was_called(life: Caller) -> None:
    routes = [route for route in life.tenancy.app.routes if not route.rule.startswith("/p/")]
    served = {operation_of(route) for route in routes}
    assert None not in served
    assert {(one.method, one.path) for one in served} <= {(c.operation.method, c.operation.path) for c in life.calls}


def test_every_answer_is_as_its_model_says(life: Caller) -> None:
    """The door compares each: here are those of the whole life."""
    assert life.tenancy.door.untruths == []
    assert len(life.calls) > 200


# Module and method of changes whose status is not that of most: 200 with content, 204 without. The SDK does not tell
# them; these are what Oracle's API pages give, or the form that services of their age have.
STATUSES = {
    ("bastion", "POST"): 202,
    ("bastion", "PUT"): 202,
    ("bastion", "DELETE"): 202,
    ("logging", "POST"): 202,
    ("logging", "PUT"): 202,
    ("logging", "DELETE"): 202,
    ("waf", "POST"): 201,
    ("waf", "PUT"): 202,
    ("waf", "DELETE"): 202,
    ("object_storage", "PUT"): 200,
}


def test_statuses_are_the_apis(life: Caller) -> None:
    wrong = []
    for call in life.calls:
        has_content = bool(call.operation.answer) or call.operation.method in ("GET", "HEAD")
        usual = 200 if has_content or call.operation.name == "commit_multipart_upload" else 204
        wanted = STATUSES.get((call.operation.module, call.operation.method), usual)
        if call.status != wanted:
            wrong.append((call.operation.name, call.status, wanted))
    assert wrong == []


ASYNCHRONOUS = {"create_image", "launch_instance", "terminate_instance", "detach_instance_pool_instance"}


def test_asynchronous_operations_name_their_work_request(life: Caller) -> None:
    """All changes of load balancers, WAF, bastions and logging, and some of Compute: the provider waits for each."""
    named = {call.operation.name for call in life.calls if "opc-work-request-id" in call.headers}
    services = ("load_balancer", "waf", "bastion", "logging")
    changes = {
        call.operation.name
        for call in life.calls
        if call.operation.module in services and call.operation.method in CHANGES
    }
    assert named == changes | ASYNCHRONOUS


@pytest.mark.parametrize(
    ("module", "entities"),
    [
        ("waf", {"webAppFirewallPolicy", "webAppFirewall"}),
        ("bastion", {"bastion"}),
        ("logging", {"loggroup", "log"}),
    ],
)
def test_work_requests_tell_what_was_done_to_what(life: Caller, module: str, entities: set[str]) -> None:
    """The provider finds its resource by entity and action, once the work request has an end."""
    contents = [call.content for call in life.calls if call.operation.module == module and call.content]
    done = [content for content in contents if "resources" in content]
    ended = [work for work in done if "timeFinished" in work]
    told = {(one["entityType"], one["actionType"]) for work in ended for one in work["resources"]}
    assert told == {(entity, action) for entity in entities for action in ("CREATED", "UPDATED", "DELETED")}
    assert {work["status"] for work in ended} == {"SUCCEEDED"}
    running = [work for work in done if "timeFinished" not in work]
    assert {work["status"] for work in running} == {"IN_PROGRESS"}


def test_import_is_waited_for_at_the_api_of_all_services(life: Caller) -> None:
    path = "/20160918/workRequests/{workRequestId}"
    works = [call.content for call in life.calls if call.operation.path == path]
    (import_,) = [work for work in works if work["operationType"] == "CreateImage" and "timeFinished" in work]
    (touched,) = import_["resources"]
    assert (touched["entityType"], touched["actionType"], import_["percentComplete"]) == ("image", "CREATED", 100.0)


def test_every_answer_has_a_request_id_of_its_own(life: Caller) -> None:
    ids = [call.headers["opc-request-id"] for call in (*life.calls, *life.stale)]
    assert len(set(ids)) == len(ids)


def test_stale_etags_are_refused_by_everything_that_takes_one(life: Caller) -> None:
    assert {call.status for call in life.stale} == {412}
    assert len(life.stale) > 60


def test_an_etag_just_seen_is_accepted(caller: Caller) -> None:
    path = f"/20160918/images/{IMAGE}"
    seen = caller.send("GET", path).headers["etag"]
    changed = caller.send("PUT", path, TAGS, if_match=seen)
    assert (changed.status, changed.content["freeformTags"]) == (200, TAGS["freeformTags"])
    assert caller.send("PUT", path, TAGS, if_match=seen).status == 412
    assert caller.send("PUT", path, TAGS, if_match=changed.headers["etag"]).status == 200


def test_same_token_is_answered_the_same(life: Caller) -> None:
    assert [first.content for first, _ in life.again] == [second.content for _, second in life.again]
    works = [[call.headers.get("opc-work-request-id") for call in pair] for pair in life.again]
    assert all(first == second for first, second in works)
    assert len(life.again) > 30


def test_nothing_that_is_listed_is_left_after_a_life(life: Caller) -> None:
    kinds = ("vcns", "subnets", "loadBalancers", "instancePools", "bastions", "logs", "alarms", "stacks")
    assert {kind: life.tenancy.live(kind) for kind in kinds} == {kind: [] for kind in kinds}


def fill(caller: Caller) -> None:
    """Two of some things."""
    put_image(caller.tenancy, f"{IMAGE}-2")
    put_bucket(caller.tenancy, "b")
    for name in ("one", "two", "three"):
        put_object(caller.tenancy, "b", name, b"x")


LISTS = [
    f"/20160918/images?compartmentId={COMPARTMENT}",
    f"/20160918/images/{IMAGE}/shapes?",
    f"/20160918/shapes?compartmentId={COMPARTMENT}",
    f"/20160918/vcns?compartmentId={COMPARTMENT}",
    f"/20160918/workRequests?compartmentId={COMPARTMENT}",
    f"/20210930/webAppFirewalls?compartmentId={COMPARTMENT}",
    f"/20210930/workRequests?compartmentId={COMPARTMENT}",
    f"/20210331/bastions?compartmentId={COMPARTMENT}",
    f"/20200531/logGroups?compartmentId={COMPARTMENT}",
    f"/20180917/stacks?compartmentId={COMPARTMENT}",
]


@pytest.fixture(scope="module")
def full() -> Iterator[Caller]:
    """A tenancy with two of everything."""
    with Tenancy() as tenancy:
        caller = Caller(tenancy)
        fill(caller)
        make_all(caller)
        for kind, items in list(tenancy.resources.items()):
            if len(items) == 1 and all(isinstance(item, dict) and "id" in item for item in items.values()):
                (item,) = items.values()
                tenancy.resources[kind][f"{item['id']}-2"] = {**item, "id": f"{item['id']}-2"}
        yield caller


def items(content: Any) -> list[dict]:
    return content["items"] if isinstance(content, dict) else content


@pytest.mark.parametrize("path", LISTS)
def test_pages_of_one_item_have_each_once(full: Caller, path: str) -> None:
    whole = items(full.send("GET", path).content)
    found: list[dict] = []
    page = ""
    while len(found) <= len(whole):
        answer = full.send("GET", f"{path}&limit=1{page}")
        found += items(answer.content)
        if "opc-next-page" not in answer.headers:
            break
        page = f"&page={answer.headers['opc-next-page']}"
    names = [one.get("id") or one["shape"] for one in found]
    assert len(whole) > 1
    assert names == [one.get("id") or one["shape"] for one in whole]


def test_objects_are_listed_as_many_as_asked_and_the_next_is_named(full: Caller) -> None:
    listed = full.send("GET", "/n/testspace/b/b/o?limit=2").content
    assert [one["name"] for one in listed["objects"]] == ["one", "three"]
    assert listed["nextStartWith"] == "two"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("displayName=llamakiln-2", ["llamakiln-2"]),
        ("lifecycleState=available&sortBy=DISPLAYNAME", ["llamakiln-2", "llamakiln-demo-0.1.0"]),
        ("sortBy=DISPLAYNAME&sortOrder=DESC", ["llamakiln-demo-0.1.0", "llamakiln-2"]),
        ("lifecycleState=DELETED", []),
        (f"shape={A1}&displayName=llamakiln-2", []),
        (f"shape={A2}&displayName=llamakiln-2", ["llamakiln-2"]),
    ],
)
def test_lists_are_filtered_and_sorted_as_asked(caller: Caller, query: str, names: list[str]) -> None:
    fill(caller)
    del caller.tenancy.resources["imageShapes"][f"{IMAGE}-2"][A1]
    found = caller.send("GET", f"/20160918/images?compartmentId={COMPARTMENT}&{query}").content
    assert [one["displayName"] for one in found] == names


def test_unknown_things_are_refused_by_everything_that_names_one(full: Caller) -> None:
    """And in the words that do not tell whether they are there."""
    wrong = []
    for route in full.tenancy.app.routes:
        if route.method != "GET" or "<ocid>" not in route.rule:
            continue
        path = re.sub(r"<\w+>", "ocid1.unknown", route.rule)
        query = "&".join(f"{name}={COMPARTMENT}" for name in operation_of(route).needed)
        answer = full.send("GET", f"{path}?{query}")
        if answer.status != 404 or answer.content["code"] != "NotAuthorizedOrNotFound":
            wrong.append((route.rule, answer.status, answer.content))
    assert wrong == []


VCNS = "/20160918/vcns"
BAD_CALLS = {
    "no such operation": ("GET", "/20160918/unicorns", None, 404, "NotFound"),
    "no such method": ("PUT", VCNS, {}, 404, "NotFound"),
    "a query without what it needs": ("GET", VCNS, None, 400, "MissingParameter"),
    "a page of none": ("GET", f"{VCNS}?compartmentId=x&limit=0", None, 400, "InvalidParameter"),
    "a page of too many": ("GET", f"{VCNS}?compartmentId=x&limit=1001", None, 400, "InvalidParameter"),
    "a page that nobody named": ("GET", f"{VCNS}?compartmentId=x&page=2", None, 400, "InvalidParameter"),
    "no body": ("POST", VCNS, b"", 400, "CannotParseRequest"),
    "a body without what it needs": ("POST", VCNS, {"displayName": "x"}, 400, "MissingParameter"),
    "a field that nobody knows": ("POST", VCNS, {"compartmentId": "x", "colour": "red"}, 400, "InvalidParameter"),
    "text for a list": ("POST", VCNS, {"compartmentId": "x", "cidrBlocks": "10.0.0.0/16"}, 400, "InvalidParameter"),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_call_that_the_api_does_not_know_is_refused(caller: Caller, method, path, body, status, code) -> None:
    answer = caller.send(method, path, body)
    assert (answer.status, answer.content["code"]) == (status, code)


VCN = {
    "id": "ocid1.vcn.oc1..x",
    "compartmentId": COMPARTMENT,
    "cidrBlock": "10.0.0.0/16",
    "cidrBlocks": ["10.0.0.0/16"],
    "lifecycleState": "AVAILABLE",
    "timeCreated": "2026-11-01T00:00:00.000Z",
}
LIES = {
    "a field too many": ({"colour": "red"}, "colour: unknown to Vcn"),
    "one too few": ({"cidrBlock": None}, "cidrBlock: missing in Vcn"),
    "text for a list": ({"cidrBlocks": "10.0.0.0/16"}, "is no list"),
    "a number in a list of texts": ({"cidrBlocks": [10]}, "cidrBlocks[0]: 10 is no str"),
    "a state that is none": ({"lifecycleState": "ACTIVE"}, "'ACTIVE' is none of"),
    "a time of no zone": ({"timeCreated": "2026-11-01T00:00:00"}, "is no time"),
    "a time of day": ({"timeCreated": "noon"}, "is no time"),
    "tags that are no map": ({"freeformTags": []}, "is no map"),
}


@pytest.mark.parametrize(("change", "words"), LIES.values(), ids=LIES.keys())
def test_what_is_not_as_the_model_says_is_told(change: dict, words: str) -> None:
    assert contract.faults("core", "Vcn", VCN) == []
    (fault,) = contract.faults("core", "Vcn", {**VCN, **change})
    assert words in fault


def test_list_that_is_left_out_is_told() -> None:
    shown = contract.find("GET", f"{VCNS}/x")
    assert any("ipv6CidrBlocks" in fault for fault in contract.absent(shown, VCN))
    assert contract.absent(shown, {**contract.collections(shown), **VCN}) == []


def test_list_that_a_part_leaves_out_is_told() -> None:
    """Without a listener's lists of rule sets and host names the provider's next plan is not empty."""
    shown = contract.find("GET", "/20170115/loadBalancers/x")
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "defaultBackendSetName": "nodes", "ruleSetNames": []}
    balancer = {**contract.collections(shown), "listeners": {"http": listener}}
    told = contract.absent(shown, balancer)
    assert ".listeners.http.hostnameNames: an empty one is left out" in told
    assert not any("ruleSetNames" in one for one in told)


def test_kind_of_a_value_decides_what_it_must_have() -> None:
    metric = {"metricSource": "COMPUTE_AGENT", "metricType": "CPU_UTILIZATION"}
    told = contract.faults("autoscaling", "MetricBase", {**metric, "query": "x"})
    assert ".query: unknown to MetricBase" in told
    assert contract.faults("autoscaling", "MetricBase", {**metric, "threshold": {"operator": "GT", "value": 1}}) == []


def tell_a_lie(tenancy: Tenancy) -> Any:
    """An answer that the API would not give."""
    tenancy.route("GET", "/20160918/services", lambda: [{"id": "x"}])
    return Caller(tenancy).send("GET", "/20160918/services")


def test_double_that_lies_fails_the_test_that_uses_it() -> None:
    with (
        pytest.raises(AssertionError, match=r"GET /20160918/services: \[0\].cidrBlock: missing in Service"),
        Tenancy() as t,
    ):
        assert tell_a_lie(t).status == 501


def test_mistake_of_the_double_fails_the_test_that_uses_it() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"), Tenancy() as tenancy:
        tenancy.route("GET", "/20160918/services", lambda: 1 // 0)
        assert Caller(tenancy).send("GET", "/20160918/services").status == 501


def test_lie_does_not_hide_the_error_that_it_led_to() -> None:
    with pytest.raises(LookupError), Tenancy() as tenancy:
        tell_a_lie(tenancy)
        raise LookupError
