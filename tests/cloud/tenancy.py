"""A tenancy on loopback: the OCI APIs that the stack and the scripts use, over resources that are plain data.

`with Tenancy() as tenancy:` serves it. `tenancy.resources["vcns"]` is a dict from OCID to the JSON that the API
answers; `tenancy.calls` lists what was asked; `tenancy.faults` makes calls fail; `tenancy.looks` says how many GETs a
new resource takes until it is ready. What a kind of resource is like stands in services/, one file per API.

Knows what all OCI APIs have in common: pages, ETags, asynchronous life cycles and work requests; what is checked before
and after is in door.py. A field whose name begins with _ is ours, and no answer shows it. Knows no kind of resource.
"""

from __future__ import annotations

import contextlib
import copy
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

from tests.cloud import contract
from tests.cloud.contract import Operation
from tests.cloud.door import Door, Refused

REGION = "eu-frankfurt-1"
TENANCY = "ocid1.tenancy.oc1..test"
USER = "ocid1.user.oc1..test"
FINGERPRINT = "aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99"
KEY_ID = f"{TENANCY}/{USER}/{FINGERPRINT}"
COMPARTMENT = "ocid1.compartment.oc1..stack"
N_DOMAINS = 3
OF_ORACLE = {"compartmentId": "none"}  # what Oracle provides is in no compartment, and in every list
Json = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """Work requests of a kind of resource: what they call it, and what they call each thing done to it."""

    entity: str
    operations: dict[str, str]  # by CREATED, UPDATED, DELETED; the call for one that is not here answers none


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
    work: Work | None = None
    made: int = 200  # the statuses of what makes one, changes it and ends it
    changed: int = 200
    ended: int = 204
    under: str = ""  # what its path has before its name, for one that is part of another
    ours: tuple[str, ...] = ()  # fields that every item has here and the API does not know
    can_update: bool = True

    @property
    def base(self) -> str:
        return f"/{self.version}/{self.under}{self.name}"

    @property
    def shown_by(self) -> Operation:
        return contract.find("GET", re.sub(r"<\w+>", "x", f"{self.base}/x"))


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
        self._coming: dict[str, tuple[int, str, str]] = {}  # OCID -> looks left, then which field becomes what
        self._etags: dict[str, int] = {}
        self._count = itertools.count(1)
        self.app = bottle.Bottle()
        self.app.config["catchall"] = False  # a refusal is worded at the door, a mistake of ours is seen
        for service in services.ALL:
            service.add(self)
        self.door = Door(self, self.app, KEY_ID)
        self._server = create_server(self.door, host="127.0.0.1", port=0, threads=8, map={})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.effective_port}"

    def __enter__(self) -> Tenancy:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        if exception[0] is None:
            assert not self.door.untruths, "\n".join(self.door.untruths)

    def close(self) -> None:
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
        item = {**copy.deepcopy(kind.defaults), **{name: value for name, value in body.items() if value is not None}}
        item.update({"id": ocid or self.new_ocid(kind.word), "timeCreated": now(), "_ours": kind.ours})
        for name, empty in contract.collections(kind.shown_by, item).items():
            item.setdefault(name, empty)
        if "displayName" in contract.types(kind.shown_by.module, kind.shown_by.answer, item):
            item.setdefault("displayName", kind.word + re.sub(r"\D", "", item["timeCreated"])[:14])
        if kind.ready:
            self.settle(item, kind.making, kind.ready)
        if kind.fill:
            item.update(kind.fill(self, item))
        self.collection(kind.name)[item["id"]] = item
        self.touch(item)
        return item

    def settle(self, item: Json, first: str, then: str, field: str = "lifecycleState") -> None:
        """Into the state `first` now, and into `then` after `looks` looks."""
        is_late = bool(first and self.looks)
        item[field] = first if is_late else then
        self._coming.pop(item["id"], None)
        if is_late:
            self._coming[item["id"]] = (self.looks, field, then)

    def is_settled(self, item: Json) -> bool:
        return item["id"] not in self._coming

    def look(self, item: Json) -> Json:
        """What a GET shows; time passes by being looked at."""
        left, field, then = self._coming.get(item.get("id", ""), (0, "", ""))
        if left > 0:
            self._coming[item["id"]] = (left - 1, field, then)
        elif field:
            del self._coming[item["id"]]
            item[field] = then
        return item

    def touch(self, item: Json) -> None:
        self._etags[item["id"]] = self._etags.get(item["id"], 0) + 1

    def etag(self, item: Json) -> str:
        return f"{item['id'][-4:]}--{self._etags.get(item['id'], 0)}"

    def serve(self, kind: Kind) -> None:
        """The five usual calls of a kind."""
        self.route("POST", kind.base, lambda **names: self._create(kind))
        self.route("GET", kind.base, lambda **names: self._list(kind))
        self.route("GET", f"{kind.base}/<ocid>", lambda ocid, **names: self.show(self.look(self.find(kind.name, ocid))))
        if kind.can_update:
            self.route("PUT", f"{kind.base}/<ocid>", lambda ocid, **names: self.update(kind, ocid))
        self.route("DELETE", f"{kind.base}/<ocid>", lambda ocid, **names: self.delete(kind, ocid))

    def route(self, method: str, path: str, call: Callable[..., Any], unfiltered: tuple[str, ...] = ()) -> None:
        """unfiltered: parameters of a list by which nothing is left out."""

        def locked(**names: str) -> str | bytes:
            with self.lock:
                content = call(**names)
                self.watch()
                if isinstance(content, bytes):
                    bottle.response.content_type = "application/octet-stream"
                    return content
                operation = contract.find(bottle.request.method, bottle.request.path)
                bottle.response.content_type = "application/json"
                if operation is None or not operation.answer or content is None:
                    return ""
                content = self._page(operation, content, unfiltered) if operation.item else public(content)
                return json.dumps(content)

        self.app.route(path, method, locked)

    def show(self, item: Json) -> Json:
        bottle.response.set_header("etag", self.etag(item))
        return item

    def _page(self, operation: Operation, items: list[Json], unfiltered: tuple[str, ...]) -> Any:
        """One page of a list: filtered by every parameter that is a field, sorted, and of each item what lists show."""
        query = dict(bottle.request.query.decode())
        if query.get("compartmentIdInSubtree") == "true":
            unfiltered = (*unfiltered, "compartmentId")
        for name in set(query) - set(unfiltered):
            wanted = (query[name].lower(), OF_ORACLE.get(name))
            items = [item for item in items if str(item.get(name, query[name])).lower() in wanted]
        if query.get("sortBy"):
            items = sorted(items, key=lambda item: sort_value(item, query["sortBy"]))
            items = items[::-1] if query.get("sortOrder") == "DESC" else items
        size = min(int(query.get("limit", self.page_size)), self.page_size)
        start = read_token(query["page"]) if "page" in query else 0
        if "limit" in operation.query and start + size < len(items):
            bottle.response.set_header("opc-next-page", f"page-{start + size}")
        items = items[start : start + size] if "limit" in operation.query else items
        shown = [shown_in_list(operation, item) for item in items]
        return shown if operation.answer.startswith("list[") else {"items": shown}

    # The usual calls

    def _create(self, kind: Kind) -> Json:
        item = self.put(kind, bottle.request.json)
        bottle.response.status = kind.made
        self.start_work(kind, "CREATED", item)
        return self.show(item)

    def _list(self, kind: Kind) -> Any:
        return [self.look(item) for item in self.collection(kind.name).values()]

    def check_match(self, item: Json) -> None:
        wanted = bottle.request.get_header("if-match")
        if wanted and wanted != self.etag(item):
            raise Refused(412, "NoEtagMatch", f"{item['id']} was changed by somebody else")

    def update(self, kind: Kind, ocid: str) -> Json:
        item = self.find(kind.name, ocid)
        self.check_match(item)
        body = {name: value for name, value in bottle.request.json.items() if value is not None}
        if kind.on_update:
            kind.on_update(self, item, body)
        item.update(body)
        self.touch(item)
        bottle.response.status = kind.changed
        self.start_work(kind, "UPDATED", item)
        return self.show(item)

    def delete(self, kind: Kind, ocid: str) -> None:
        item = self.find(kind.name, ocid)
        self.check_match(item)
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
        bottle.response.status = kind.ended
        self.start_work(kind, "DELETED", item)

    def start_work(self, kind: Kind, action: str, item: Json) -> None:
        from tests.cloud.services import work_requests

        if kind.work and action in kind.work.operations:
            work_requests.start(self, kind.version, kind.work.operations[action], action, kind.work.entity, item)


def public(item: Json) -> Json:
    """Without what is ours."""
    if not isinstance(item, dict):
        return item
    ours = item.get("_ours", ())
    return {name: value for name, value in item.items() if name[0] != "_" and name not in ours}


def shown_in_list(operation: Operation, item: Json) -> Json:
    """A list shows less of each than a GET: what its own model has."""
    fields = contract.types(operation.module, operation.item, item)
    return {name: value for name, value in item.items() if name in fields} if fields else item


def sort_value(item: Json, by: str) -> str:
    """Of the field that a word like TIMECREATED means."""
    return next((str(value).lower() for name, value in item.items() if name.lower() == by.lower()), "")


def read_token(token: str) -> int:
    if not re.fullmatch(r"page-\d+", token):
        raise Refused(400, "InvalidParameter", f"page={token}: no page is called so")
    return int(token[5:])


@functools.cache
def make_key() -> rsa.RSAPrivateKey:
    """One for every tenancy of a test run: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def is_gone(item: Json) -> bool:
    return item.get("lifecycleState") in ("TERMINATED", "TERMINATING", "DELETED", "DELETING")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
