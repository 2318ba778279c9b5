"""A tenancy on loopback: the OCI APIs that the stack and the scripts use, over resources that are plain data.

`with Tenancy() as tenancy:` serves it. `tenancy.resources["vcns"]` is a dict from OCID to the JSON that the API
answers; `tenancy.calls` lists what was asked; `tenancy.faults` makes calls fail; `tenancy.looks` says how many GETs a
new resource takes until it is ready. What a kind of resource is like stands in services/, one file per API.

Knows what all OCI APIs have in common: signatures, error bodies, pages, ETags, retry tokens, asynchronous life cycles
and work requests. Knows no kind of resource.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import bottle
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from waitress.server import create_server

from tests.cloud.signature import is_signed

REGION = "eu-frankfurt-1"
TENANCY = "ocid1.tenancy.oc1..test"
USER = "ocid1.user.oc1..test"
FINGERPRINT = "aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99"
KEY_ID = f"{TENANCY}/{USER}/{FINGERPRINT}"
COMPARTMENT = "ocid1.compartment.oc1..stack"
N_DOMAINS = 3
OF_ORACLE = {"compartmentId": "None"}  # what Oracle provides is in no compartment, and in every list
Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of resource: where it is served and how it lives. Without states it is there and gone at once."""

    name: str  # the collection's name in the path and in tenancy.resources
    version: str  # of the API, the path's first part
    word: str  # in OCIDs
    making: str = ""
    ready: str = ""
    ending: str = ""
    gone: str = ""
    defaults: Json = field(default_factory=dict)
    used_by: tuple[tuple[str, str], ...] = ()  # (kind, field) that keep one from being deleted
    fill: Callable[[Tenancy, Json], Json] | None = None  # what the API adds to a new one
    on_update: Callable[[Tenancy, Json, Json], None] | None = None
    on_delete: Callable[[Tenancy, Json], None] | None = None
    has_work_requests: bool = False  # answers with opc-work-request-id and no body to wait on
    items: str = ""  # the key that a list answer is wrapped in, for the younger APIs
    key: str = "id"
    can_update: bool = True


@dataclass
class Fault:
    """Calls whose "METHOD path" matches answer with this error, so many times. Status 0: done, and the answer lost."""

    call: str
    status: int
    code: str = ""
    message: str = ""
    times: int = 1


@dataclass
class Gate:
    """A call whose "METHOD path" matches, after so many that pass, waits here until it is opened.

    A test sees by `reached` that a program is in the middle of this call, and stops it there.
    """

    call: str
    n_passing: int = 0
    is_lost: bool = False  # and then comes to nothing
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


OUT_OF_CAPACITY = (500, "InternalError", "Out of host capacity.")
TOO_MANY = (429, "TooManyRequests", "Too many requests for the user")
LOST = (0, "", "")
# Bottle reads larger bodies as files only, and a stack's zip comes inside JSON.
bottle.BaseRequest.MEMFILE_MAX = 16 << 20


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class Tenancy:
    """The tenancy and its server; leave the `with` block to stop it."""

    def __init__(self) -> None:
        from tests.cloud import services  # they build on this module

        self.resources: dict[str, dict[str, Json]] = {}
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.gates: list[Gate] = []
        self.looks = 1
        self.page_size = 50
        self.watch: Callable[[], None] = lambda: None  # called after each call, before its answer leaves
        self.key = make_key()
        self.lock = threading.RLock()
        self._coming: dict[str, list[tuple[int, str]]] = {}  # OCID -> looks left, then state
        self._etags: dict[str, int] = {}
        self._answers: dict[str, Json] = {}  # by retry token
        self._count = itertools.count(1)
        self.app = bottle.Bottle()
        self.app.config["catchall"] = False  # a refusal is worded at the door, a mistake of ours is seen
        for service in services.ALL:
            service.add(self)
        self._server = create_server(self._serve, host="127.0.0.1", port=0, threads=8, map={})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.effective_port}"

    def __enter__(self) -> Tenancy:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for gate in self.gates:
            gate.opened.set()
        self._server.close()
        self._server.task_dispatcher.shutdown()

    @property
    def config(self) -> Json:
        """For the SDK, in the form of oci.config.from_file."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        who = {"tenancy": TENANCY, "user": USER, "fingerprint": FINGERPRINT, "region": REGION}
        return {**who, "key_content": pem.decode()}

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the socket is closed under it when the tenancy ends
            self._server.run()

    # What the services' files use

    def collection(self, name: str) -> dict[str, Json]:
        return self.resources.setdefault(name, {})

    def live(self, name: str) -> list[Json]:
        """Those of a kind that are not gone."""
        return [item for item in self.collection(name).values() if not is_gone(item)]

    def find(self, name: str, ocid: str) -> Json:
        if ocid not in self.collection(name):
            raise Refused(
                404, "NotAuthorizedOrNotFound", f"Authorization failed or requested resource not found: {ocid}"
            )
        return self.collection(name)[ocid]

    def new_ocid(self, word: str) -> str:
        return f"ocid1.{word}.oc1.{REGION}.{next(self._count):04d}"

    def put(self, kind: Kind, body: Json, ocid: str = "") -> Json:
        """Make one as the API does: defaults, what was asked, what the API fills in, first state.

        ocid: a test's own name for it.
        """
        item = {**kind.defaults, **{name: value for name, value in body.items() if value is not None}}
        item.update({"id": ocid or self.new_ocid(kind.word), "timeCreated": now()})
        item.setdefault("freeformTags", {})
        item.setdefault("definedTags", {})
        if kind.ready:
            self.settle(item, kind.making, kind.ready)
        if kind.fill:
            item.update(kind.fill(self, item))
        self.collection(kind.name)[item[kind.key]] = item
        self.touch(item)
        return item

    def settle(self, item: Json, first: str, then: str) -> None:
        """Into the state `first` now, and into `then` after `looks` looks."""
        item["lifecycleState"] = first if first and self.looks else then
        self._coming[item["id"]] = [(self.looks, then)] if first and self.looks else []

    def look(self, item: Json) -> Json:
        """What a GET shows; time passes by being looked at."""
        coming = self._coming.get(item.get("id", ""), [])
        if coming:
            left, state = coming[0]
            if left <= 0:
                item["lifecycleState"] = state
                coming.pop(0)
            else:
                coming[0] = (left - 1, state)
        return item

    def touch(self, item: Json) -> None:
        self._etags[item["id"]] = self._etags.get(item["id"], 0) + 1

    def etag(self, item: Json) -> str:
        return f"{item['id'][-4:]}--{self._etags.get(item['id'], 0)}"

    def start_work(self, store: str, operation: str, **fields: Any) -> str:
        """A work request that is accepted now and has succeeded after `looks` looks."""
        ocid = self.new_ocid("workrequest")
        work = {"id": ocid, "operationType": operation, "timeAccepted": now(), "percentComplete": 0.0, **fields}
        self.collection(store)[ocid] = work
        self.settle(work, "IN_PROGRESS", "SUCCEEDED")
        bottle.response.set_header("opc-work-request-id", ocid)
        return ocid

    def serve(self, kind: Kind) -> None:
        """The five usual calls of a kind."""
        base = f"/{kind.version}/{kind.name}"
        self.route("POST", base, lambda: self._create(kind))
        self.route("GET", base, lambda: self._list(kind))
        self.route("GET", f"{base}/<ocid>", lambda ocid: self.show(self.look(self.find(kind.name, ocid))))
        if kind.can_update:
            self.route("PUT", f"{base}/<ocid>", lambda ocid: self._update(kind, ocid))
        self.route("DELETE", f"{base}/<ocid>", lambda ocid: self._delete(kind, ocid))

    def route(self, method: str, path: str, call: Callable[..., Any]) -> None:
        def locked(**names: str) -> str:
            with self.lock:
                content = call(**names)
                self.watch()
            if isinstance(content, bytes):
                bottle.response.content_type = "application/octet-stream"
                return content
            bottle.response.content_type = "application/json"
            return "" if content is None else json.dumps(content)

        self.app.route(path, method, locked)

    def show(self, item: Json) -> Json:
        bottle.response.set_header("ETag", self.etag(item))
        return item

    def page(self, items: list[Json], wrapped_in: str = "") -> Any:
        """One page of a list, filtered by every query parameter that is a field."""
        query = dict(bottle.request.query.decode())
        for name, wanted in query.items():
            items = [item for item in items if str(item.get(name, wanted)) in (wanted, OF_ORACLE.get(name))]
        start, size = int(query.get("page", 0)), min(int(query.get("limit", self.page_size)), self.page_size)
        if start + size < len(items):
            bottle.response.set_header("opc-next-page", str(start + size))
        found = items[start : start + size]
        return {"items": found} if wrapped_in else found

    # The usual calls

    def _create(self, kind: Kind) -> Json:
        token = bottle.request.get_header("opc-retry-token")
        if token and token in self._answers:
            return self._answers[token]
        item = self.put(kind, bottle.request.json)
        if token:
            self._answers[token] = item
        if kind.has_work_requests:
            self.start_work(f"{kind.version}/workRequests", f"CREATE_{kind.word.upper()}", **{"resourceId": item["id"]})
        bottle.response.status = 200
        return self.show(item)

    def _list(self, kind: Kind) -> Any:
        return self.page([self.look(item) for item in self.collection(kind.name).values()], kind.items)

    def _check_match(self, item: Json) -> None:
        wanted = bottle.request.get_header("if-match")
        if wanted and wanted != self.etag(item):
            raise Refused(412, "NoEtagMatch", f"{item['id']} was changed by somebody else")

    def _update(self, kind: Kind, ocid: str) -> Json:
        item = self.find(kind.name, ocid)
        self._check_match(item)
        body = {name: value for name, value in bottle.request.json.items() if value is not None}
        if kind.on_update:
            kind.on_update(self, item, body)
        item.update(body)
        self.touch(item)
        return self.show(item)

    def _delete(self, kind: Kind, ocid: str) -> None:
        item = self.find(kind.name, ocid)
        self._check_match(item)
        for other, reference in kind.used_by:
            for user in self.live(other):
                if ocid in json.dumps(user.get(reference)):
                    raise Refused(409, "Conflict", f"{ocid} is used by {user['id']}")
        if kind.on_delete:
            kind.on_delete(self, item)
        if kind.gone:
            self.settle(item, kind.ending, kind.gone)
            self.touch(item)
        else:
            del self.collection(kind.name)[ocid]
        bottle.response.status = 204

    def _serve(self, environ: Json, start_response: Callable[..., Any]) -> Any:
        """The WSGI door: what every call is checked for, and errors as OCI words them."""
        request = bottle.BaseRequest(environ)
        call = f"{request.method} {request.path}"
        self.calls.append(call)
        try:
            is_open = request.path.startswith("/p/")  # a pre-authenticated request's own address
            if not is_open and not is_signed(request, KEY_ID, self.key.public_key()):
                raise Refused(
                    401, "NotAuthenticated", "The required information to complete authentication was not provided"
                )
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.call, call):
                    fault.times -= 1
                    if fault.status == 0:
                        self.app(environ, lambda *_answer: None)
                        return self._lose(start_response)
                    raise Refused(fault.status, fault.code, fault.message)
            for gate in self.gates:
                if not gate.reached.is_set() and re.search(gate.call, call):
                    gate.n_passing -= 1
                    if gate.n_passing < 0:
                        gate.reached.set()
                        gate.opened.wait()
                        if gate.is_lost:
                            return self._lose(start_response)
            return self.app(environ, start_response)
        except Refused as refusal:
            body = json.dumps({"code": refusal.code, "message": refusal.message}).encode()
            headers = [
                ("Content-Type", "application/json"),
                ("opc-request-id", "TEST"),
                ("Content-Length", str(len(body))),
            ]
            start_response(f"{refusal.status} {refusal.code}", headers)
            return [body]

    @staticmethod
    def _lose(start_response: Callable[..., Any]) -> Any:
        """Fewer bytes than were promised: the connection breaks while the client reads."""
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "1000")])
        return [b"{"]


@functools.cache
def make_key() -> rsa.RSAPrivateKey:
    """One for every tenancy of a test run: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def is_gone(item: Json) -> bool:
    return item.get("lifecycleState") in ("TERMINATED", "TERMINATING", "DELETED", "DELETING")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
