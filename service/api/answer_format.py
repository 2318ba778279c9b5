"""What form a client wants an answer in, read from a body: JSON, JSON of a schema, or its own grammar (GBNF).

Whether it can be kept is for `chat.constraint` to find out. Knows no route and no model.
"""

from __future__ import annotations

from typing import Any

from ..chat.constraint import Grammar
from ..errors import BadRequest
from .check import Parameter, check_text, closed, name_type, show, wrong_type

MAX_GBNF_BYTES = 65536
FORMATS = ("text", "json_object", "json_schema")


def read_gbnf(value: Any, name: str) -> Grammar | None:
    """Empty text means none, as in llama-server."""
    text = check_text(value, name)
    n_bytes = len(text.encode())
    if n_bytes > MAX_GBNF_BYTES:
        raise BadRequest(f"{name}: has {n_bytes} bytes, at most {MAX_GBNF_BYTES} are allowed", param=name)
    return Grammar(name, gbnf=text) if text else None


def read_schema(value: Any, name: str) -> Grammar:
    """A JSON Schema. An empty one means any JSON object, as in llama-server."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, "an object (a JSON Schema)")
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


_SCHEMA_OBJECT = {"type": "object"}
_NAMED = {"type": "object", "properties": {"schema": _SCHEMA_OBJECT}, "required": ["schema"]}

GBNF = Parameter(
    read_gbnf,
    {"anyOf": [{"const": ""}, {"type": "string", "maxLength": MAX_GBNF_BYTES, "pattern": r"root\s*::="}]},
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
