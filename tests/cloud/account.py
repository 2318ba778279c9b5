"""A small Oracle Cloud account on loopback: the calls that the OCI bake makes, over resources that are plain data.

`with Account() as account:` serves it; `account.resources` is the whole state, for a test to bend and to look at. Every
request must carry a valid signature of the account's one API key, so a wrong key fails here as it does in the cloud.
Knows OCI's paths, field names and error bodies. Knows nothing of the bake.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
from datetime import datetime, timezone
from pathlib import Path
from socketserver import TCPServer
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bottle
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CORE = "/20160918"  # API version of identity, compute and networking
LIMITS = "/20190729"

TENANCY = "ocid1.tenancy.oc1..test"
USER = "ocid1.user.oc1..test"
FINGERPRINT = "aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99"
REGION = "eu-frankfurt-1"
DOMAIN = "Test:EU-FRANKFURT-1-AD-1"
COMPARTMENT = "ocid1.compartment.oc1..bake"
SUBNET = "ocid1.subnet.oc1.eu-frankfurt-1.public"
BASE_IMAGE = "ocid1.image.oc1.eu-frankfurt-1.ubuntu"
A1, A2 = "VM.Standard.A1.Flex", "VM.Standard.A2.Flex"


def ssh_rule(first: int = 22, last: int = 22) -> dict:
    ports = {"destinationPortRange": {"min": first, "max": last}}
    return {"protocol": "6", "source": "0.0.0.0/0", "isStateless": False, "tcpOptions": ports}


def shape(name: str) -> dict:
    return {
        "shape": name,
        "ocpuOptions": {"min": 1.0, "max": 76.0},
        "memoryOptions": {"minInGBs": 1.0, "maxInGBs": 472.0},
    }


# An account in which a bake succeeds.
HEALTHY = {
    "availabilityDomains": {
        DOMAIN: {"name": DOMAIN, "id": "ocid1.availabilitydomain.oc1..1", "compartmentId": TENANCY}
    },
    "compartments": {COMPARTMENT: {"id": COMPARTMENT, "name": "bake", "lifecycleState": "ACTIVE"}},
    "subnets": {
        SUBNET: {
            "id": SUBNET,
            "displayName": "public",
            "availabilityDomain": None,
            "prohibitPublicIpOnVnic": False,
            "routeTableId": "ocid1.routetable.oc1..1",
            "securityListIds": ["ocid1.securitylist.oc1..1"],
        }
    },
    "routeTables": {
        "ocid1.routetable.oc1..1": {
            "id": "ocid1.routetable.oc1..1",
            "routeRules": [{"destination": "0.0.0.0/0", "networkEntityId": "ocid1.internetgateway.oc1..1"}],
        }
    },
    "securityLists": {
        "ocid1.securitylist.oc1..1": {"id": "ocid1.securitylist.oc1..1", "ingressSecurityRules": [ssh_rule()]}
    },
    "networkSecurityGroups": {"ocid1.networksecuritygroup.oc1..1": [{**ssh_rule(), "direction": "INGRESS"}]},
    "shapes": {A2: shape(A2), A1: shape(A1)},
    "limits": {
        f"standard-{family}-{kind}-count": {"available": 100, "used": 4}
        for family in ("a1", "a2")
        for kind in ("core", "memory")
    },
    "images": {
        BASE_IMAGE: {
            "id": BASE_IMAGE,
            "displayName": "Canonical-Ubuntu-22.04-aarch64-2026.10.31-0",
            "compartmentId": None,
            "operatingSystem": "Canonical Ubuntu",
            "lifecycleState": "AVAILABLE",
            "timeCreated": "2026-11-01T00:00:00Z",
            "freeformTags": {},
        }
    },
    "imageShapes": {},  # image OCID -> set of shape names
    "instances": {},
}


class Account:
    """The account and its server; leave the `with` block to stop it."""

    def __init__(self) -> None:
        self.resources = copy.deepcopy(HEALTHY)
        self.calls: list[str] = []  # "METHOD path", in order
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._server = Server(("127.0.0.1", 0), QuietHandler)
        self._server.set_app(make_app(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Account:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def write_config(self, folder: Path, key: rsa.RSAPrivateKey | None = None) -> Path:
        """An OCI configuration file with the account's credentials, or with another key than the account knows."""
        pem = (key or self.key).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,  # PKCS#1, which every Packer reads
            serialization.NoEncryption(),
        )
        (folder / "key.pem").write_bytes(pem)
        (folder / "key.pem").chmod(0o600)
        config = folder / "config"
        config.write_text(
            f"[DEFAULT]\nuser={USER}\nfingerprint={FINGERPRINT}\ntenancy={TENANCY}\nregion={REGION}\n"
            f"key_file={folder / 'key.pem'}\n"
        )
        config.chmod(0o600)
        return config


class Server(WSGIServer):
    def server_bind(self) -> None:
        """Bind without asking DNS for our own name, which takes seconds where there is no resolver."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address
        self.setup_environ()


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def make_app(account: Account) -> bottle.Bottle:
    """The routes, each over one collection of `account.resources`."""
    app = bottle.Bottle()

    @app.hook("before_request")
    def check_signature() -> None:
        account.calls.append(f"{bottle.request.method} {bottle.request.path}")
        if not is_signed(bottle.request, account.key.public_key()):
            raise refuse(
                401, "NotAuthenticated", "The required information to complete authentication was not provided"
            )

    def known(collection: str, name: str) -> object:
        if name not in account.resources[collection]:
            raise refuse(
                404, "NotAuthorizedOrNotFound", f"Authorization failed or requested resource not found: {name}"
            )
        return account.resources[collection][name]

    def listed(collection: str) -> str:
        """All of a collection, less what a `displayName` asked for leaves out."""
        wanted = bottle.request.query.get("displayName")
        found = account.resources[collection].values()
        return answer([item for item in found if wanted in (None, item.get("displayName"))])

    for collection in ("availabilityDomains", "shapes", "images", "instances"):
        app.get(f"{CORE}/{collection}")(lambda collection=collection: listed(collection))
    for collection in ("compartments", "subnets", "routeTables", "securityLists"):
        app.get(f"{CORE}/{collection}/<name>")(lambda name, c=collection: answer(known(c, name)))

    @app.get(f"{CORE}/networkSecurityGroups/<name>/securityRules")
    def list_group_rules(name: str) -> str:
        return answer(known("networkSecurityGroups", name))

    @app.get(f"{LIMITS}/services/compute/limits/<name>/resourceAvailability")
    def get_availability(name: str) -> str:
        return answer(known("limits", name))

    @app.get(f"{CORE}/images/<name>")
    def get_image(name: str) -> str:
        """An image that is being made is ready at the second look."""
        image = known("images", name)
        seen = dict(image)
        if image["lifecycleState"] == "PROVISIONING":
            image["lifecycleState"] = "AVAILABLE"
        return answer(seen)

    @app.post(f"{CORE}/images")
    def create_image() -> str:
        wanted = bottle.request.json
        ocid = f"ocid1.image.oc1.{REGION}.{len(account.resources['images'])}"
        account.resources["images"][ocid] = {
            "id": ocid,
            "displayName": wanted["displayName"],
            "compartmentId": wanted["compartmentId"],
            "freeformTags": wanted["freeformTags"],
            "baseImageId": BASE_IMAGE,
            "lifecycleState": "AVAILABLE",
            "timeCreated": datetime.now(timezone.utc).isoformat(),
        }
        account.resources["imageShapes"][ocid] = {A2}  # Packer leaves it with the shape it was baked on
        return answer(account.resources["images"][ocid])

    @app.get(f"{CORE}/images/<name>/shapes")
    def list_image_shapes(name: str) -> str:
        return answer([{"imageId": name, "shape": found} for found in sorted(account.resources["imageShapes"][name])])

    @app.put(f"{CORE}/images/<name>/shapes/<shape>")
    def add_image_shape(name: str, shape: str) -> str:
        account.resources["imageShapes"][name].add(shape)
        return answer({"imageId": name, "shape": shape})

    return app


def answer(content: object) -> str:
    bottle.response.content_type = "application/json"
    return json.dumps(content)


def refuse(status: int, code: str, message: str) -> bottle.HTTPResponse:
    """An error as OCI words it."""
    body = json.dumps({"code": code, "message": message})
    return bottle.HTTPResponse(body, status, {"Content-Type": "application/json"})


def is_signed(request: bottle.BaseRequest, key: rsa.RSAPublicKey) -> bool:
    """Whether the Authorization header is this key's signature over the headers it names (HTTP signatures, draft 8)."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', request.get_header("Authorization", "")))
    if fields.get("keyId") != f"{TENANCY}/{USER}/{FINGERPRINT}":
        return False
    # as it came, with its escapes, where the server tells
    told = request.environ.get("REQUEST_URI")
    target = told or request.path + (f"?{request.query_string}" if request.query_string else "")
    values = {"(request-target)": f"{request.method.lower()} {target}"}
    text = "\n".join(f"{name}: {values.get(name) or request.get_header(name)}" for name in fields["headers"].split())
    try:
        key.verify(base64.b64decode(fields["signature"]), text.encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True
