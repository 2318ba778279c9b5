"""What form an answer may be asked for in."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.answer_format import GBNF, MAX_GBNF_BYTES, RESPONSE_FORMAT
from service.api.check import Parameter
from service.chat.constraint import Grammar
from service.errors import BadRequest


def refusal(parameter: Parameter, given: Any, name: str = "x") -> str:
    with pytest.raises(BadRequest) as caught:
        parameter.read(given, name)
    return caught.value.message


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar("x")),
        ({"type": "json_object", "schema": {"const": "42"}}, Grammar("x.schema", schema={"const": "42"})),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}}},
            Grammar("x.json_schema.schema", schema={"type": "object"}),
        ),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, Grammar("x.json_schema.schema")),
    ],
)
def test_formats_are_openais_and_llama_servers(given: dict[str, Any], read: Grammar | None):
    assert RESPONSE_FORMAT.read(given, "x") == read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("json", "x: is a string, must be an object"),
        ({}, "x.type=null: must be one of text, json_object, json_schema"),
        ({"type": "sound"}, "x.type=sound: must be one of text, json_object, json_schema"),
        ({"type": ["text"]}, "x.type=a list: must be one of"),
        ({"type": "text", "schema": {}}, "x.schema: no such parameter"),
        ({"type": "json_object", "schema": 123}, "x.schema: is a number, must be an object (a JSON Schema)"),
        ({"type": "json_schema"}, "x.json_schema: is null, must be an object with a `schema`"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "x.json_schema.schema: is null, must be an object"),
    ],
)
def test_faults_of_formats_name_the_place(given: Any, message: str):
    assert message in refusal(RESPONSE_FORMAT, given)


def test_empty_grammar_is_none():
    assert GBNF.read("", "x") is None


@pytest.mark.parametrize("value", [5, None, ["root"]])
def test_grammars_are_text(value: Any):
    assert "must be a string" in refusal(GBNF, value)


def test_grammars_have_a_size():
    assert GBNF.read("é" * 32768, "x").gbnf == "é" * 32768
    assert refusal(GBNF, "é" * 32768 + "a") == "x: has 65537 bytes, at most 65536 are allowed"


def test_limits_of_the_document_are_those_of_the_check():
    assert GBNF.schema["anyOf"][1]["maxLength"] == MAX_GBNF_BYTES
