"""What form an answer may be asked for in, and that none of it can be made to cost more than it should."""

from __future__ import annotations

from typing import Any

import pytest

from service.api import answer_format as grammar
from service.api.answer_format import GBNF, JSON_SCHEMA, RESPONSE_FORMAT
from service.api.check import Parameter
from service.chat.constraint import Grammar
from service.errors import BadRequest
from tests.fakes import FakeModel


def refusal(parameter: Parameter, given: Any, name: str = "x") -> str:
    with pytest.raises(BadRequest) as caught:
        parameter.read(given, name)
    return caught.value.message


def nest(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


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


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"const": "x" * 16384}, "x: has 16396 bytes, at most 16384"),
        (nest(33), "x: is nested 33 deep, at most 32"),
        ({"maxLength": 4097}, "x: lengths and counts add up to 4097, at most 4096"),
        ({"properties": {"a": {"maxItems": 4000}, "b": {"minLength": 97}}}, "add up to 4097"),
        ({"anyOf": [{"maxLength": 4000}, {"pattern": "a{97}"}]}, "add up to 4097"),
        ({"minLength": -5000, "maxLength": 4097}, "add up to 4097"),
        ({"minLength": 1e16}, "x: minLength is too large, at most 1000000000000000"),
        ({"maximum": 10**16}, "x: maximum is too large"),
        ({"exclusiveMinimum": float("inf")}, "x: exclusiveMinimum is too large"),
    ],
)
def test_schemas_that_would_become_huge_are_refused(schema: dict[str, Any], message: str):
    assert message in refusal(JSON_SCHEMA, schema)


@pytest.mark.parametrize(
    "schema", [nest(32), {"maxLength": 4096}, {"maximum": 10**15}, {"const": {"maxLength": 9999}}, {"maxLength": "x"}]
)
def test_schemas_at_the_limits_are_taken(schema: dict[str, Any]):
    assert JSON_SCHEMA.read(schema, "x").schema == schema


@pytest.mark.parametrize(
    ("gbnf", "message"),
    [
        (5, "x: is a number, must be a string"),
        ("root ::= " + "a" * 16376, "x: has 16385 bytes, at most 16384"),
        ("root ::= " + "(" * 33 + '"a"' + ")" * 33, "x: is nested 33 deep, at most 32"),
        ('root ::= "a"{2000,2000} "b"{2097}', "x: lengths and counts add up to 4097, at most 4096"),
        ('root ::= "a"{4097,}', "add up to 4097"),
    ],
)
def test_grammars_that_would_become_huge_are_refused(gbnf: Any, message: str):
    assert message in refusal(GBNF, gbnf)


@pytest.mark.parametrize(
    "gbnf",
    [
        'root ::= "a"{5,5}',
        'root ::= "' + "(" * 40 + '"',
        "root ::= [(" + "(" * 40 + "]",
        'root ::= "a" # ' + "(" * 40,
        r'root ::= "\"' + "{9999}" + '"',
    ],
)
def test_marks_inside_literals_count_for_nothing(gbnf: str):
    assert GBNF.read(gbnf, "x").gbnf == gbnf


def test_empty_grammar_is_none():
    assert GBNF.read("", "x") is None


def test_model_turns_schemas_into_gbnf_and_has_the_last_word():
    model = FakeModel()
    assert Grammar("x", gbnf="root ::= [a]").resolve(model) == "root ::= [a]"
    assert Grammar("x").resolve(model) == "root ::= object"
    assert Grammar("x", schema={"type": "object"}).resolve(model) == "root ::= schema"
    for bad, reason in (
        (Grammar("grammar", gbnf="a"), "grammar: there is no rule named root"),
        (Grammar("x.schema", schema={"type": "hiccup"}), "x.schema: type hiccup is not known"),
    ):
        with pytest.raises(BadRequest) as caught:
            bad.resolve(model)
        assert (caught.value.message, caught.value.code) == (reason, "invalid_grammar")


def test_converter_that_gives_up_is_the_clients_fault():
    class Deep(FakeModel):
        def json_grammar(self, schema: dict[str, Any] | None) -> str:
            raise RecursionError("maximum recursion depth exceeded")

    with pytest.raises(BadRequest, match="maximum recursion depth"):
        Grammar("x").resolve(Deep())


def test_limits_of_the_document_are_those_of_the_check():
    assert GBNF.schema["anyOf"][1]["maxLength"] == grammar.MAX_BYTES
