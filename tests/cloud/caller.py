"""Each operation that the loopback tenancy serves, called over plain signed HTTP, so that statuses and headers show.

`live_through` makes one of everything, looks at it in every way, changes it, and takes all of it away again. What takes
an if-match is asked with a stale one first, and what takes a retry token is asked twice with the same one. Knows bodies
that the APIs accept. Knows nothing of what they must answer.
"""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import oci
from oci._vendor import requests

from tests.cloud import contract
from tests.cloud.contract import Operation
from tests.cloud.services.compute import A1, A2, IMAGE
from tests.cloud.services.identity import DOMAINS
from tests.cloud.tenancy import COMPARTMENT, TENANCY, Tenancy

HERE = {"compartmentId": COMPARTMENT}
CORE, BALANCING = "/20160918", "/20170115/loadBalancers"
OCI_FILE = "https://objectstorage.eu-frankfurt-1.oraclecloud.com/p/x/n/ns/b/images/o/x.oci"
CHECKER = {"protocol": "HTTP", "urlPath": "/readyz", "port": 80, "returnCode": 200}
LAUNCH = {**HERE, "shape": A2, "sourceDetails": {"sourceType": "image", "imageId": IMAGE}}
BACKEND_SET = {"policy": "LEAST_CONNECTIONS", "healthChecker": CHECKER, "backends": []}
LISTENER = {"port": 80, "protocol": "HTTP", "defaultBackendSetName": "nodes"}
RULES = [{"action": "ADD_HTTP_REQUEST_HEADER", "header": "x", "value": "y"}]
TAGS = {"freeformTags": {"changed": "yes"}}
CHANGES = {"topics": {"description": "changed"}}  # kind -> how one is changed, where tags alone do not do


@dataclass
class Call:
    operation: Operation
    status: int
    headers: Any  # without regard to case
    content: Any


class Caller:
    """`calls` has every call that was made, `stale` those with a stale etag, `again` pairs with the same token."""

    def __init__(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy
        self.calls: list[Call] = []
        self.stale: list[Call] = []
        self.again: list[tuple[Call, Call]] = []
        who = tenancy.config
        names = ("tenancy", "user", "fingerprint")
        self._signer = oci.signer.Signer(*(who[name] for name in names), None, private_key_content=who["key_content"])

    def ask(self, method: str, path: str, body: Any = None) -> Call:
        takes = contract.find(method, path.split("?")[0]).headers
        if "if-match" in takes and method not in ("GET", "HEAD"):
            self.stale.append(self.send(method, path, body, if_match="stale"))
        token = {"opc_retry_token": f"token-{len(self.calls)}"} if "opc-retry-token" in takes else {}
        call = self.send(method, path, body, **token)
        assert call.status < 300, (method, path, call.status, call.content)
        self.calls.append(call)
        if token:
            self.again.append((call, self.send(method, path, body, **token)))
        return call

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Call:
        """One call, as it is. headers: with _ for -."""
        is_raw = isinstance(body, bytes)
        signer = self._signer.without_content_headers if is_raw else self._signer
        sent = {"content-type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        given = {"data": body} if is_raw else {"json": body} if body is not None else {}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(method, self.tenancy.url + path, auth=signer, headers=sent, timeout=20, **given)
        is_json = answer.headers.get("content-type", "").startswith("application/json") and answer.content
        operation = contract.find(method, path.split("?")[0])
        return Call(operation, answer.status_code, answer.headers, answer.json() if is_json else answer.content)

    # A kind's usual life

    def make(self, path: str, body: Any) -> str:
        """Make one, look at it, list it and change it; its OCID."""
        kind = path.rsplit("/", 1)[1]
        known = set(self.tenancy.collection(kind))
        made = self.ask("POST", path, body)
        (ocid,) = set(self.tenancy.collection(kind)) - known
        if "opc-work-request-id" in made.headers:
            self.follow(path, made.headers["opc-work-request-id"])
        item = self.tenancy.find(kind, ocid)
        while not self.tenancy.is_settled(item):
            self.ask("GET", f"{path}/{ocid}")
        self.ask("GET", f"{path}/{ocid}")
        self.ask("GET", f"{path}?compartmentId={COMPARTMENT}&limit=1")
        if contract.find("PUT", f"{path}/{ocid}"):
            changed = self.ask("PUT", f"{path}/{ocid}", CHANGES.get(kind, TAGS))
            if "opc-work-request-id" in changed.headers:
                self.follow(path, changed.headers["opc-work-request-id"])
        return ocid

    def follow(self, path: str, work: str) -> None:
        """A work request to its end, with its errors and its log."""
        version = path.split("/")[1]
        base = f"/{version}/loadBalancerWorkRequests" if path.startswith(BALANCING) else f"/{version}/workRequests"
        while "timeFinished" not in self.ask("GET", f"{base}/{work}").content:
            pass
        if not path.startswith(BALANCING):
            self.ask("GET", f"{base}?compartmentId={COMPARTMENT}")
            self.ask("GET", f"{base}/{work}/errors")
            self.ask("GET", f"{base}/{work}/logs")

    def end(self, path: str, ocid: str) -> None:
        ended = self.ask("DELETE", f"{path}/{ocid}")
        if "opc-work-request-id" in ended.headers:
            self.follow(path, ended.headers["opc-work-request-id"])


def live_through(caller: Caller) -> None:
    """Every operation, once at least."""
    made = make_all(caller)
    for path, ocid in reversed(made):
        caller.end(path, ocid)


def make_all(caller: Caller) -> list[tuple[str, str]]:
    made: list[tuple[str, str]] = []

    def make(path: str, body: Any) -> str:
        ocid = caller.make(path, body)
        made.append((path, ocid))
        return ocid

    ask_identity(caller)
    vcn = make(f"{CORE}/vcns", {**HERE, "cidrBlocks": ["10.0.0.0/16"], "displayName": "one"})
    inside = {**HERE, "vcnId": vcn}
    subnet = make(f"{CORE}/subnets", {**inside, "cidrBlock": "10.0.1.0/24", "dnsLabel": "nodes"})
    make(f"{CORE}/internetGateways", {**inside, "isEnabled": True})
    make(f"{CORE}/natGateways", inside)
    services = caller.ask("GET", f"{CORE}/services").content
    make(f"{CORE}/serviceGateways", {**inside, "services": [{"serviceId": services[0]["id"]}]})
    make(f"{CORE}/routeTables", {**inside, "routeRules": []})
    make(f"{CORE}/securityLists", {**inside, "ingressSecurityRules": [], "egressSecurityRules": []})
    group = make(f"{CORE}/networkSecurityGroups", inside)
    ask_rules(caller, group)
    image = make(
        f"{CORE}/images",
        {**HERE, "imageSourceDetails": {"sourceType": "objectStorageUri", "sourceUri": OCI_FILE}, "displayName": "x"},
    )
    ask_shapes(caller, image)
    make(
        f"{CORE}/computeImageCapabilitySchemas",
        {
            **HERE,
            "imageId": image,
            "computeGlobalImageCapabilitySchemaVersionName": "global-2026-11",
            "schemaData": {
                "Compute.Firmware": {
                    "descriptorType": "enumstring",
                    "source": "IMAGE",
                    "defaultValue": "UEFI_64",
                    "values": ["UEFI_64"],
                }
            },
        },
    )
    make(f"{CORE}/instances", {**LAUNCH, "availabilityDomain": DOMAINS[0], "subnetId": subnet})
    configuration = make(
        f"{CORE}/instanceConfigurations",
        {**HERE, "source": "NONE", "instanceDetails": {"instanceType": "compute", "launchDetails": LAUNCH}},
    )
    shape = {"minimumBandwidthInMbps": 10, "maximumBandwidthInMbps": 10}
    balancer = make(
        BALANCING,
        {**HERE, "displayName": "lb", "shapeName": "flexible", "shapeDetails": shape, "subnetIds": [subnet]},
    )
    make_parts(caller, f"{BALANCING}/{balancer}", shape)
    attachment = {"loadBalancerId": balancer, "backendSetName": "nodes", "port": 80, "vnicSelection": "PrimaryVnic"}
    pool = make(
        f"{CORE}/instancePools",
        {
            **HERE,
            "instanceConfigurationId": configuration,
            "placementConfigurations": [{"availabilityDomain": DOMAINS[0], "primarySubnetId": subnet}],
            "size": 2,
            "loadBalancers": [attachment],
            "lifecycleManagement": {
                "lifecycleActions": {
                    "preTermination": {
                        "isEnabled": True,
                        "timeout": 300,
                        "onTimeout": dict.fromkeys(
                            ("preserveBootVolumeMode", "preserveBlockVolumeMode"), "DELETE_ALWAYS"
                        ),
                    }
                }
            },
        },
    )
    ask_pool(caller, f"{CORE}/instancePools/{pool}", f"{BALANCING}/{balancer}")
    threshold = {
        "policyType": "threshold",
        "displayName": "cpu",
        "capacity": {"min": 1, "max": 3, "initial": 2},
        "rules": [
            {
                "displayName": "out",
                "action": {"type": "CHANGE_COUNT_BY", "value": 1},
                "metric": {
                    "metricSource": "COMPUTE_AGENT",
                    "metricType": "CPU_UTILIZATION",
                    "threshold": {"operator": "GT", "value": 70},
                },
            }
        ],
    }
    make(
        "/20181001/autoScalingConfigurations",
        {**HERE, "policies": [threshold], "resource": {"type": "instancePool", "id": pool}},
    )
    topic = make("/20181201/topics", {**HERE, "name": "alarms"})
    make("/20181201/subscriptions", {**HERE, "topicId": topic, "protocol": "EMAIL", "endpoint": "ops@example.com"})
    make(
        "/20180401/alarms",
        {
            **HERE,
            "displayName": "busy",
            "metricCompartmentId": COMPARTMENT,
            "namespace": "oci_lbaas",
            "query": "HttpResponses5xx[1m].sum() > 5",
            "severity": "CRITICAL",
            "destinations": [topic],
            "isEnabled": True,
        },
    )
    log_group = make("/20200531/logGroups", {**HERE, "displayName": "logs"})
    source = {"sourceType": "OCISERVICE", "service": "flowlogs", "resource": subnet, "category": "all"}
    make(
        f"/20200531/logGroups/{log_group}/logs",
        {"displayName": "flow", "logType": "SERVICE", "configuration": {**HERE, "source": source}},
    )
    policy = make("/20210930/webAppFirewallPolicies", {**HERE, "displayName": "limit"})
    make(
        "/20210930/webAppFirewalls",
        {**HERE, "backendType": "LOAD_BALANCER", "loadBalancerId": balancer, "webAppFirewallPolicyId": policy},
    )
    make("/20210331/bastions", {**HERE, "bastionType": "STANDARD", "name": "door", "targetSubnetId": subnet})
    ask_storage(caller)
    made += ask_resource_manager(caller)
    return made


def ask_identity(caller: Caller) -> None:
    caller.ask("GET", f"{CORE}/availabilityDomains?compartmentId={COMPARTMENT}")
    caller.ask("GET", f"{CORE}/faultDomains?compartmentId={COMPARTMENT}&availabilityDomain={DOMAINS[0]}")
    caller.ask("GET", f"{CORE}/compartments?compartmentId={TENANCY}")
    caller.ask("GET", f"{CORE}/compartments/{COMPARTMENT}")
    limit = "/20190729/services/compute/limits/standard-a2-core-count/resourceAvailability"
    caller.ask("GET", f"{limit}?compartmentId={TENANCY}&availabilityDomain={DOMAINS[0]}")
    wanted = [{"instanceShape": A2, "instanceShapeConfig": {"ocpus": 2.0, "memoryInGBs": 16.0}}]
    asked = {"compartmentId": TENANCY, "availabilityDomain": DOMAINS[0], "shapeAvailabilities": wanted}
    caller.ask("POST", f"{CORE}/computeCapacityReports", asked)


def ask_rules(caller: Caller, group: str) -> None:
    path = f"{CORE}/networkSecurityGroups/{group}"
    rule = {"direction": "INGRESS", "protocol": "6", "source": "0.0.0.0/0", "sourceType": "CIDR_BLOCK"}
    added = caller.ask("POST", f"{path}/actions/addSecurityRules", {"securityRules": [rule]}).content
    ocid = added["securityRules"][0]["id"]
    caller.ask("GET", f"{path}/securityRules?limit=1")
    caller.ask("POST", f"{path}/actions/updateSecurityRules", {"securityRules": [{**rule, "id": ocid}]})
    caller.ask("POST", f"{path}/actions/removeSecurityRules", {"securityRuleIds": [ocid]})


def ask_shapes(caller: Caller, image: str) -> None:
    path = f"{CORE}/images/{image}/shapes"
    caller.ask("PUT", f"{path}/{A1}", {})
    caller.ask("GET", f"{path}/{A1}")
    caller.ask("GET", f"{path}?limit=1")
    caller.ask("DELETE", f"{path}/{A1}")
    caller.ask("GET", f"{CORE}/shapes?compartmentId={COMPARTMENT}&limit=1")
    caller.ask("GET", f"{CORE}/computeGlobalImageCapabilitySchemas?limit=1")


def make_parts(caller: Caller, balancer: str, shape: dict) -> None:
    """And the parts that nothing uses away again."""

    def change(method: str, path: str, body: Any = None) -> None:
        done = caller.ask(method, balancer + path, body)
        caller.follow(BALANCING, done.headers["opc-work-request-id"])

    change("PUT", "/updateShape", {"shapeName": "flexible", "shapeDetails": {**shape, "maximumBandwidthInMbps": 100}})
    change("PUT", "/networkSecurityGroups", {"networkSecurityGroupIds": []})
    change("POST", "/backendSets", {"name": "nodes", **BACKEND_SET})
    change("POST", "/backendSets", {"name": "spare", **BACKEND_SET})
    change("PUT", "/backendSets/spare", BACKEND_SET)
    change("POST", "/certificates", {"certificateName": "own", "publicCertificate": "PEM", "privateKey": "PEM"})
    change("POST", "/ruleSets", {"name": "rules", "items": RULES})
    change("PUT", "/ruleSets/rules", {"items": RULES})
    change("POST", "/listeners", {"name": "http", **LISTENER})
    change("PUT", "/listeners/http", LISTENER)
    for path in ("", "/backendSets", "/backendSets/spare", "/backendSets/spare/health", "/certificates", "/ruleSets"):
        caller.ask("GET", balancer + path)
    caller.ask("GET", f"{balancer}/ruleSets/rules")
    caller.ask("GET", f"{balancer}/workRequests?limit=1")
    for path in ("/listeners/http", "/certificates/own", "/ruleSets/rules", "/backendSets/spare"):
        change("DELETE", path)


def ask_pool(caller: Caller, pool: str, balancer: str) -> None:
    members = caller.ask("GET", f"{pool}/instances?compartmentId={COMPARTMENT}").content
    caller.ask("GET", f"{pool}/instances/{members[0]['id']}")
    backends = caller.ask("GET", f"{balancer}/backendSets/nodes").content["backends"]
    flags = {"weight": 1, "backup": False, "drain": True, "offline": False}
    caller.ask("PUT", f"{balancer}/backendSets/nodes/backends/{backends[0]['name']}", flags)
    caller.ask("POST", f"{pool}/actions/detachInstance", {"instanceId": members[0]["id"], "isDecrementSize": True})
    caller.ask("POST", f"{pool}/actions/terminationProceed", {"instanceId": members[0]["id"]})


def ask_storage(caller: Caller) -> None:
    space = f"/n/{caller.ask('GET', '/n').content}"
    caller.ask("POST", f"{space}/b", {**HERE, "name": "images", "publicAccessType": "NoPublicAccess"})
    bucket = f"{space}/b/images"
    caller.ask("GET", bucket)
    for name in ("one", "two"):
        upload = caller.ask("POST", f"{bucket}/u", {"object": name}).content["uploadId"]
        part = caller.ask("PUT", f"{bucket}/u/{name}?uploadId={upload}&uploadPartNum=1", b"content")
        caller.ask("GET", f"{bucket}/u?limit=1")
        caller.ask("GET", f"{bucket}/u/{name}?uploadId={upload}&limit=1")
        if name == "one":
            chosen = {"partsToCommit": [{"partNum": 1, "etag": part.headers["etag"]}]}
            caller.ask("POST", f"{bucket}/u/{name}?uploadId={upload}", chosen)
        else:
            caller.ask("DELETE", f"{bucket}/u/{name}?uploadId={upload}")
    caller.ask("GET", f"{bucket}/o?limit=1")
    caller.ask("GET", f"{bucket}/o/one")
    caller.ask("HEAD", f"{bucket}/o/one")
    link = {"name": "l", "objectName": "one", "accessType": "ObjectRead", "timeExpires": "2126-11-28T00:00:00Z"}
    caller.ask("POST", f"{bucket}/p", link)
    caller.ask("DELETE", f"{bucket}/o/one")


def ask_resource_manager(caller: Caller) -> list[tuple[str, str]]:
    """With a runner whose jobs are done at once, and a state and a plan of their own."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("main.tf", "")
    source = {"configSourceType": "ZIP_UPLOAD", "zipFileBase64Encoded": base64.b64encode(packed.getvalue()).decode()}

    def start(_stack: dict, job: dict) -> None:
        entry = {"type": "TERRAFORM_CONSOLE", "level": "INFO", "timestamp": job["timeCreated"], "message": "done"}
        job["_log"].append(entry)
        job.update(lifecycleState="SUCCEEDED", timeFinished=job["timeCreated"], _plan=b"{}")

    class Folder:
        def __truediv__(self, _name: str) -> Folder:
            return self

        def exists(self) -> bool:
            return True

        def read_bytes(self) -> bytes:
            return b"{}"

    caller.tenancy.jobs = SimpleNamespace(start=start, place=lambda _stack: Folder())
    base = "/20180917"
    stack = caller.make(f"{base}/stacks", {**HERE, "configSource": source, "terraformVersion": "1.5.x"})
    caller.ask("GET", f"{base}/stacks/{stack}/tfState")
    caller.ask("GET", f"{base}/stacks/{stack}/tfConfig")
    details = {"operation": "PLAN"}
    job = caller.ask("POST", f"{base}/jobs", {"stackId": stack, "jobOperationDetails": details}).content["id"]
    caller.ask("GET", f"{base}/jobs?compartmentId={COMPARTMENT}&limit=1")
    for path in ("", "/logs?limit=1", "/tfPlan?tfPlanFormat=JSON"):
        caller.ask("GET", f"{base}/jobs/{job}{path}")
    return [(f"{base}/stacks", stack)]
