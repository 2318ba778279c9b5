"""JSON body -> Ask, with every limit checked; events -> JSON and server-sent events in OpenAI's shapes; error bodies.

FIELDS is the one table of sampling parameters and their ranges. A parameter of OpenAI's that this service does not
have is accepted only with the value that means "off" (IGNORED, NEUTRAL), so no client gets an answer to another
question than it asked. Knows nothing of HTTP libraries, threads or the model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import BadRequest, ServiceError, UnsupportedMedia
from .request import Done, SamplingParams

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_MESSAGES = 1024
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Field:
    """A sampling parameter: its type, range (ends included) and default."""

    name: str
    kind: type
    default: Any
    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"{'a whole number' if self.kind is int else 'a number'} from {self.low:g} to {self.high:.10g}"


FIELDS = {
    field.name: field
    for field in (
        Field("temperature", float, 0.8, 0, 2),
        Field("top_p", float, 0.95, 0, 1),
        Field("top_k", int, 40, 0, 1_000_000),
        Field("seed", int, None, 0, 2**32 - 1),
    )
}

# Says something about the caller, not about the answer
IGNORED = frozenset(
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]
)

# Parameters we do not have, and the values that mean "off"; null always does
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (False, True),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}

_COMMON = frozenset({"model", "max_tokens", "stop", "stream", "stream_options", *FIELDS})
GENERATE_NAMES = _COMMON | {"prompt"}
COMPLETION_NAMES = _COMMON | {"prompt"}
CHAT_NAMES = _COMMON | {"messages", "max_completion_tokens"}


@dataclass(frozen=True)
class Ask:
    """What a client asked for, checked. Either messages (for the chat template) or text (as it is)."""

    messages: tuple[dict[str, str], ...] = ()
    text: str | None = None
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    is_stream: bool = False
    wants_usage: bool = False


# Bodies in


def parse_json(content_type: str | None, data: bytes) -> dict[str, Any]:
    """Raw body -> JSON object. Raises BadRequest or UnsupportedMedia with the place of the fault."""
    media = (content_type or "").split(";")[0].strip().lower()
    if media != "application/json":
        shown = f"Content-Type: {media[:80]}" if media else "no Content-Type"
        raise UnsupportedMedia(f"{shown}: must be application/json")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise BadRequest("the body is not JSON: nested too deeply", code="invalid_json") from error
    except ValueError as error:  # a number of thousands of digits
        raise BadRequest("the body is not JSON: a number is too long", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {_name_type(body)}: must be a JSON object", code="invalid_type")
    return body


def parse_generate(body: dict[str, Any], max_tokens: int) -> Ask:
    """/generate: the prompt is a question to the model and goes through its chat template."""
    _refuse_unknown(body, GENERATE_NAMES)
    question = {"role": "user", "content": _read_text(body, "prompt")}
    return Ask(messages=(question,), **_read_common(body, max_tokens))


def parse_completion(body: dict[str, Any], max_tokens: int) -> Ask:
    """/v1/completions: the prompt is text to continue, as it is. A list may hold one string."""
    _refuse_unknown(body, COMPLETION_NAMES)
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise BadRequest("prompt: must be one string, or a list of exactly one string", param="prompt")
        body = {**body, "prompt": prompt[0]}
    return Ask(text=_read_text(body, "prompt"), **_read_common(body, max_tokens))


def parse_chat(body: dict[str, Any], max_tokens: int) -> Ask:
    """/v1/chat/completions: messages of text, in the order they were said."""
    _refuse_unknown(body, CHAT_NAMES)
    messages = body.get("messages")
    if messages is None:
        raise BadRequest("messages: is missing", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise BadRequest(
            f"messages: must be a list of 1 to {MAX_MESSAGES} messages", param="messages", code="invalid_type"
        )
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    said = tuple(_read_message(message, f"messages[{i}]") for i, message in enumerate(messages))
    return Ask(messages=said, **_read_common(body, max_tokens, name))


def fit(ask: Ask, n_prompt: int, n_context: int, max_tokens: int, extra_stop: tuple[str, ...] = ()) -> SamplingParams:
    """Hold the ask against the context: n_prompt tokens are known only after encoding. Raises BadRequest."""
    room = n_context - n_prompt
    if n_prompt == 0:
        raise BadRequest("prompt: holds no tokens", param=_prompt_param(ask), code="empty_prompt")
    if room < 1:
        raise BadRequest(
            f"{_prompt_param(ask)}: uses {n_prompt} tokens; the context holds {n_context}, so at most {n_context - 1}",
            param=_prompt_param(ask),
            code="context_length_exceeded",
        )
    if ask.max_tokens is not None and ask.max_tokens > room:
        raise BadRequest(
            f"{ask.max_tokens_param}={ask.max_tokens}: the context holds {n_context} tokens and the prompt uses "
            f"{n_prompt}, so at most {room}",
            param=ask.max_tokens_param,
            code="context_length_exceeded",
        )
    return SamplingParams(
        max_tokens=ask.max_tokens or min(max_tokens, room),
        temperature=ask.temperature,
        top_p=ask.top_p,
        top_k=ask.top_k,
        seed=ask.seed,
        stop=ask.stop + extra_stop,
    )


def _read_common(body: dict[str, Any], max_tokens: int, max_tokens_param: str = "max_tokens") -> dict[str, Any]:
    limit = Field(max_tokens_param, int, None, 1, max_tokens)
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest(f"model: is {_name_type(model)}, must be a string", param="model", code="invalid_type")
    is_stream = _read_flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not is_stream:
        raise BadRequest("stream_options: only allowed with stream=true", param="stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest("stream_options: must be an object", param="stream_options", code="invalid_type")
    return {
        "max_tokens": _read_number(body, limit),
        "max_tokens_param": max_tokens_param,
        "stop": _read_stop(body),
        "is_stream": is_stream,
        "wants_usage": _read_flag(options or {}, "include_usage", "stream_options.include_usage"),
        **{name: _read_number(body, field) for name, field in FIELDS.items()},
    }


def _read_number(body: dict[str, Any], field: Field) -> Any:
    value = body.get(field.name)
    if value is None:
        return field.default
    is_number = isinstance(value, int if field.kind is int else (int, float)) and not isinstance(value, bool)
    if not is_number:
        raise BadRequest(
            f"{field.name}: is {_name_type(value)}, must be {field.allowed}", param=field.name, code="invalid_type"
        )
    if not field.low <= value <= field.high:
        shown = f"{value:.10g}" if abs(value) < 1e15 else "a number of many digits"
        raise BadRequest(f"{field.name}={shown}: must be {field.allowed}", param=field.name)
    return field.kind(value)


def _read_flag(body: dict[str, Any], name: str, param: str | None = None) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        param = param or name
        raise BadRequest(f"{param}: is {_name_type(value)}, must be true or false", param=param, code="invalid_type")
    return value


def _read_text(body: dict[str, Any], name: str) -> str:
    if body.get(name) is None:
        raise BadRequest(f"{name}: is missing", param=name, code="missing_required_parameter")
    text = _check_text(body[name], name)
    if not text.strip():
        raise BadRequest(f"{name}: is empty, must hold text", param=name, code="empty_prompt")
    return text


def _check_text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{param}: is {_name_type(value)}, must be a string", param=param, code="invalid_type")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest(f"{param}: character {error.start} is half of a surrogate pair", param=param) from error
    return value


def _read_stop(body: dict[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    allowed = f"a string or a list of at most {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
    if not isinstance(values, list):
        raise BadRequest(f"stop: is {_name_type(value)}, must be {allowed}", param="stop", code="invalid_type")
    if len(values) > MAX_STOP_STRINGS:
        raise BadRequest(f"stop: holds {len(values)} strings, must be {allowed}", param="stop")
    for i, stop in enumerate(values):
        if not 1 <= len(_check_text(stop, f"stop[{i}]")) <= MAX_STOP_CHARACTERS:
            raise BadRequest(f"stop[{i}]: has {len(stop)} characters, must be {allowed}", param="stop")
    return tuple(values)


def _read_message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadRequest(f"{where}: is {_name_type(message)}, must be an object", param=where, code="invalid_type")
    role = message.get("role")
    if role not in ROLES:
        shown = role[:40] if isinstance(role, str) else _name_type(role)
        raise BadRequest(f"{where}.role={shown}: must be one of {', '.join(ROLES)}", param=f"{where}.role")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_read_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    content = _check_text(content, f"{where}.content")
    if role == "user" and not content.strip():
        raise BadRequest(f"{where}.content: is empty, must hold text", param=f"{where}.content", code="empty_prompt")
    return {"role": "system" if role == "developer" else role, "content": content}


def _read_part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise BadRequest(f"{where}: only parts of type text are supported", param=where, code="unsupported_parameter")
    return _check_text(part.get("text"), f"{where}.text")


def _refuse_unknown(body: dict[str, Any], known: frozenset[str]) -> None:
    for name, value in body.items():
        if name in known or name in IGNORED or value is None:
            continue
        if name not in NEUTRAL:
            raise BadRequest(f"{name[:80]}: no such parameter", param=name[:80], code="unknown_parameter")
        if not any(_is_same(value, neutral) for neutral in NEUTRAL[name]):
            allowed = " or ".join(json.dumps(neutral) for neutral in NEUTRAL[name])
            raise BadRequest(f"{name}: this service supports only {allowed}", param=name, code="unsupported_parameter")


def _is_same(value: Any, neutral: Any) -> bool:
    """Equal as JSON: 0 and 0.0 are, 0 and false are not."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _refuse_constant(name: str) -> None:
    raise BadRequest(f"the body is not JSON: {name} is not a JSON number", code="invalid_json")


def _prompt_param(ask: Ask) -> str:
    return "prompt" if ask.text is not None else "messages"


def _name_type(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}.get(
        type(value), "an object"
    )


# Answers out


def error_body(error: ServiceError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def models_body(model_name: str, created: int, n_context: int | None, description: str) -> dict[str, Any]:
    return {"object": "list", "data": [model_body(model_name, created, n_context, description)]}


def model_body(model_name: str, created: int, n_context: int | None, description: str) -> dict[str, Any]:
    return {
        "id": model_name,
        "object": "model",
        "created": created,
        "owned_by": "llamakiln",
        "context": n_context,
        "description": description,
    }


def sse(body: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = body if isinstance(body, str) else dump(body)
    return f"data: {text}\n\n".encode()


def dump(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


SSE_PING = b": ping\n\n"
SSE_END = sse("[DONE]")


def usage_body(done: Done) -> dict[str, int]:
    return {
        "prompt_tokens": done.n_prompt_tokens,
        "completion_tokens": done.n_output_tokens,
        "total_tokens": done.n_prompt_tokens + done.n_output_tokens,
    }


@dataclass
class Reply:
    """How one kind of answer is written. `opening`, `piece` and `closing` make the stream, `whole` the one JSON
    body."""

    id: str
    model_name: str
    wants_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self) -> list[dict[str, Any]]:
        return []

    def piece(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def closing(self, done: Done) -> list[dict[str, Any]]:
        raise NotImplementedError

    def whole(self, text: str, done: Done) -> dict[str, Any]:
        raise NotImplementedError


class GenerateReply(Reply):
    """/generate's own, simpler shape."""

    def piece(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def closing(self, done: Done) -> list[dict[str, Any]]:
        return [{"text": "", "finish_reason": done.reason.value, "usage": usage_body(done)}]

    def whole(self, text: str, done: Done) -> dict[str, Any]:
        return {
            "id": self.id,
            "model": self.model_name,
            "text": text,
            "finish_reason": done.reason.value,
            "usage": usage_body(done),
        }


class ChunkedReply(Reply):
    """What OpenAI's two streams share."""

    prefix = ""
    kind = ""
    chunk_kind = ""

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": choices} | ({"usage": usage} if self.wants_usage else {})

    def closing(self, done: Done) -> list[dict[str, Any]]:
        last = [self.chunk([self._last_choice(done)])]
        return [*last, self.chunk([], usage_body(done))] if self.wants_usage else last

    def whole(self, text: str, done: Done) -> dict[str, Any]:
        return {**self._head(self.kind), "choices": [self._whole_choice(text, done)], "usage": usage_body(done)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.prefix + self.id, "object": kind, "created": self.created, "model": self.model_name}

    def _last_choice(self, done: Done) -> dict[str, Any]:
        raise NotImplementedError

    def _whole_choice(self, text: str, done: Done) -> dict[str, Any]:
        raise NotImplementedError


class ChatReply(ChunkedReply):
    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        return [self.chunk([self._choice({"role": "assistant", "content": ""}, None)])]

    def piece(self, text: str) -> dict[str, Any]:
        return self.chunk([self._choice({"content": text}, None)])

    def _choice(self, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _last_choice(self, done: Done) -> dict[str, Any]:
        return self._choice({}, done.reason.value)

    def _whole_choice(self, text: str, done: Done) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": done.reason.value}


class CompletionReply(ChunkedReply):
    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def piece(self, text: str) -> dict[str, Any]:
        return self.chunk([self._choice(text, None)])

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}

    def _last_choice(self, done: Done) -> dict[str, Any]:
        return self._choice("", done.reason.value)

    def _whole_choice(self, text: str, done: Done) -> dict[str, Any]:
        return self._choice(text, done.reason.value)


ReplyMaker = Callable[[str, str, bool], Reply]
