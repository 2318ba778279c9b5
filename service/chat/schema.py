"""A JSON Schema as llguidance takes it, rewritten where the library would keep less than the schema says.

What it would silently keep by half is said otherwise if there is a way, and refused if there is none; what it refuses
itself is left to it. Found in llguidance 1.9.1; `tests/service/chat/test_constraint.py` has a case of each. Knows
nothing of tokens or of how the library is called.
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Iterable
from typing import Any

from .pattern import rewrite

MAX_BYTES = 256 * 1024  # of the schema as compact JSON: reading it takes the interpreter lock for 0.03 s
MAX_TEXT = 8192  # characters of one name, value or pattern: a matcher's first step goes through all of it

# Keys that llguidance reads from a schema's own "x-guidance", which is not for clients. One blank, or a line feed and
# the next line's indent, may stand where JSON allows blanks: a model that likes them cannot go on with them for ever.
# Without \u a character has one spelling, so that a name which is taken cannot come again in another one.
OPTIONS = {
    "whitespace_pattern": r"[ ]|\n[ \t]{0,20}",
    "json_allowed_escapes": 'nrbtf\\"',
}

MAX_WHOLE_BOUND = 2.0**50

_SCHEMAS = ("additionalProperties", "items", "additionalItems")  # keywords of a schema, or of a list of them
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = ("const", "enum", "default", "example", "examples")  # and no schemas
_BOUNDS = {"minimum": 1, "exclusiveMinimum": 1, "maximum": -1, "exclusiveMaximum": -1}  # and where their inside is
# The library takes 29 February of every year, the year 0000 and the second 60.
_DATE = r"(?:[1-9]\d{3}|0\d{2}[1-9]|0\d[1-9]\d|0[1-9]\d{2})-(?:(?:0[13-9]|1[0-2])-\d\d|02-(?:[01]\d|2[0-8]))"
_TIME = r"\d\d:\d\d:[0-5]\d"
_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}", "date-time": f"^{_DATE}[Tt]{_TIME}"}


def to_grammar(schema: dict[str, Any]) -> str:
    """llguidance's grammar of it. Raises ValueError, and RecursionError if it is nested too deeply."""
    n_bytes = len(json.dumps(schema, separators=(",", ":")))
    if n_bytes > MAX_BYTES:
        raise ValueError(f"has {n_bytes} bytes as compact JSON, at most {MAX_BYTES} are allowed")
    rewritten = _Rewriter(schema).rewrite(schema)
    return json.dumps({"grammars": [{"json_schema": {**rewritten, "x-guidance": OPTIONS}}]})


class _Rewriter:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def rewrite(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        new: dict[str, Any] = {}
        extra: list[Any] = []  # what must hold besides
        for key, value in schema.items():
            if key == "oneOf" and isinstance(value, list) and self._are_apart(value):
                extra.append({"anyOf": [self.rewrite(option) for option in value]})
            elif key in _LISTS and isinstance(value, list):
                new[key] = [self.rewrite(each) for each in value]
            elif key in _SCHEMAS:
                new[key] = self.rewrite(value)
            elif key in _MAPS and isinstance(value, dict):
                for name in value:
                    _check_text(name, key)
                is_pattern = key == "patternProperties"
                new[key] = {rewrite(name) if is_pattern else name: self.rewrite(each) for name, each in value.items()}
            elif key == "pattern" and isinstance(value, str):
                _check_text(value, key)
                new[key] = rewrite(value)
            else:
                new[key] = _round_bound(value, key) if key in _BOUNDS and _is_number(value) else value
                if key in ("const", "enum", "multipleOf"):
                    _check_value(value, key)
                elif key == "format" and isinstance(value, str) and value in _FORMATS:
                    extra.append({"pattern": rewrite(_FORMATS[value])})
                elif isinstance(value, dict) and key not in _VALUES:  # a reference may point into it
                    new[key] = self.rewrite(value)
        _check_object(schema)
        _step_off_whole_bounds(new)
        if "prefixItems" in new and "additionalItems" in new:
            raise ValueError("additionalItems beside prefixItems: only one of them is allowed")
        if extra:
            all_of = new.get("allOf", [])
            new["allOf"] = [*all_of, *extra] if isinstance(all_of, list) else all_of
        return new

    def _are_apart(self, options: list[Any]) -> bool:
        """Whether no value can satisfy two of them: then one of them is any of them. By their types, by their values,
        or by a required property that tells them apart, as a discriminator does."""
        resolved = [self._resolve(option) for option in options]
        if not all(isinstance(option, dict) for option in resolved):
            return False
        by_type: dict[str, list[Any]] = {}
        for option in resolved:
            for kind in _types_of(option):
                by_type.setdefault(kind, []).append(option)
        return all(len(group) == 1 or self._differ(group) for group in by_type.values())

    def _differ(self, options: list[dict[str, Any]]) -> bool:
        if _are_disjoint([_values_of(option) for option in options]):
            return True
        names = set.intersection(*(set(_strings(option.get("required"))) for option in options))
        for name in names:
            tags = []
            for option in options:
                properties = option.get("properties")
                tag = self._resolve(properties.get(name)) if isinstance(properties, dict) else None
                tags.append(_values_of(tag) if isinstance(tag, dict) else None)
            if _are_disjoint(tags):
                return True
        return False

    def _resolve(self, schema: Any) -> Any:
        """What a reference within the document points to."""
        for _ in range(16):
            reference = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return schema
            schema = self._root
            for part in reference[2:].split("/"):
                name = part.replace("~1", "/").replace("~0", "~")
                schema = schema.get(name) if isinstance(schema, dict) else None
        return None


def _types_of(option: dict[str, Any]) -> set[str]:
    """The JSON types it may have; an integer is a number."""
    said = option.get("type")
    kinds = [said] if isinstance(said, str) else _strings(said)
    if not kinds:
        values = _values_of(option)
        kinds = _KINDS if values is None else [json.loads(value)[0] for value in values]
    return {"number" if kind == "integer" else kind for kind in kinds}


_KINDS = ["object", "array", "string", "number", "boolean", "null"]


def _values_of(schema: dict[str, Any]) -> set[str] | None:
    """The values that it names, each with its type as JSON; None if it names none."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return None
    return {json.dumps([_kind_of(value), value], sort_keys=True) for value in values}


def _kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, (dict, list)):
        return "object" if isinstance(value, dict) else "array"
    return "string" if isinstance(value, str) else "number"


def _are_disjoint(sets: list[set[str] | None]) -> bool:
    known = [each for each in sets if each is not None]
    return len(known) == len(sets) and len(set().union(*known)) == sum(map(len, known))


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _check_object(schema: dict[str, Any]) -> None:
    """A name that no property has may come twice, and is one property then."""
    least = schema.get("minProperties")
    n_required = len(set(_strings(schema.get("required"))))
    if isinstance(least, int) and least > n_required + 1:
        raise ValueError(f"minProperties={least}: at most {n_required + 1} can be kept, one more than are required")


def _step_off_whole_bounds(schema: dict[str, Any]) -> None:
    """A whole bound that is excluded is kept by stepping off it: the library forgets that it is excluded when the other
    bound is less than one away (`0 < x <= 0.5`). Whole numbers are the same ones with and without this."""
    for outer, inner, sign, choose in (
        ("exclusiveMinimum", "minimum", 1, max),
        ("exclusiveMaximum", "maximum", -1, min),
    ):
        bound, other = schema.get(outer), schema.get(inner)
        if bound is True:  # as in draft 4
            bound, other = other, None
        if not _is_number(bound) or not _is_exact(bound) or sign * bound < 0 or abs(bound) > MAX_WHOLE_BOUND:
            continue
        del schema[outer]
        stepped = bound + sign * max(1e-6, math.ulp(bound))
        schema[inner] = choose(stepped, other) if _is_number(other) else stepped


def _round_bound(bound: float, keyword: str) -> float:
    """The next number inside that the library reads exactly: most of 17 digits, or beyond 2**53, it does not."""
    if _is_kept(bound):
        return bound
    inside = _BOUNDS[keyword]
    if isinstance(bound, int) and abs(bound) < 1 << 64:
        near = float(bound)
        return int(near if (int(near) - bound) * inside >= 0 else math.nextafter(near, inside * math.inf))
    rounding = decimal.ROUND_CEILING if inside > 0 else decimal.ROUND_FLOOR
    rounded = float(decimal.Context(prec=15, rounding=rounding).create_decimal(repr(bound)))
    if not _is_kept(rounded):
        raise ValueError(f"{keyword}: {bound!r:.40} is too large or too small to be kept")
    return rounded


def _is_kept(number: float) -> bool:
    """Whether the library reads this very number: it takes the digits and the power of ten as 64-bit floats."""
    if isinstance(number, int):
        return _is_exact(number)
    if not math.isfinite(number):
        return False
    _, digits, exponent = decimal.Decimal(repr(number)).normalize().as_tuple()
    return int("".join(map(str, digits))) < 1 << 53 and abs(int(exponent)) <= 22


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_value(value: Any, keyword: str) -> None:
    """A control character has no spelling without \\u."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, (dict, list)):
            left += [*each, *each.values()] if isinstance(each, dict) else each
        elif isinstance(each, str):
            _check_text(each, keyword)
            if not _UNSPELLED.isdisjoint(each):
                raise ValueError(f"{keyword}: control characters other than \\b, \\f, \\n, \\r and \\t cannot be kept")
        elif _is_number(each) and not _is_kept(each):
            raise ValueError(f"{keyword}: {each!r:.40} has too many digits to be kept")


_UNSPELLED: Iterable[str] = frozenset(map(chr, [*range(8), 11, *range(14, 32), 127]))


def _is_exact(number: float) -> bool:
    """Whether it is a whole number that floating point holds."""
    try:
        return int(float(number)) == number
    except (OverflowError, ValueError):
        return False


def _check_text(text: str, keyword: str) -> None:
    if len(text) > MAX_TEXT:
        raise ValueError(f"{keyword}: a text has {len(text)} characters, at most {MAX_TEXT} are allowed")
