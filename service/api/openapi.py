"""/openapi.json: the API as OpenAPI 3.1, made from the tables that the requests are checked by.

What a body may hold comes from body.py; here are the routes, the rules between two parameters, and the shapes of the
answers, which schemathesis holds against what is really sent. Knows no HTTP library and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from ..config import Config
from . import body as bodies
from .check import Parameter
from .content import PROMPTS

VERSION = "1"

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
STRING: Schema = {"type": "string"}
WORD_OR_NULL: Schema = {"type": ["string", "null"]}


def describe(config: Config, has_keys: bool) -> Schema:
    """The whole document. has_keys: whether clients must bring an API key."""
    n = config.max_tokens
    paths: dict[str, Schema] = {
        "/generate": _post("Ask the model", bodies.generate_parameters(n), _GENERATED, streams=True),
        "/v1/chat/completions": _post("Go on with a conversation", bodies.chat_parameters(n), _CHAT, streams=True),
        "/v1/completions": _post("Continue text", bodies.completion_parameters(n), _COMPLETION, streams=True),
        "/v1/models": _get("The model, as a list of one", _list(_MODEL)),
        "/v1/models/{model}": _get("The model", _MODEL, refusals=(404,)),
        "/tokenize": _post("Text to token ids", bodies.TOKENIZE, _TOKENS),
        "/detokenize": _post("Token ids to text", bodies.DETOKENIZE, _object(content=STRING)),
        "/healthz": _get("The process lives", _object(status=STRING)),
        "/readyz": _get("Requests are taken", _object(status=STRING), also={503: _object(status=STRING)}),
        "/status.json": _get("What this node is and does, and the last minutes", _STATUS),
        "/metrics": {"get": {"summary": "Prometheus text", "responses": {"200": _answer("text/plain", STRING)}}},
        "/openapi.json": _get("This document", {"type": "object"}),
    }
    paths["/v1/models/{model}"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "example": config.model_name}}
    ]
    if has_keys:
        for path, operations in paths.items():
            if path.startswith("/v1/") or path == "/status.json" or "post" in operations:
                for operation in (operations[method] for method in ("get", "post") if method in operations):
                    operation["security"] = [{"key": []}]
                    operation["responses"]["401"] = _refusal(401)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Llamakiln", "version": VERSION, "description": f"Serves {config.model_name}."},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, "Logprob": _LOGPROB},
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if has_keys else {}),
        },
    }


# Bodies in


def _body(parameters: Mapping[str, Parameter]) -> Schema:
    """null is as good as not saying it, even for names that do not exist."""
    rules = [{"anyOf": rule} for rule in _rules(parameters)]
    return {
        "type": "object",
        "properties": {name: _property(parameter) for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.is_required],
        "additionalProperties": {"type": "null"},
        **({"allOf": rules} if rules else {}),
    }


def _property(parameter: Parameter) -> Schema:
    rule, notes = parameter.schema, {}
    if parameter.help:
        notes["description"] = parameter.help
    if parameter.default is not None:
        notes["default"] = parameter.default
    return {**(rule if parameter.is_required or not rule else _or_null(rule)), **notes}


def _or_null(rule: Schema) -> Schema:
    if "enum" in rule:
        return {"enum": [*rule["enum"], None]}
    if "anyOf" in rule:
        return {"anyOf": [*rule["anyOf"], {"type": "null"}]}
    return {**rule, "type": [rule["type"], "null"]}


def _rules(parameters: Mapping[str, Parameter]) -> list[list[Schema]]:
    """What two parameters forbid each other, as alternatives of which one must hold."""
    rules = []
    if "stream_options" in parameters:
        rules.append([_with(stream={"const": True}), _no("stream_options")])
    if "grammar" in parameters:
        no = {"grammar": {"enum": ["", None]}, "json_schema": {"type": "null"}, "response_format": _NO_FORMAT}
        rules.append([{"properties": {name: no[name] for name in no if name != only}} for only in no])
    if "top_logprobs" in parameters and parameters["top_logprobs"].schema.get("maximum"):
        rules.append([_with(logprobs={"const": True}), {"properties": {"top_logprobs": {"enum": [0, None]}}}])
    if parameters.get("prompt") is PROMPTS:  # their product is limited; to say that in full is more than tools follow
        one = {"type": ["string", "array"], "items": {"type": "integer"}}
        rules.append([{"properties": {"prompt": one}}, {"properties": {"n": {"enum": [1, None]}}}])
    return rules


_NO_FORMAT = {"type": ["object", "null"], "properties": {"type": {"const": "text"}}}


def _with(**properties: Schema) -> Schema:
    return {"properties": properties, "required": list(properties)}


def _no(name: str) -> Schema:
    return {"properties": {name: {"type": "null"}}}


# Answers out


def _object(**properties: Schema) -> Schema:
    """All of these are always there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(item: Schema) -> Schema:
    return _object(object={"const": "list"}, data={"type": "array", "items": item})


_ERROR = _object(error=_object(message=STRING, type=STRING, param=WORD_OR_NULL, code=WORD_OR_NULL))
_USAGE = _object(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=_object(cached_tokens=COUNT),
)
_TIMINGS = _object(
    cache_n=COUNT,
    **{f"{part}_n": COUNT for part in ("prompt", "predicted")},
    **{f"{part}_{unit}": NUMBER for part in ("prompt", "predicted") for unit in ("ms", "per_token_ms", "per_second")},
)
_REASON = {"enum": ["stop", "length"]}
_NAMED_LOGPROB = _object(token=STRING, logprob=NUMBER, bytes={"type": "array", "items": COUNT})
_LOGPROB = {
    **_NAMED_LOGPROB,
    "properties": {**_NAMED_LOGPROB["properties"], "top_logprobs": {"type": "array", "items": _NAMED_LOGPROB}},
}
_CHAT_LOGPROBS = _object(content={"type": "array", "items": {"$ref": "#/components/schemas/Logprob"}})
_OLD_LOGPROBS = _object(
    tokens={"type": "array", "items": STRING},
    token_logprobs={"type": "array", "items": NUMBER},
    top_logprobs={"type": "array", "items": {"type": "object", "additionalProperties": NUMBER}},
    text_offset={"type": "array", "items": COUNT},
)


def _choices(logprobs: Schema, **properties: Schema) -> Schema:
    maybe = {"anyOf": [logprobs, {"type": "null"}]}
    choice = _object(index=COUNT, **properties, logprobs=maybe, finish_reason=_REASON)
    return {"type": "array", "items": choice, "minItems": 1}


def _whole(kind: str, choices: Schema) -> Schema:
    head = {"id": STRING, "object": {"const": kind}, "created": COUNT, "model": STRING, "system_fingerprint": STRING}
    return _object(**head, choices=choices, usage=_USAGE, timings=_TIMINGS)


_MESSAGE = _object(role={"const": "assistant"}, content=STRING, refusal={"type": "null"})
_CHAT = _whole("chat.completion", _choices(_CHAT_LOGPROBS, message=_MESSAGE))
_COMPLETION = _whole("text_completion", _choices(_OLD_LOGPROBS, text=STRING))
_GENERATED = _object(id=STRING, model=STRING, text=STRING, finish_reason=_REASON, usage=_USAGE, timings=_TIMINGS)
_EVENT = {**_object(data={"type": "string", "description": "JSON; at the end [DONE], or an error"})}
_MODEL = _object(
    id=STRING,
    object={"const": "model"},
    created=COUNT,
    owned_by=STRING,
    context={"type": ["integer", "null"]},
    description=STRING,
    defaults=_object(**{name: {"type": ["number", "null"]} for name in bodies.FIELDS}),
)
_STATUS = _object(
    status=STRING,
    uptime_s=NUMBER,
    model=_MODEL,
    image={"type": ["object", "null"]},
    library_set=WORD_OR_NULL,
    llama_cpp_python=STRING,
    prices=_object(
        ms_by_rows={"type": "object", "additionalProperties": NUMBER},
        us_per_cell={"type": ["number", "null"]},
        factor=NUMBER,
        goal_ms=COUNT,
    ),
    metrics={"type": "object", "additionalProperties": NUMBER},
    history=_object(
        every_s=NUMBER,
        columns={"type": "array", "items": STRING},
        rows={"type": "array", "items": {"type": "array", "items": {"type": ["number", "null"]}}},
    ),
)
_PIECE = _object(id=COUNT, piece={"anyOf": [STRING, {"type": "array", "items": COUNT}]})
_TOKENS = _object(tokens={"type": "array", "items": {"anyOf": [COUNT, _PIECE]}})


# Routes


def _post(summary: str, parameters: Mapping[str, Parameter], answer: Schema, streams: bool = False) -> Schema:
    responses = {"200": _answer("application/json", answer)}
    if streams:
        responses["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
    for status in (400, 413, 415, 503, *((499, 500, 504) if streams else ())):
        responses[str(status)] = _refusal(status)
    body = {"required": True, "content": {"application/json": {"schema": _body(parameters)}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _get(
    summary: str, answer: Schema, refusals: tuple[int, ...] = (), also: Mapping[int, Schema] | None = None
) -> Schema:
    responses = {"200": _answer("application/json", answer)}
    responses |= {str(status): _refusal(status) for status in refusals}
    responses |= {str(status): _answer("application/json", body) for status, body in (also or {}).items()}
    return {"get": {"summary": summary, "responses": responses}}


def _answer(media: str, body: Schema) -> Schema:
    return {"description": "OK", "content": {media: {"schema": body}}}


def _refusal(status: int) -> Schema:
    words = "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
    return {
        "description": words,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == 503 else {}),
    }
