"""The values of a body that are neither number nor flag: prompts, messages, stop strings, biases of tokens.

Each has its reader, and beside it the same rule as JSON Schema; where the rule is the schema's own keyword (minLength,
maxItems), both read it from the same constant. Knows no route.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import BadRequest
from .check import (
    QUESTION_SCHEMA,
    TOKENS_SCHEMA,
    Parameter,
    check_question,
    check_text,
    check_tokens,
    closed,
    flag,
    name_type,
    number,
    show,
    token,
    wrong_type,
)

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_SALT_CHARACTERS = 256
MAX_MESSAGES = 1024
MAX_CHOICES = 8  # answers to one body: n times the prompts
MAX_BIASES = 1024
MAX_BIAS = 100
ROLES = ("system", "developer", "user", "assistant")

_STREAM_OPTIONS = {"include_usage": flag()}
_MESSAGE_NAMES = ("role", "content", "name", "reasoning_content")
_TOKEN_KEY = re.compile(r"[0-9]{1,9}")
_BIAS = number(-MAX_BIAS, MAX_BIAS)


def _read_stop(value: Any, name: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    allowed = f"a string or a list of at most {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
    if not isinstance(values, list):
        raise wrong_type(name, value, allowed)
    if len(values) > MAX_STOP_STRINGS:
        raise BadRequest(f"{name}: holds {len(values)} strings, must be {allowed}", param=name)
    for i, stop in enumerate(values):
        if not 1 <= len(check_text(stop, f"{name}[{i}]")) <= MAX_STOP_CHARACTERS:
            raise BadRequest(f"{name}[{i}]: has {len(stop)} characters, must be {allowed}", param=name)
    return tuple(values)


_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
STOP = Parameter(
    _read_stop,
    {"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "maxItems": MAX_STOP_STRINGS}]},
    "strings that end the answer and are not part of it",
)


def _read_salt(value: Any, name: str) -> str:
    if not 1 <= len(check_text(value, name)) <= MAX_SALT_CHARACTERS:
        raise BadRequest(f"{name}: has {len(value)} characters, must be 1 to {MAX_SALT_CHARACTERS}", param=name)
    return str(value)


SALT = Parameter(
    _read_salt,
    {"type": "string", "minLength": 1, "maxLength": MAX_SALT_CHARACTERS},
    "reuse only what requests with the same salt computed (vLLM's)",
)


def _read_stream_options(value: Any, name: str) -> dict[str, bool]:
    """Options that are not known are passed over: they are about the stream's form."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, "an object")
    options = [option for option in _STREAM_OPTIONS if value.get(option) is not None]
    return {option: _STREAM_OPTIONS[option].read(value[option], f"{name}.{option}") for option in options}


STREAM_OPTIONS = Parameter(
    _read_stream_options,
    {"type": "object", "properties": {option: {"type": ["boolean", "null"]} for option in _STREAM_OPTIONS}},
    "only with stream; include_usage: a last chunk with the numbers of tokens",
)


def _read_logit_bias(value: Any, name: str) -> tuple[tuple[int, float], ...]:
    """OpenAI's object of token id -> bias, or llama-server's list of [token id, bias]; false there means never."""
    if isinstance(value, dict):
        pairs: list[Any] = [[int(key) if _TOKEN_KEY.fullmatch(key) else key, bias] for key, bias in value.items()]
    elif isinstance(value, list):
        pairs = value
    else:
        raise wrong_type(name, value, "an object of token id and bias")
    if len(pairs) > MAX_BIASES:
        raise BadRequest(f"{name}: holds {len(pairs)} tokens, at most {MAX_BIASES}", param=name)
    biases = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong_type(name, pair, "[token id, bias]")
        where = f"{name}[{show(str(pair[0]))}]"
        bias = -math.inf if pair[1] is False and isinstance(value, list) else _BIAS.read(pair[1], where)
        biases.append((token.read(pair[0], where), bias))
    return tuple(biases)


_PAIR_SCHEMA = {
    "type": "array",
    "prefixItems": [token.schema, {"anyOf": [_BIAS.schema, {"const": False}]}],
    "items": False,
    "minItems": 2,
}
LOGIT_BIAS = Parameter(
    _read_logit_bias,
    {
        "anyOf": [
            {
                "type": "object",
                "patternProperties": {f"^{_TOKEN_KEY.pattern}$": _BIAS.schema},
                "additionalProperties": False,
                "maxProperties": MAX_BIASES,
            },
            {"type": "array", "items": _PAIR_SCHEMA, "maxItems": MAX_BIASES},
        ]
    },
    "token id -> what is added to its logit",
)


def _read_prompts(value: Any, name: str) -> tuple[str | list[int], ...]:
    """One prompt or several; each is text or a list of token ids."""
    if isinstance(value, str):
        return (check_question(value, name),)
    if not isinstance(value, list):
        raise wrong_type(name, value, "a string, a list of token ids, or a list of such prompts")
    if not value:
        raise BadRequest(f"{name}: is empty, must hold text or token ids", param=name, code="empty_prompt")
    if not isinstance(value[0], (str, list)):
        return (check_tokens(value, name),)
    if len(value) > MAX_CHOICES:
        raise BadRequest(f"{name}: holds {len(value)} prompts, at most {MAX_CHOICES}", param=name)
    return tuple(_read_prompt(prompt, f"{name}[{i}]") for i, prompt in enumerate(value))


def _read_prompt(value: Any, name: str) -> str | list[int]:
    if not isinstance(value, list):
        return check_question(value, name)
    if not value:
        raise BadRequest(f"{name}: is empty, must hold token ids", param=name, code="empty_prompt")
    return check_tokens(value, name)


_PROMPT_SCHEMAS = [QUESTION_SCHEMA, {**TOKENS_SCHEMA, "minItems": 1}]
_LIST_SCHEMA = {"type": "array", "items": {"anyOf": _PROMPT_SCHEMAS}, "minItems": 1, "maxItems": MAX_CHOICES}
PROMPT = Parameter(check_question, QUESTION_SCHEMA, "a question, put through the chat template", is_required=True)
PROMPTS = Parameter(
    _read_prompts,
    {"anyOf": [*_PROMPT_SCHEMAS, _LIST_SCHEMA]},
    "text to continue as it is, or token ids, or several of these",
    is_required=True,
)


def _read_messages(value: Any, name: str) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise BadRequest(f"{name}: must be a list of 1 to {MAX_MESSAGES} messages", param=name, code="invalid_type")
    return tuple(_read_message(message, f"{name}[{i}]") for i, message in enumerate(value))


def _read_message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise wrong_type(where, message, "an object")
    role = message.get("role")
    if role not in ROLES:
        shown = show(role) if isinstance(role, str) else name_type(role)
        raise BadRequest(f"{where}.role={shown}: must be one of {', '.join(ROLES)}", param=f"{where}.role")
    for key, value in message.items():
        if key not in _MESSAGE_NAMES and value is not None and value != []:
            where = f"{where}.{show(key)}"
            raise BadRequest(f"{where}: is not supported", param=where, code="unsupported_parameter")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_read_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    content = (check_question if role == "user" else check_text)(content, f"{where}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _read_part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise BadRequest(f"{where}: only parts of type text are supported", param=where, code="unsupported_parameter")
    return check_text(part.get("text"), f"{where}.text")


_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_PARTS_SCHEMA = {"type": "array", "items": _PART_SCHEMA}
_TELLING_SCHEMA = {"type": "object", "properties": {"text": QUESTION_SCHEMA}, "required": ["text"]}


def _message_schema(roles: list[str], *contents: dict[str, Any]) -> dict[str, Any]:
    properties = {"role": {"enum": roles}, "content": {"anyOf": list(contents)}, "name": {}, "reasoning_content": {}}
    nothing = {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]}  # tool_calls and the like
    return {**closed(properties, "role", "content"), "additionalProperties": nothing}


MESSAGES = Parameter(
    _read_messages,
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {
            "anyOf": [
                _message_schema(["user"], QUESTION_SCHEMA, {**_PARTS_SCHEMA, "contains": _TELLING_SCHEMA}),
                _message_schema([role for role in ROLES if role != "user"], {"type": "string"}, _PARTS_SCHEMA),
            ]
        },
    },
    "the conversation so far",
    is_required=True,
)
