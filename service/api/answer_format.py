"""What form a client wants an answer in, read from a body: JSON, JSON of a schema, or its own grammar (GBNF).

Some small ones become huge when they are spelled out, so size, nesting and repetitions are limited before anything
reads them. Knows no route and no model.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..chat.constraint import Grammar
from ..errors import BadRequest
from .check import Parameter, check_text, closed, name_type, show, wrong_type

MAX_BYTES = 16384  # of a grammar, or of a schema as compact JSON
MAX_DEPTH = 32  # objects and lists in a schema, parentheses in a grammar: all readers recurse
MAX_REPEATS = 4096  # all lengths and counts together: {0,1000} is spelled out as 1000 rules
MAX_NUMBER = 10**15  # a range of numbers is spelled out digit by digit
FORMATS = ("text", "json_object", "json_schema")

_REPEATS = ("minLength", "maxLength", "minItems", "maxItems")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.S)
_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")


def read_gbnf(value: Any, name: str) -> Grammar | None:
    """Empty text means none, as in llama-server."""
    gbnf = check_text(value, name)
    _check_bytes(len(gbnf.encode()), name)
    rules = _LITERAL.sub("", gbnf)
    depth = deepest = 0
    for mark in re.findall(r"[()]", rules):
        depth += 1 if mark == "(" else -1
        deepest = max(deepest, depth)
    _check_depth(deepest, name)
    _check_repeats(_count_repeats(rules), name)
    return Grammar(name, gbnf=gbnf) if gbnf else None


def read_schema(value: Any, name: str) -> Grammar:
    """A JSON Schema. An empty one means any JSON object, as in llama-server."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, "an object (a JSON Schema)")
    _check_depth(_measure_depth(value), name)
    _check_bytes(len(json.dumps(value, separators=(",", ":"))), name)
    _check_repeats(_check_schema(value, name), name)
    return Grammar(name, schema=value or None)


def read_format(value: Any, name: str) -> Grammar | None:
    """OpenAI's response_format; llama-server's `schema` beside json_object too."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, "an object")
    kind = value.get("type")
    if kind not in FORMATS:
        shown = show(kind) if isinstance(kind, str) else name_type(kind)
        raise BadRequest(f"{name}.type={shown}: must be one of {', '.join(FORMATS)}", param=f"{name}.type")
    inner = {"text": (), "json_object": ("schema",), "json_schema": ("json_schema",)}[kind]
    for key in value:
        if key != "type" and key not in inner:
            raise BadRequest(
                f"{name}.{show(key)}: no such parameter", param=f"{name}.{show(key)}", code="unknown_parameter"
            )
    if kind == "text":
        return None
    if kind == "json_object":
        return read_schema(value["schema"], f"{name}.schema") if "schema" in value else Grammar(name)
    named = value.get("json_schema")
    if not isinstance(named, dict):
        raise wrong_type(f"{name}.json_schema", named, "an object with a `schema`")
    return read_schema(named.get("schema"), f"{name}.json_schema.schema")


def _check_schema(schema: dict[str, Any], name: str) -> int:
    """Every number that stands for work; returns how many repetitions there are in all."""
    n_repeats, left = 0, [schema]
    while left:
        for key, value in left.pop().items():
            if key in ("const", "enum", "default", "examples"):
                continue  # values, not rules
            if key == "pattern" and isinstance(value, str):
                n_repeats += _count_repeats(value)
            elif key in (*_REPEATS, *_NUMBERS) and isinstance(value, (int, float)):
                if not abs(value) <= MAX_NUMBER:
                    raise BadRequest(f"{name}: {key} is too large, at most {MAX_NUMBER}", param=name)
                n_repeats += max(0, int(value)) if key in _REPEATS else 0
            values = value if isinstance(value, list) else [value]
            left += [inner for inner in values if isinstance(inner, dict)]
    return n_repeats


def _count_repeats(text: str) -> int:
    """Of {3}, {3,} and {3,5}, all together. Digits beyond ten are as good as ten."""
    return sum(int((most or least or "0")[:10]) for least, most in _COUNTS.findall(text))


def _measure_depth(value: dict[str, Any]) -> int:
    """How many objects and lists are inside each other, without recursing."""
    depth, level = 0, [value]
    while level:
        inner = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        depth += 1
    return depth


def _check_bytes(n: int, name: str) -> None:
    if n > MAX_BYTES:
        raise BadRequest(f"{name}: has {n} bytes, at most {MAX_BYTES}", param=name)


def _check_depth(depth: int, name: str) -> None:
    if depth > MAX_DEPTH:
        raise BadRequest(f"{name}: is nested {depth} deep, at most {MAX_DEPTH}", param=name)


def _check_repeats(n: int, name: str) -> None:
    if n > MAX_REPEATS:
        raise BadRequest(f"{name}: lengths and counts add up to {n}, at most {MAX_REPEATS}", param=name)


_SCHEMA_OBJECT = {"type": "object"}
_NAMED = {"type": "object", "properties": {"schema": _SCHEMA_OBJECT}, "required": ["schema"]}

GBNF = Parameter(
    read_gbnf,
    {"anyOf": [{"const": ""}, {"type": "string", "maxLength": MAX_BYTES, "pattern": r"root\s*::="}]},
    "GBNF that the answer must follow (llama-server's); it needs a rule named root",
)
JSON_SCHEMA = Parameter(read_schema, _SCHEMA_OBJECT, "JSON Schema that the answer must follow (llama-server's)")
RESPONSE_FORMAT = Parameter(
    read_format,
    {
        "anyOf": [
            closed({"type": {"const": "text"}}, "type"),
            closed({"type": {"const": "json_object"}, "schema": _SCHEMA_OBJECT}, "type"),
            closed({"type": {"const": "json_schema"}, "json_schema": _NAMED}, "type", "json_schema"),
        ]
    },
    "text, any JSON object, or JSON of a schema",
)
