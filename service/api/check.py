"""What a value in a body may be: how it is read, and the same rule as JSON Schema.

A Parameter is made once from the limits it has, so the check, its message and /openapi.json cannot differ. Every
message names the parameter, its value, and what is allowed. Knows no parameter by name, no route, no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest

MAX_TOKEN = 2**31 - 1  # llama.cpp's token ids are 32 bits wide; the model's own limit is checked when it is known


@dataclass(frozen=True)
class Parameter:
    """read: (value, name) -> what it means; raises BadRequest. schema: the values it takes, null aside. help: what it
    does, for /openapi.json. default: what it is if it is missing or null. is_required: then it may be neither."""

    read: Callable[[Any, str], Any]
    schema: dict[str, Any]
    help: str = ""
    default: Any = None
    is_required: bool = False


def read_body(body: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values that the body says, read. A name that is not known may only be null. Raises BadRequest."""
    said = {}
    for name, value in body.items():
        if value is None:
            continue
        if name not in known:
            raise BadRequest(f"{show(name)}: no such parameter", param=show(name), code="unknown_parameter")
        said[name] = known[name].read(value, name)
    for name, parameter in known.items():
        if parameter.is_required and body.get(name) is None:
            raise BadRequest(f"{name}: is missing", param=name, code="missing_required_parameter")
    return said


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def _is_same(value: Any, neutral: Any) -> bool:
    """Equal as JSON: 0 and 0.0 are, 0 and false are not."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


# Kinds


def number(low: float, high: float, default: float | None = None, help: str = "") -> Parameter:
    return _number("number", low, high, default, help)


def whole(low: int, high: int, default: int | None = None, help: str = "", also: int | None = None) -> Parameter:
    """also: one more value, outside of the range."""
    return _number("integer", low, high, default, help, also)


def flag(help: str = "", default: bool = False) -> Parameter:
    def read(value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            raise wrong_type(name, value, "true or false")
        return value

    return Parameter(read, {"type": "boolean"}, help, default)


def text(help: str = "", **schema: Any) -> Parameter:
    """Any string; `schema` may promise more than is checked here."""
    return Parameter(check_text, {"type": "string", **schema}, help)


def anything(help: str) -> Parameter:
    """Taken whatever it is: it says nothing about the answer."""
    return Parameter(lambda value, name: value, {}, help)


def only(*values: Any) -> Parameter:
    """For what this service does not have: taken with a value that means "off", refused with any other."""
    allowed = " or ".join(json.dumps(value) for value in values)

    def read(value: Any, name: str) -> None:
        if not any(_is_same(value, neutral) for neutral in values):
            raise BadRequest(f"{name}: this service supports only {allowed}", param=name, code="unsupported_parameter")

    return Parameter(read, {"enum": list(values)}, "not supported: only a value that means off")


def _number(
    type: str, low: float, high: float, default: float | None, help: str, also: float | None = None
) -> Parameter:
    noun = "a whole number" if type == "integer" else "a number"
    allowed = f"{noun} from {_plain(low)} to {_plain(high)}" + ("" if also is None else f", or {_plain(also)}")

    def read(value: Any, name: str) -> Any:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or (type == "integer" and isinstance(value, float) and value % 1 != 0 and abs(value) < 1e300):
            raise wrong_type(name, value, allowed)
        if value != also and not low <= value <= high:
            shown = _plain(value) if abs(value) < 1e15 else "a number of many digits"
            raise BadRequest(f"{name}={shown}: must be {allowed}", param=name)
        return int(value) if type == "integer" else float(value)

    schema: dict[str, Any] = {"type": type, "minimum": low, "maximum": high}
    if also is not None:
        schema = {"anyOf": [schema, {"const": also}]}
    return Parameter(read, schema, help, default)


# Values


def check_text(value: Any, name: str) -> str:
    """A string that is one: half a surrogate pair cannot be written as UTF-8, so not as tokens either."""
    if not isinstance(value, str):
        raise wrong_type(name, value, "a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest(f"{name}: character {error.start} is half of a surrogate pair", param=name) from error
    return value


def check_characters(body: dict[str, Any]) -> None:
    """Every string in a body, names too, wherever it is. Raises BadRequest with its place."""
    left: list[tuple[str, Any]] = list(body.items())
    for name in body:
        check_text(name, show(name))
    while left:
        where, value = left.pop()
        if isinstance(value, str):
            check_text(value, where)
        elif isinstance(value, list):
            left += [(f"{where}[{i}]", item) for i, item in enumerate(value) if isinstance(item, (str, list, dict))]
        elif isinstance(value, dict):
            for name, item in value.items():
                check_text(name, f"{where}.{show(name)}")
                left.append((f"{where}.{show(name)}", item))


def check_question(value: Any, name: str) -> str:
    if not check_text(value, name).strip():
        raise BadRequest(f"{name}: is empty, must hold text", param=name, code="empty_prompt")
    return value


QUESTION_SCHEMA = {"type": "string", "pattern": r"\S"}

token = whole(0, MAX_TOKEN, help="a token's number")


def check_tokens(value: Any, name: str) -> list[int]:
    if not isinstance(value, list):
        raise wrong_type(name, value, "a list of token ids")
    return [token.read(item, f"{name}[{i}]") for i, item in enumerate(value)]


TOKENS_SCHEMA = {"type": "array", "items": token.schema}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """The schema of an object that holds these and nothing else."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def wrong_type(name: str, value: Any, allowed: str) -> BadRequest:
    return BadRequest(f"{name}: is {name_type(value)}, must be {allowed}", param=name, code="invalid_type")


def name_type(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}.get(
        type(value), "an object"
    )


def show(word: str) -> str:
    """A client's own word, short and printable enough for a message."""
    return re.sub(r"[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", word[:80])
