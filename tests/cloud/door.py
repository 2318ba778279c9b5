"""The tenancy's door: what every call is checked for before a service sees it, and every answer before it leaves.

A call must be signed, be one that Oracle's SDK knows, and have the parameters and the body that its model says; one
with a retry token that was seen is answered as before. An answer that is not as the SDK's models say is a mistake of
ours: it becomes an error that no client tries again, and stands in `untruths`.
Knows HTTP, faults, gates and the contract. Knows no resource.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bottle

from tests.cloud import contract
from tests.cloud.contract import Operation
from tests.cloud.signature import is_signed

if TYPE_CHECKING:
    from tests.cloud.tenancy import Tenancy

Headers = list[tuple[str, str]]
LARGEST_PAGE = 1000
# What Oracle's page "API errors" lists, and what its storage, pools and load balancers say beyond it.
CODES = {
    400: (
        "CannotParseRequest InvalidParameter LimitExceeded MissingParameter QuotaExceeded InvalidUploadPart"
        " UnmatchedContentMD5"
    ),
    401: "NotAuthenticated",
    403: "NotAllowed",
    404: "NotAuthorizedOrNotFound NotFound BucketNotFound ObjectNotFound NoSuchUpload NotAuthenticated",
    409: (
        "Conflict IncorrectState InvalidatedRetryToken NotAuthorizedOrResourceAlreadyExists BucketAlreadyExists"
        " BucketNotEmpty"
    ),
    412: "NoEtagMatch IfMatchFailed",
    429: "TooManyRequests",
    500: "InternalServerError InternalError",
    501: "MethodNotImplemented",
    503: "ServiceUnavailable",
}


class Refused(Exception):
    """An error that the API answers with."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


@dataclass
class Answer:
    status: str  # "200 OK"
    headers: Headers
    body: bytes

    @property
    def number(self) -> int:
        return int(self.status.split()[0])

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


class Door:
    def __init__(self, tenancy: Tenancy, app: Callable[..., Iterable[bytes]], key_id: str) -> None:
        self.tenancy, self.app, self.key_id = tenancy, app, key_id
        self.untruths: list[str] = []
        self._ids = itertools.count(1)
        self._given: dict[tuple[str, str], Answer] = {}  # by path and retry token

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = bottle.BaseRequest(environ)
        call = f"{request.method} {request.path}"
        self.tenancy.calls.append(call)
        operation = contract.find(request.method, request.path)
        try:
            self._check_call(request, operation)
            is_lost = self._meets_fault(call)
            if not is_lost and self._is_held(call):
                return lose(start_response)
            answer = self._answer(environ, request, operation)
            if is_lost:
                return lose(start_response)
        except Refused as refusal:
            answer = worded(refusal)
        except Exception:
            self.untruths.append(f"{call}: {traceback.format_exc()}")
            answer = worded(Refused(501, "MethodNotImplemented", traceback.format_exc()))
        answer.headers.append(("opc-request-id", f"TEST/{next(self._ids)}"))
        if told := [f"{call}: {one}" for one in check_answer(operation, request, answer)]:
            self.untruths += told
            answer = worded(Refused(501, "MethodNotImplemented", f"the double does not tell the truth: {told}"))
        if not answer.header("content-length"):
            answer.headers.append(("Content-Length", str(len(answer.body))))
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _check_call(self, request: bottle.BaseRequest, operation: Operation | None) -> None:
        if request.path.startswith("/p/"):  # a pre-authenticated request's own address
            return
        if not is_signed(request, self.key_id, self.tenancy.key.public_key()):
            raise Refused(
                401, "NotAuthenticated", "The required information to complete authentication was not provided"
            )
        if operation is None:
            raise Refused(404, "NotFound", f"Oracle's SDK knows no {request.method} {request.path}")
        for name in sorted(operation.needed - set(request.query)):
            raise Refused(400, "MissingParameter", f"The query parameter {name} is missing")
        limit = request.query.get("limit", "1")
        if not limit.isdecimal() or not 1 <= int(limit) <= LARGEST_PAGE:
            raise Refused(400, "InvalidParameter", f"limit={limit}: must be from 1 to {LARGEST_PAGE}")
        if operation.body:
            check_body(request, operation)

    def _meets_fault(self, call: str) -> bool:
        """Whether the answer is to be lost; raises what is to be answered instead."""
        for fault in self.tenancy.faults:
            if fault.times > 0 and re.search(fault.call, call):
                fault.times -= 1
                if fault.status == 0:
                    return True
                raise Refused(fault.status, fault.code, fault.message)
        return False

    def _is_held(self, call: str) -> bool:
        """Wait at a gate that is there for this call; whether the call comes to nothing then."""
        for gate in self.tenancy.gates:
            if not gate.reached.is_set() and re.search(gate.call, call):
                gate.n_passing -= 1
                if gate.n_passing < 0:
                    gate.reached.set()
                    gate.opened.wait()
                    return gate.is_lost
        return False

    def _answer(self, environ: dict[str, Any], request: bottle.BaseRequest, operation: Operation | None) -> Answer:
        told: list[Any] = []
        token = request.get_header("opc-retry-token") if operation and "opc-retry-token" in operation.headers else None
        known = (request.path, token or "")
        if token and known in self._given:
            given = self._given[known]
            return Answer(given.status, list(given.headers), given.body)
        body = b"".join(self.app(environ, lambda status, headers, _error=None: told.extend((status, headers))))
        headers = [(name, value) for name, value in told[1] if name.lower() != "content-length"]
        if request.method == "HEAD":  # which tells the length of what it does not send
            headers += [(name, value) for name, value in told[1] if name.lower() == "content-length"]
        answer = Answer(told[0], headers, body)
        if token:
            self._given[known] = Answer(answer.status, list(headers), body)
        return answer


def check_body(request: bottle.BaseRequest, operation: Operation) -> None:
    """The body is what the operation's model says; it is read here, and given back to be read again."""
    content = request.environ["wsgi.input"].read()
    request.environ["wsgi.input"] = io.BytesIO(content)
    if not content and not operation.needs_body:
        return
    try:
        value = json.loads(content)
    except ValueError as error:
        raise Refused(400, "CannotParseRequest", f"The body is not JSON: {error}") from error
    if told := contract.faults(operation.module, operation.body, value):
        code = "MissingParameter" if "missing in" in told[0] else "InvalidParameter"
        raise Refused(400, code, "; ".join(told))


def check_answer(operation: Operation | None, request: bottle.BaseRequest, answer: Answer) -> list[str]:
    """What is wrong with an answer."""
    if answer.number >= 400:
        return check_error(answer)
    if operation is None or operation.answer == "stream":
        return []
    if not operation.answer or answer.number == 204:
        return ["has a body"] if answer.body else []
    value = json.loads(answer.body or b"null")
    told = contract.faults(operation.module, operation.answer, value)
    told += contract.absent(operation, value)
    changes = [contract.find(verb, request.path) for verb in ("PUT", "DELETE")]
    is_matched = any("if-match" in one.headers for one in changes if one)
    if request.method in ("GET", "PUT") and is_matched and not operation.item and not answer.header("etag"):
        told.append("has no etag, and its changes are asked with if-match")
    if operation.item and "limit" in operation.query:
        items = value if isinstance(value, list) else value["items"]
        if len(items) > int(request.query.get("limit", LARGEST_PAGE)):
            told.append(f"lists {len(items)} items, more than asked for")
    return told


def check_error(answer: Answer) -> list[str]:
    value = json.loads(answer.body)
    if set(value) != {"code", "message"} or not all(isinstance(one, str) and one for one in value.values()):
        return [f"an error is a code and a message: {value}"]
    allowed = CODES.get(answer.number, "").split()
    return [] if value["code"] in allowed else [f"{answer.number} is not answered with {value['code']}"]


def worded(refusal: Refused) -> Answer:
    body = json.dumps({"code": refusal.code, "message": refusal.message}).encode()
    return Answer(f"{refusal.status} {refusal.code}", [("Content-Type", "application/json")], body)


def lose(start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Fewer bytes than were promised: the connection breaks while the client reads."""
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "1000")])
    return [b"{"]
