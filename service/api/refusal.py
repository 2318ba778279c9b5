"""JSON answers, errors in OpenAI's shape, and the id that every answer carries."""

from __future__ import annotations

import logging
import re
import sys
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import bottle

from ..errors import ServiceError
from . import reply

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Environ = dict[str, Any]


class Refused(bottle.HTTPResponse):
    """A ServiceError as an answer."""

    def __init__(self, error: ServiceError) -> None:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="llamakiln"'
        status = "499 Client Closed Request" if error.status == 499 else error.status
        super().__init__(reply.dump(reply.error_body(error)), status, headers)


def json_response(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> bottle.HTTPResponse:
    always = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return bottle.HTTPResponse("".join(reply.pieces(body)), status, {**always, **(headers or {})})


def guard(app: bottle.Bottle) -> Callable[[Environ, Callable[..., Any]], Iterable[bytes]]:
    """Every answer carries X-Request-Id: the client's own if it is a plain word, else a new one. Whatever is raised on
    the way to an answer is one in the shape of all others."""

    def wsgi(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ["llm.request_id"] = request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("X-Request-Id", request_id)], exc_info)

        try:
            return app(environ, start)
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.error("request %s: a fault in our own code", request_id, exc_info=error)
                error = ServiceError("the service failed on this request")
            refused = Refused(error)
            start(refused.status_line, refused.headerlist, sys.exc_info())
            return [] if environ.get("REQUEST_METHOD") == "HEAD" else [refused.body.encode()]

    return wsgi
