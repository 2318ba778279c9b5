"""One body from reading to reply: body -> checked -> prompt -> engine.submit -> events -> reply, streamed or whole.

Holds no state between requests; called from many waitress threads at once.
"""

from __future__ import annotations

import hashlib
import logging
import queue
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import bottle

from ..chat.length import is_too_long
from ..config import Config
from ..engine.engine import Engine
from ..errors import BadRequest, BodyTooLarge, ServiceError, UnsupportedMedia
from ..metrics import Metrics
from ..protocol import Model
from ..request import Done, Event, Failed, Piece, Request
from . import body as bodies
from .caller import Caller
from .refusal import Environ, Refused, json_response
from .reply import Reply
from .watch import Stream, Watch

log = logging.getLogger(__name__)

PING_S = 10.0  # a comment in a silent stream, so that nobody on the way takes it for dead
POLL_S = 0.25  # how soon a vanished client is noticed while there is nothing to write

Parse = Callable[[dict[str, Any], int], bodies.Ask]


class Answering:
    """binding: the version of the binding, a part of the fingerprint."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        metrics: Metrics,
        *,
        binding: str = "",
        ping_s: float = PING_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._config, self._engine, self._metrics = config, engine, metrics
        self._binding, self._ping_s, self._poll_s = binding, ping_s, poll_s

    def answer(self, environ: Environ, parse: Parse, make_reply: type[Reply]) -> Any:
        """One body from reading to reply, streamed or whole."""
        try:
            ask = parse(self.read_body(environ), self._config.max_tokens)
            fingerprint = self._fingerprint(self._engine.model)
            watch = self.submit(environ, ask)
        except ServiceError as error:
            raise self.refuse(environ, error) from error
        try:  # from here on the engine is not asked any more: it may be draining, and what it accepted is answered
            lengths = tuple(len(request.prompt_tokens) for request in watch.requests[:: ask.n])
            reply = make_reply(
                environ["llm.request_id"], self._config.model_name, lengths, ask.n, ask.wants_usage, fingerprint
            )
            first = watch.next_event(self._ping_s if ask.is_stream else None)
            if isinstance(first, Failed):  # nothing was sent yet, so it can still be an HTTP status
                raise first.error
        except BaseException:
            watch.close()
            raise
        if ask.is_stream:
            headers = {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
            return bottle.HTTPResponse(Stream(watch, reply, first, self._ping_s), 200, headers)
        return self.collect(watch, reply, first)

    def refuse(self, environ: Environ, error: ServiceError) -> Refused:
        """Nothing was begun."""
        self._metrics.refused.labels(error.code or "").inc()
        log.info("request %s: refused status=%d code=%s", environ["llm.request_id"], error.status, error.code)
        return Refused(error)

    def read_body(self, environ: Environ) -> dict[str, Any]:
        length = environ.get("CONTENT_LENGTH") or ""
        limit = self._config.max_body_bytes
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise BodyTooLarge(f"the body has {length} bytes: at most {limit} are allowed")
        coding = environ.get("HTTP_CONTENT_ENCODING", "identity")
        if coding.lower() != "identity":
            raise UnsupportedMedia(f"Content-Encoding: {coding[:40]}: must be identity")
        data = environ["wsgi.input"].read(limit + 1)
        if len(data) > limit:
            raise BodyTooLarge(f"the body has more than {limit} bytes")
        if not data:
            raise BadRequest("the body is empty: must be a JSON object", code="invalid_json")
        return bodies.parse_json(environ.get("CONTENT_TYPE"), data)

    def submit(self, environ: Environ, ask: bodies.Ask) -> Watch:
        """Encode, check against the model, and hand all choices to the engine at once."""
        model, prompter = self._engine.model, self._engine.prompter
        bodies.check_vocabulary(ask, model.n_vocab)
        stop: tuple[str, ...] = ()
        texts: Sequence[str | list[int]] = ask.prompts
        if not texts:
            texts = [prompter.render(bodies.add_system(ask.messages, self._config.system_prompt))]
            stop = prompter.stop
        prompts = [text if isinstance(text, list) else self._encode(ask, text) for text in texts]
        params = [
            bodies.limit_to_context(
                ask, len(tokens), model.n_context, self._config.max_tokens, stop, model.sampling_defaults
            )
            for tokens in prompts
        ]
        constraint = self._engine.constrainer.make(ask.grammar) if ask.grammar else None
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        n_choices = ask.n * len(prompts)
        caller: Caller = environ["llm.caller"]
        requests = []
        for i in range(n_choices):
            tokens, own = prompts[i // ask.n], params[i // ask.n]
            seed = bodies.choice_seed(own.seed, i % ask.n)
            own = replace(own, constraint=constraint.copy() if constraint else None, seed=seed)
            request_id = environ["llm.request_id"] + (f"-{i}" if n_choices > 1 else "")
            requests.append(
                Request(
                    request_id,
                    tokens,
                    own,
                    events,
                    i,
                    namespace=caller.namespace(ask.cache_salt),
                    client=caller.client,
                    wants_progress=ask.wants_progress and ask.is_stream,
                )
            )
        self._engine.submit(requests)
        no = lambda: False  # noqa: E731
        is_gone, is_half_closed = (environ.get(f, no) for f in ("waitress.client_disconnected", "llm.is_half_closed"))
        return Watch(self._engine, requests, is_gone, self._poll_s, is_half_closed)

    def _encode(self, ask: bodies.Ask, text: str) -> list[int]:
        """The tokens of a prompt. One that cannot fit the context is refused by its beginning."""
        model = self._engine.model
        if is_too_long(model, text, model.n_context, parse_special=True):
            bodies.refuse_length(ask, model.n_context)
        return self._engine.prompter.encode(text)

    def collect(self, watch: Watch, reply: Reply, event: Event | None) -> bottle.HTTPResponse:
        """One body of all choices; the first that fails fails all."""
        pieces, dones = [], []
        try:
            while True:
                if isinstance(event, Piece):
                    pieces.append(event)
                elif isinstance(event, Done):
                    dones.append(event)
                    if len(dones) == len(watch.requests):
                        return json_response(200, reply.whole(pieces, dones))
                elif isinstance(event, Failed):
                    raise event.error
                event = watch.next_event(None)
        finally:
            watch.close()

    def _fingerprint(self, model: Model) -> str:
        """What must be the same for the same seed to give the same answer."""
        parts = f"{self._config.model_name} {model.description} {model.n_context} {self._binding}"
        return "b" + hashlib.blake2s(parts.encode(), digest_size=5).hexdigest()
