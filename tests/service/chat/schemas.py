"""JSON Schemas of many kinds, and answers that a constraint lets through: both by chance, and the same each time.

What is made here is what people write: objects with all sorts of properties, enums with odd texts, ranges, patterns,
unions, definitions that refer to each other. Nothing is made to be refused, though some of it is.
"""

from __future__ import annotations

import random
from typing import Any

from service.request import Constraint
from tests.fakes import EOS, bits

TEXTS = [
    "yes",
    "no",
    "a b",
    'say "hi"',
    "back\\slash",
    "line\nfeed",
    "tab\there",
    "é",
    "日本",
    "😀",
    "🏳️‍🌈",
    "",
    "null",
    "{",
    "'",
]
NAMES = ["id", "name", 'a"b', "a\\b", "größe", "😀", "x y", "$ref", "type", "0", "a\nb", "items", "__proto__"]
PATTERNS = [
    r"^\d{3}-\d{4}$",
    r"\d",
    "abc",
    r"^[a-z]+$",
    r"^[^\"]*$",
    r"^[^\\\s]+$",
    r"^\S+@\S+\.[a-z]{2,}$",
    r"^(foo|bar)?baz",
    r"x$",
    r"^[A-Z][a-z]*( [A-Z][a-z]*)*$",
    r"^\+?[1-9]\d{1,14}$",
    r"^.{2,5}$",
    r"^\W+$",
    r"^[^\d]+$",
    r"^[\w.-]+$",
    r"^a|b$",
    r"^#[0-9a-fA-F]{6}$",
    r"^[&~|\[]+$",
    r"^(?:\/[a-z]+)+$",
    r"^\D$",
]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "duration"]


def make_schema(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    kind = rng.choice([_object, _object, _object, _array, _definitions, _any_kind])
    return kind(rng, 3)


def _any_kind(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _string, _number, _number, _enum, _const, _simple]
    if depth > 0:
        kinds += [_object, _object, _array, _union, _all, _tuple, _open]
    return rng.choice(kinds)(rng, depth - 1)


def _simple(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice(["string", "integer", "number", "boolean", "null", ["string", "null"]])}


def _string(rng: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    choice = rng.random()
    if choice < 0.4:
        schema["pattern"] = rng.choice(PATTERNS)
    elif choice < 0.6:
        schema["format"] = rng.choice(FORMATS)
    if choice > 0.3 and rng.random() < 0.5:
        schema["minLength"] = rng.randint(0, 4)
    if choice > 0.3 and rng.random() < 0.5 and choice > 0.6:
        schema["maxLength"] = schema.get("minLength", 0) + rng.randint(0, 20)
    return schema


def _number(rng: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": rng.choice(["integer", "number"])}
    low = rng.choice([rng.randint(-1000, 1000), 0, 1, rng.uniform(-10, 10), -0.5, rng.randint(-(10**9), 10**9)])
    if rng.random() < 0.6:
        schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.6:
        schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([1.5, 10, 100, 0.25, 5000])
    if rng.random() < 0.25:
        schema["multipleOf"] = (
            rng.choice([2, 3, 5, 10, 7]) if schema["type"] == "integer" else rng.choice([0.5, 2, 0.25])
        )
    return schema


def _enum(rng: random.Random, depth: int) -> dict[str, Any]:
    values: list[Any] = rng.sample(TEXTS, rng.randint(1, 6))
    if rng.random() < 0.3:
        values += [None, True, 5, -1.5, {"a": [1, "\n"]}]
    return {"enum": values, **({"type": "string"} if rng.random() < 0.3 else {})}


def _const(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"const": rng.choice([*TEXTS, 0, 12, -3.25, 1e-7, True, None, [], {}, {"k": ["v", 1]}])}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(0, 5))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any_kind(rng, depth - 1) if rng.random() < 0.95 else True for name in names},
    }
    if rng.random() < 0.7:
        schema["required"] = [name for name in names if rng.random() < 0.7]
    choice = rng.random()
    if choice < 0.4:
        schema["additionalProperties"] = False
    elif choice < 0.6:
        schema["additionalProperties"] = _any_kind(rng, 0)
    if rng.random() < 0.1:
        schema["patternProperties"] = {r"^x_[^\"]+$": _any_kind(rng, 0)}
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _any_kind(rng, depth - 1) if rng.random() < 0.9 else {}}
    if rng.random() < 0.5:
        schema["minItems"] = rng.randint(0, 3)
    if rng.random() < 0.6:
        schema["maxItems"] = schema.get("minItems", 0) + rng.randint(0, 3)
    return schema


def _tuple(rng: random.Random, depth: int) -> dict[str, Any]:
    items = [_any_kind(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": rng.randint(0, len(items))}


def _union(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.4:
        tags = rng.sample(["cat", "dog", "fish"], 2)
        options = [
            {
                "type": "object",
                "properties": {"kind": {"const": tag}, tag: _any_kind(rng, 0)},
                "required": ["kind", tag],
            }
            for tag in tags
        ]
        return {"oneOf": options}
    return {"anyOf": [_any_kind(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


def _all(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"allOf": [_number(rng, 0), {"type": "number", "minimum": -5, "maximum": 5000}]}
    return {"allOf": [_object(rng, 0), {"properties": {"id": {"type": "string", "maxLength": 5}}, "required": ["id"]}]}


def _open(rng: random.Random, depth: int) -> dict[str, Any]:
    return rng.choice(
        [{}, {"type": "object"}, {"type": "array"}, {"title": "anything"}, {"minimum": 3, "maxLength": 2}]
    )


def _definitions(rng: random.Random, depth: int) -> dict[str, Any]:
    node = {
        "type": "object",
        "properties": {
            "value": _any_kind(rng, 0),
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "all": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    leaf = {"oneOf": [{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/two"}]}
    one = {"type": "object", "properties": {"t": {"enum": ["one", "1"]}}, "required": ["t"]}
    two = {
        "type": "object",
        "properties": {"t": {"const": "two"}, "again": {"$ref": "#/$defs/leaf"}},
        "required": ["t"],
    }
    root = {"$ref": "#/$defs/node"} if rng.random() < 0.6 else _object(rng, 1)
    return {**root, "$defs": {"node": node, "leaf": leaf, "one": one, "two": two}}


def say(constraint: Constraint, seed: int, n_tokens: int = 1500) -> bytes | None:
    """An answer of bytes as tokens, each drawn from what is allowed; None if it has no end within n_tokens."""
    rng, said = random.Random(seed), bytearray()
    while len(said) < n_tokens:
        allowed = [token for token, is_allowed in enumerate(bits(constraint.mask())) if is_allowed]
        ending = [token for token in allowed if token in (EOS, *b'"}]')]
        hurries = rng.random() < (0.3 if len(said) < 200 else 0.9)
        token = rng.choice(ending if ending and hurries else allowed)
        assert constraint.accept(token), f"{token} is in the mask and refused after {bytes(said)!r}"
        if token == EOS:
            return bytes(said)
        said.append(token)
    return None
