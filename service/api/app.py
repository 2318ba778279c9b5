"""The routes, and nothing else: HTTP in, HTTP out. `make_app(config, engine, metrics)` is a WSGI application.

What a generation route does is in `answering`. Everything that is refused is refused in OpenAI's error shape. Holds no
state between requests; called from many waitress threads at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import bottle

from .. import metrics as metrics_room
from ..config import Config
from ..engine.engine import Engine
from ..engine.request_queue import Phase
from ..errors import BadRequest, MethodNotAllowed, NotFound, ServiceError, Unavailable, WrongKey
from ..metrics import Metrics
from . import body as bodies
from . import openapi, page
from . import reply as reply_room
from .answering import PING_S, POLL_S, Answering
from .caller import Caller, check_host, find_address, is_loopback
from .guesses import Guesses
from .keys import Keys
from .refusal import Environ, Refused, guard, json_response
from .reply import ChatReply, CompletionReply, GenerateReply
from .status import Status

PAGE = page.map_paths()
# Everything else asks for a key, if there are any: a door that is added later is shut until someone opens it here
OPEN_PATHS = frozenset(["/healthz", "/readyz", "/metrics", "/openapi.json", *PAGE])


def make_app(
    config: Config,
    engine: Engine,
    metrics: Metrics,
    *,
    keys: Keys | None = None,
    status: Status | None = None,
    ping_s: float = PING_S,
    poll_s: float = POLL_S,
) -> Callable[[Environ, Callable[..., Any]], Iterable[bytes]]:
    app = bottle.Bottle()
    app.config["catchall"] = False  # its own answer to a fault is HTML
    keys, guesses = keys or Keys(), Guesses()
    is_local = is_loopback(config.host)
    status = status or Status(metrics)
    created = int(time.time())
    answering = Answering(config, engine, metrics, binding=status.binding, ping_s=ping_s, poll_s=poll_s)
    answer, refuse, read_body = answering.answer, answering.refuse, answering.read_body
    description = reply_room.dump(openapi.describe(config, has_keys=bool(keys)))

    @app.hook("before_request")
    def know_client() -> None:
        environ = bottle.request.environ
        address = find_address(environ)
        try:
            if is_local:
                check_host(environ.get("HTTP_HOST", ""))
            if environ["PATH_INFO"] not in OPEN_PATHS:
                key = check_key(environ.get("HTTP_AUTHORIZATION", ""), address)
                environ["llm.caller"] = Caller(key, address)
        except ServiceError as error:
            raise refuse(environ, error) from error

    def check_key(authorization: str, address: str) -> str:
        if keys:
            guesses.check(address)
        try:
            return keys.check(authorization)
        except WrongKey:
            guesses.note(address)
            raise

    @app.get("/healthz")
    def healthz() -> bottle.HTTPResponse:
        """The process lives; asks the engine nothing that could block."""
        return json_response(200, {"status": "ok"})

    @app.get("/readyz")
    def readyz() -> bottle.HTTPResponse:
        """A token was generated, new requests are taken, and the engine beats. A full queue does not make a node
        unready."""
        if engine.is_ready:
            return json_response(200, {"status": "ready"})
        retry_after = {} if engine.phase is Phase.STOPPED else {"Retry-After": "5"}
        return json_response(503, {"status": engine.state}, retry_after)

    @app.get("/metrics")
    def show_metrics() -> bottle.HTTPResponse:
        return bottle.HTTPResponse(metrics.text(), 200, {"Content-Type": metrics_room.CONTENT_TYPE})

    @app.get("/v1/models")
    def list_models() -> bottle.HTTPResponse:
        return json_response(200, reply_room.models_body(describe_model()))

    @app.get("/v1/models/<name:path>")
    def show_model(name: str) -> bottle.HTTPResponse:
        if name != config.model_name:
            raise Refused(NotFound(f"model {name[:80]}: this node serves {config.model_name}", code="model_not_found"))
        return json_response(200, describe_model())

    @app.post("/generate")
    def generate() -> Any:
        return answer(bottle.request.environ, bodies.parse_generate, GenerateReply)

    @app.post("/v1/completions")
    def complete() -> Any:
        return answer(bottle.request.environ, bodies.parse_completion, CompletionReply)

    @app.post("/v1/chat/completions")
    def chat() -> Any:
        return answer(bottle.request.environ, bodies.parse_chat, ChatReply)

    @app.post("/tokenize")
    def tokenize() -> Any:
        try:
            asked = bodies.parse_tokenize(read_body(bottle.request.environ))
            model = engine.model
        except ServiceError as error:
            raise refuse(bottle.request.environ, error) from error
        tokens = model.tokenize(
            asked["content"], add_special=asked["add_special"], parse_special=asked["parse_special"]
        )
        pieces = map(model.token_bytes, tokens) if asked["with_pieces"] else None
        return json_response(200, reply_room.tokens_body(tokens, pieces))

    @app.post("/detokenize")
    def detokenize() -> Any:
        try:
            tokens = bodies.parse_detokenize(read_body(bottle.request.environ))
            model = engine.model
            bodies.require_tokens(tokens, model.n_vocab, "tokens")
        except ServiceError as error:
            raise refuse(bottle.request.environ, error) from error
        return json_response(200, {"content": reply_room.decode(map(model.token_bytes, tokens))})

    @app.get("/openapi.json")
    def show_openapi() -> bottle.HTTPResponse:
        return bottle.HTTPResponse(description, 200, {"Content-Type": "application/json", "Cache-Control": "no-cache"})

    @app.get("/status.json")
    def show_status() -> bottle.HTTPResponse:
        return json_response(200, status.body(engine.state, describe_model(), engine.prices))

    @app.get(f"/<:re:{'|'.join(re.escape(path[1:]) for path in PAGE)}>")
    def show_page() -> Any:
        if bottle.request.path not in PAGE:  # a line feed at its end: the route's expression passes over it
            raise bottle.HTTPError(404)
        name, cache_control = PAGE[bottle.request.path]
        response = bottle.static_file(name, root=page.STATIC)
        for header, value in {**page.HEADERS, "Cache-Control": cache_control}.items():
            response.set_header(header, value)
        return response

    def describe_model() -> dict[str, Any]:
        try:
            model = engine.model
        except Unavailable:
            model = None
        return reply_room.model_body(
            config.model_name,
            created,
            model.n_context if model else None,
            model.description if model else "",
            bodies.sampling_defaults(model.sampling_defaults if model else {}),
        )

    def show_error(error: bottle.HTTPError) -> str:
        """Bottle's own errors (404, 405 and the like) in the shape of all others."""
        path = bottle.request.path[:80]
        if error.status_code == 404:
            ours: ServiceError = NotFound(f"{path}: there is nothing here")
        elif error.status_code == 405:
            ours = MethodNotAllowed(f"{bottle.request.method} {path}: allowed is {error.get_header('Allow')}")
        elif error.status_code < 500:
            ours = BadRequest(str(error.body)[:200])
        else:
            ours = ServiceError("the service failed on this request")
        bottle.response.content_type = "application/json"
        return reply_room.dump(reply_room.error_body(ours))

    app.default_error_handler = show_error
    return guard(app)
