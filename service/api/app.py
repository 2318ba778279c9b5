"""The routes, and nothing else: HTTP in, HTTP out. `make_app(config, engine, metrics)` is a WSGI application.

A generation route reads: body -> schema -> prompt -> engine.submit -> events -> reply. Everything that is refused is
refused in OpenAI's error shape. Holds no state between requests; called from many waitress threads at once.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import bottle

from . import library, openapi, page, schema
from . import metrics as metrics_room
from . import reply as reply_room
from .config import Config
from .engine import Engine, Phase
from .errors import (
    BadRequest,
    BodyTooLarge,
    ClientGone,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    UnsupportedMedia,
)
from .keys import Keys
from .metrics import Metrics
from .model import Model
from .reply import ChatReply, CompletionReply, GenerateReply, Reply
from .request import Done, Event, Failed, Piece, Progress, Request
from .status import Status

log = logging.getLogger(__name__)

PING_S = 10.0  # a comment in a silent stream, so that nobody on the way takes it for dead
POLL_S = 0.25  # how soon a vanished client is noticed while there is nothing to write

PAGE = page.map_paths()
# Everything else asks for a key, if there are any: a door that is added later is shut until someone opens it here
OPEN_PATHS = frozenset(["/healthz", "/readyz", "/metrics", "/openapi.json", *PAGE])
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Environ = dict[str, Any]
Parse = Callable[[dict[str, Any], int], schema.Ask]


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
    keys = keys or Keys()
    status = status or Status(metrics)
    created = int(time.time())
    binding = library.read_binding_version()
    description = reply_room.dump(openapi.describe(config, has_keys=bool(keys)))

    @app.hook("before_request")
    def require_key() -> None:
        environ = bottle.request.environ
        if environ["PATH_INFO"] not in OPEN_PATHS:
            try:
                keys.check(environ.get("HTTP_AUTHORIZATION", ""))
            except ServiceError as error:
                raise refuse(error) from error

    @app.get("/healthz")
    def healthz() -> bottle.HTTPResponse:
        """The process lives; asks the engine nothing that could block."""
        return _json(200, {"status": "ok"})

    @app.get("/readyz")
    def readyz() -> bottle.HTTPResponse:
        """A token was generated and new requests are taken. A full queue does not make a node unready."""
        if engine.is_ready:
            return _json(200, {"status": "ready"})
        retry_after = {} if engine.phase is Phase.STOPPED else {"Retry-After": "5"}
        return _json(503, {"status": engine.phase.value}, retry_after)

    @app.get("/metrics")
    def show_metrics() -> bottle.HTTPResponse:
        return bottle.HTTPResponse(metrics.text(), 200, {"Content-Type": metrics_room.CONTENT_TYPE})

    @app.get("/v1/models")
    def list_models() -> bottle.HTTPResponse:
        return _json(200, reply_room.models_body(describe_model()))

    @app.get("/v1/models/<name:path>")
    def show_model(name: str) -> bottle.HTTPResponse:
        if name != config.model_name:
            raise _Refused(NotFound(f"model {name[:80]}: this node serves {config.model_name}", code="model_not_found"))
        return _json(200, describe_model())

    @app.post("/generate")
    def generate() -> Any:
        return answer(schema.parse_generate, GenerateReply)

    @app.post("/v1/completions")
    def complete() -> Any:
        return answer(schema.parse_completion, CompletionReply)

    @app.post("/v1/chat/completions")
    def chat() -> Any:
        return answer(schema.parse_chat, ChatReply)

    @app.post("/tokenize")
    def tokenize() -> Any:
        try:
            asked = schema.parse_tokenize(read_body(bottle.request.environ))
            model = engine.model
        except ServiceError as error:
            raise refuse(error) from error
        tokens = model.tokenize(
            asked["content"], add_special=asked["add_special"], parse_special=asked["parse_special"]
        )
        pieces = map(model.token_bytes, tokens) if asked["with_pieces"] else None
        return _json(200, reply_room.tokens_body(tokens, pieces))

    @app.post("/detokenize")
    def detokenize() -> Any:
        try:
            tokens = schema.parse_detokenize(read_body(bottle.request.environ))
            model = engine.model
            schema.require_tokens(tokens, model.n_vocab, "tokens")
        except ServiceError as error:
            raise refuse(error) from error
        text = b"".join(map(model.token_bytes, tokens)).decode("utf-8", "replace")
        return _json(200, {"content": text})

    @app.get("/openapi.json")
    def show_openapi() -> bottle.HTTPResponse:
        return bottle.HTTPResponse(description, 200, {"Content-Type": "application/json", "Cache-Control": "no-cache"})

    @app.get("/status.json")
    def show_status() -> bottle.HTTPResponse:
        return _json(200, status.body(engine.phase.value, describe_model()))

    @app.get(f"/<:re:{'|'.join(re.escape(path[1:]) for path in PAGE)}>")
    def show_page() -> Any:
        name, cache_control = PAGE[bottle.request.path]
        response = bottle.static_file(name, root=page.STATIC)
        for header, value in {**page.HEADERS, "Cache-Control": cache_control}.items():
            response.set_header(header, value)
        return response

    def describe_model() -> dict[str, Any]:
        model = engine.model if engine.is_ready else None
        return reply_room.model_body(
            config.model_name,
            created,
            model.n_context if model else None,
            model.description if model else "",
            schema.sampling_defaults(model.sampling_defaults if model else {}),
        )

    def answer(parse: Parse, make_reply: type[Reply]) -> Any:
        """One body from reading to reply, streamed or whole."""
        environ = bottle.request.environ
        try:
            ask = parse(read_body(environ), config.max_tokens)
            watch = submit(environ, ask)
        except ServiceError as error:
            raise refuse(error) from error
        lengths = tuple(len(request.prompt_tokens) for request in watch.requests[:: ask.n])
        reply = make_reply(
            environ["llm.request_id"], config.model_name, lengths, ask.n, ask.wants_usage, fingerprint(engine.model)
        )
        try:
            first = watch.next_event(ping_s if ask.is_stream else None)
        except ClientGone as error:
            raise _Refused(error) from error
        if isinstance(first, Failed):  # nothing was sent yet, so it can still be an HTTP status
            watch.close()
            raise _Refused(first.error)
        if ask.is_stream:
            headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
            return bottle.HTTPResponse(Stream(watch, reply, first, ping_s), 200, {**headers, "X-Accel-Buffering": "no"})
        return collect(watch, reply, first)

    def refuse(error: ServiceError) -> _Refused:
        """Nothing was begun."""
        metrics.refused.labels(error.code or "").inc()
        request_id = bottle.request.environ["llm.request_id"]
        log.info("request %s: refused status=%d code=%s", request_id, error.status, error.code)
        return _Refused(error)

    def fingerprint(model: Model) -> str:
        """What must be the same for the same seed to give the same answer."""
        parts = f"{config.model_name} {model.description} {model.n_context} {binding}"
        return "b" + hashlib.blake2s(parts.encode(), digest_size=5).hexdigest()

    def read_body(environ: Environ) -> dict[str, Any]:
        length = environ.get("CONTENT_LENGTH") or ""
        limit = config.max_body_bytes
        if length.isdigit() and int(length) > limit:
            raise BodyTooLarge(f"the body has {length} bytes: at most {limit} are allowed")
        coding = environ.get("HTTP_CONTENT_ENCODING", "identity")
        if coding.lower() != "identity":
            raise UnsupportedMedia(f"Content-Encoding: {coding[:40]}: must be identity")
        data = environ["wsgi.input"].read(limit + 1)
        if len(data) > limit:
            raise BodyTooLarge(f"the body has more than {limit} bytes")
        if not data:
            raise BadRequest("the body is empty: must be a JSON object", code="invalid_json")
        return schema.parse_json(environ.get("CONTENT_TYPE"), data)

    def submit(environ: Environ, ask: schema.Ask) -> Watch:
        """Encode, check against the model, and hand all choices to the engine at once."""
        model, prompter = engine.model, engine.prompter
        schema.check_vocabulary(ask, model.n_vocab)
        stop: tuple[str, ...] = ()
        if ask.prompts:
            prompts = [prompter.encode(prompt) if isinstance(prompt, str) else prompt for prompt in ask.prompts]
        else:
            prompts, stop = [prompter.encode_chat(schema.add_system(ask.messages, config.system_prompt))], prompter.stop
        params = [
            schema.fit(ask, len(tokens), model.n_context, config.max_tokens, stop, model.sampling_defaults)
            for tokens in prompts
        ]
        grammar = ask.grammar.resolve(model) if ask.grammar else None
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        n_choices = ask.n * len(prompts)
        requests = []
        for i in range(n_choices):
            tokens, own = prompts[i // ask.n], params[i // ask.n]
            own = replace(own, grammar=grammar, seed=schema.choice_seed(own.seed, i % ask.n))
            request_id = environ["llm.request_id"] + (f"-{i}" if n_choices > 1 else "")
            wants_progress = ask.wants_progress and ask.is_stream
            requests.append(Request(request_id, tokens, own, events, i, wants_progress))
        engine.submit(requests)
        return Watch(engine, requests, environ.get("waitress.client_disconnected", lambda: False), poll_s)

    def collect(watch: Watch, reply: Reply, event: Event | None) -> bottle.HTTPResponse:
        """One body of all choices; the first that fails fails all."""
        pieces, dones = [], []
        try:
            while True:
                if isinstance(event, Piece):
                    pieces.append(event)
                elif isinstance(event, Done):
                    dones.append(event)
                    if len(dones) == len(watch.requests):
                        return _json(200, reply.whole(pieces, dones))
                elif isinstance(event, Failed):
                    watch.close()
                    raise _Refused(event.error)
                event = watch.next_event(None)
        except ClientGone as error:
            raise _Refused(error) from error

    def show_error(error: bottle.HTTPError) -> str:
        """Bottle's own errors (404, 405, faults in our code) in the shape of all others."""
        path = bottle.request.path[:80]
        if error.status_code == 404:
            ours: ServiceError = NotFound(f"{path}: there is nothing here")
        elif error.status_code == 405:
            ours = MethodNotAllowed(f"{bottle.request.method} {path}: allowed is {error.get_header('Allow')}")
        elif error.status_code < 500:
            ours = BadRequest(str(error.body)[:200])
        else:
            if error.exception:
                log.error("a fault in our own code", exc_info=error.exception)
            ours = ServiceError("the service failed on this request")
        bottle.response.content_type = "application/json"
        return reply_room.dump(reply_room.error_body(ours))

    app.default_error_handler = show_error
    return _with_request_id(app)


class Watch:
    """The HTTP thread's end of an answer: waits for the events of its requests, and cancels them all when the client is
    gone or one of them failed. They share one queue of events."""

    def __init__(
        self, engine: Engine, requests: list[Request], is_client_gone: Callable[[], bool], poll_s: float
    ) -> None:
        self.requests = requests
        self._engine = engine
        self._is_client_gone = is_client_gone
        self._poll_s = poll_s

    def next_event(self, timeout_s: float | None) -> Event | None:
        """The next event, or None after timeout_s without one. Raises ClientGone, and has cancelled then."""
        waited_s = 0.0
        while True:
            if self._is_client_gone():
                self.close()
                raise ClientGone("the client went away")
            left_s = self._poll_s if timeout_s is None else min(self._poll_s, timeout_s - waited_s)
            try:
                return self.requests[0].events.get(timeout=max(left_s, 0.001))
            except queue.Empty:
                waited_s += left_s
                if timeout_s is not None and waited_s >= timeout_s:
                    return None

    def close(self) -> None:
        """Frees the engine of what still waits or runs; otherwise nothing."""
        for request in self.requests:
            self._engine.cancel(request)


class Stream:
    """Server-sent events of one answer. A class, because a generator that was never begun runs no clean-up on close."""

    def __init__(self, watch: Watch, reply: Reply, first: Event | None, ping_s: float) -> None:
        self._watch = watch
        self._chunks = self._write(reply, first, ping_s)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._chunks.close()
        self._watch.close()

    def _write(self, reply: Reply, event: Event | None, ping_s: float) -> Iterator[bytes]:
        yield from map(reply_room.sse, reply.opening())
        try:
            while True:
                if event is None:
                    yield reply_room.SSE_PING
                elif isinstance(event, Progress):
                    yield reply_room.sse(reply.progress(event))
                elif isinstance(event, Piece):
                    yield reply_room.sse(reply.piece(event))
                elif isinstance(event, Done):
                    yield from map(reply_room.sse, reply.closing(event))
                    if reply.is_complete:
                        yield reply_room.SSE_END
                        return
                else:
                    self._watch.close()
                    yield reply_room.sse(reply_room.error_body(event.error))
                    return
                event = self._watch.next_event(ping_s)
        except ClientGone:
            return


class _Refused(bottle.HTTPResponse):
    """A ServiceError as an answer."""

    def __init__(self, error: ServiceError) -> None:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="llamakiln"'
        status = "499 Client Closed Request" if error.status == 499 else error.status
        super().__init__(reply_room.dump(reply_room.error_body(error)), status, headers)


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> bottle.HTTPResponse:
    always = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return bottle.HTTPResponse(reply_room.dump(body), status, {**always, **(headers or {})})


def _with_request_id(app: bottle.Bottle) -> Callable[[Environ, Callable[..., Any]], Iterable[bytes]]:
    """Every answer carries X-Request-Id: the client's own if it is a plain word, else a new one."""

    def wsgi(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ["llm.request_id"] = request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("X-Request-Id", request_id)], exc_info)

        return app(environ, start)

    return wsgi
