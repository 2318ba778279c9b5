"""What an answer may be: every text that a constraint lets through satisfies it, and what cannot be kept is refused."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from service.chat.constraint import Constrainer, Grammar, Matcher
from service.chat.trial import HelperBusy
from service.errors import BadRequest, ConstraintFailed, Unavailable
from tests.fakes import BOS, EOS, FakeModel, bits
from tests.service.chat.schemas import make_schema, say

Validator = jsonschema.Draft202012Validator
N_ANSWERS = 3  # to each schema


@pytest.fixture(scope="module")
def constrainer() -> Iterator[Constrainer]:
    """The helper has tests of its own."""
    constrainer = Constrainer(FakeModel(), check=lambda text, is_json: None)
    yield constrainer
    constrainer.close()


def bind(constrainer: Constrainer, schema: dict[str, Any] | None) -> Matcher:
    return constrainer.make(Grammar("x", schema=schema))


def takes(matcher: Matcher, text: str) -> bool:
    """Whether the text is a whole answer."""
    matcher = matcher.copy()
    return all(matcher.accept(byte) for byte in text.encode()) and matcher.is_complete


def refusal(constrainer: Constrainer, grammar: Grammar) -> str:
    with pytest.raises(BadRequest) as caught:
        constrainer.make(grammar)
    assert (caught.value.code, caught.value.param) == ("invalid_grammar", grammar.param)
    return caught.value.message


@pytest.mark.parametrize("block", range(12))
def test_every_finished_answer_parses_and_satisfies_its_schema(constrainer: Constrainer, block: int):
    """240 schemas of the kinds that people write; with the old converter numbers left their ranges, enums lost their
    emoji, and line feeds in them made JSON that does not parse."""
    n_made = n_finished = 0
    for seed in range(20 * block, 20 * block + 20):
        schema = make_schema(seed)
        Validator.check_schema(schema)
        try:
            matcher = bind(constrainer, schema)
        except BadRequest as error:
            assert "nsatisfiable" in error.message, error.message
            continue
        n_made += 1
        validator = Validator(schema, format_checker=Validator.FORMAT_CHECKER)
        for i in range(N_ANSWERS):
            answer = say(matcher.copy(), N_ANSWERS * seed + i)
            if answer is not None:
                n_finished += 1
                validator.validate(json.loads(answer))
    assert n_made >= 17 and n_finished >= 0.8 * N_ANSWERS * n_made


ANY = {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 10}, ["0", "10"], ["89", "11", "-1", "01", "5.0"]),
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 3}, ["0", "9"], ["4", "12"]),
        ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, ["3", "5"], ["2", "6"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.001"], ["0", "0.0", "0.51"]),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, ["-0.5", "-0.1"], ["-0", "0"]),
        ({"type": "integer", "maximum": 2**63 - 1, "minimum": 2**62}, [str(2**62)], [str(2**63)]),
        (
            {"enum": ["😀", "a\nb", 'q"', "\\", "é"]},
            ['"😀"', '"a\\nb"', '"q\\""', '"\\\\"', '"é"'],
            ['"a\nb"', '"\ufffd"'],
        ),
        ({"const": {"a": [1, "\t"]}}, ['{"a":[1,"\\t"]}', '{ "a": [1,\n"\\t"]}'], ['{"a":[1]}']),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
            ['{"a":1,"b":"x"}', "{}", '{"b":"\\n"}'],
            ['{"b":"\n"}', '{"\\u0061":"x"}', '{"a":1,"a":"x"}', '{"b":1}'],
        ),
        (
            {"properties": {"a": True, 'q"x\\': {"type": "null"}}, **ANY},
            ['{"a":[1],"q\\"x\\\\":null}'],
            ['{"q\\"x\\\\":1}'],
        ),
        ({"items": {}, "type": "array"}, ['[1,"a",null]', "[]"], ["{}"]),
        ({"type": "string", "pattern": r"\d"}, ['"a1b"', '"1"'], ['"ab"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),
        ({"type": "string", "pattern": r'^[^"]*$'}, ['"a\'b"'], ['"a\\"b"']),
        (
            {
                "components": {"schemas": {"S": {"type": "string", "pattern": '^[^"]*$'}}},
                "$ref": "#/components/schemas/S",
            },
            ['"a"'],
            ['"\\""'],
        ),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"😀😀"', '"a\\nb"'], ['"😀"', '"abcd"']),
        ({"type": "string", "format": "date"}, ['"2024-02-28"'], ['"2023-02-29"', '"2023-13-01"', '"0000-01-01"']),
        ({"type": ["string", "null"]}, ["null", '"x"'], ["1"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["1", '"x"'], ["1.5"]),
        ({}, ["{}", '{"a":{"b":[1e5,true]}}'], ["[]", "1"]),
        (None, ["{}", '{"a":null}'], ["[]", '{"a":}']),
    ],
)
def test_texts_are_in_or_out(constrainer: Constrainer, schema: Any, good: list[str], bad: list[str]):
    """Wrong answers were let through silently: `0..10` gave 89, nested bounds and multipleOf were not kept, a name that
    is taken could come again in another spelling. An empty schema means any JSON object."""
    matcher = bind(constrainer, schema)
    assert [text for text in good if not takes(matcher, text)] == []
    assert [text for text in bad if takes(matcher, text)] == []


NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["next"],
    "additionalProperties": False,
}
PETS = {
    "Cat": {
        "type": "object",
        "properties": {"kind": {"const": "cat"}, "n": {"type": "integer"}},
        "required": ["kind", "n"],
    },
    "Dog": {
        "type": "object",
        "properties": {"kind": {"const": "dog"}, "of": {"$ref": "#/$defs/Pet"}},
        "required": ["kind"],
    },
    "Pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "title": "Pet"},
}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}, '{"next":{"next":null}}'),
        ({"$defs": PETS, "$ref": "#/$defs/Pet"}, '{"kind":"dog","of":{"kind":"cat","n":1}}'),
        ({"type": "array", "items": {"$ref": "#"}}, "[[],[[]]]"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "null"}}, "$ref": "#/$defs/a"}, "null"),
        ({"definitions": {"a/b": {"enum": [1]}}, "$ref": "#/definitions/a~1b"}, "1"),
        ({"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(902)}}, '{"p0":1,"p901":2}'),
        ({"enum": [f"value {i}" for i in range(5000)]}, '"value 4999"'),
    ],
)
def test_ordinary_schemas_are_kept(constrainer: Constrainer, schema: dict[str, Any], text: str):
    """A `$ref` at the root or to a definition that refers on was refused: that is every recursive Pydantic model. A
    oneOf of references is kept if a property tells them apart."""
    assert takes(bind(constrainer, schema), text)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "Unimplemented keys"),
        ({"type": "array", "contains": {"const": 1}}, 'Unimplemented keys: ["contains"]'),
        ({"dependentRequired": {"a": ["b"]}}, "Unimplemented keys"),
        ({"$ref": "http://example.com/schema"}, "Default retriever does not fetch resources"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": r"\bword\b"}, "\\b"),
        ({"type": "string", "pattern": "[]"}, "[] and [^] cannot be kept"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "Unsatisfiable schema"),
        ({"type": "string", "format": "int32"}, "Unknown format: int32"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf constraints are not supported"),
        ({"type": "hiccup"}, "Invalid type: hiccup"),
        ({"enum": ["\x01"]}, "control characters"),
        ({"const": 2**53 + 1}, "too many digits"),
        ({"const": 190.90225803248813}, "too many digits"),
        ({"type": "object", "minProperties": 2}, "minProperties=2: at most 1 can be kept"),
        ({"prefixItems": [{}], "additionalItems": False}, "additionalItems beside prefixItems"),
        ({"const": "x" * 8193}, "const: a text has 8193 characters, at most 8192"),
        ({"description": "x" * 262144}, "at most 262144 are allowed"),
        ({"$ref": "#"}, "no text satisfies it"),
        ({"const": "\ud800"}, "hex escape"),
        ({"minimum": "a"}, "Expected f64"),
        ({"type": "number", "multipleOf": 0}, "x: "),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_reason(constrainer: Constrainer, schema: Any, words: str):
    assert words in refusal(constrainer, Grammar("x", schema=schema))


def test_deep_schemas_are_refused(constrainer: Constrainer):
    for depth in (200, 100_000):
        schema: dict[str, Any] = {}
        for _ in range(depth):
            schema = {"items": schema}
        refusal(constrainer, Grammar("x", schema=schema))


def test_a_clients_own_options_of_the_library_count_for_nothing(constrainer: Constrainer):
    schema = {"x-guidance": {"lenient": True, "whitespace_pattern": "x*"}, "type": "array", "items": {}}
    matcher = bind(constrainer, schema)
    assert takes(matcher, "[ ]") and not takes(matcher, "[xx]")
    refusal(constrainer, Grammar("x", schema={**schema, "uniqueItems": True}))


def test_blanks_have_an_end(constrainer: Constrainer):
    """A model that likes blanks must not be able to go on with them for ever."""
    matcher = bind(constrainer, {"type": "object"})
    assert takes(matcher, '{\n    "a" : [ 1, 2 ]\n}')
    assert not takes(matcher, "{  }") and not takes(matcher, "{\n" + " " * 21 + "}") and not takes(matcher, " {}")


def test_refusal_shows_little_of_a_long_grammar_and_nothing_is_printed(
    constrainer: Constrainer, capfd: pytest.CaptureFixture[str]
):
    """A grammar that did not parse was printed whole into the journal."""
    secret = "tell-nobody"
    for grammar in (
        Grammar("x", gbnf=f'root ::= "{secret}" {{' + " " * 1000),
        Grammar("x", gbnf="root ::= " + f'"{secret}" ' * 1000 + "missing"),
        Grammar("x", schema={"type": "string", "pattern": f"({secret}" * 300}),
        Grammar("x", schema={secret * 200: 1, "type": [secret * 200]}),
        Grammar("x", lark=f'start: "{secret}" nothing'),
    ):
        assert len(refusal(constrainer, grammar)) <= 500
    assert capfd.readouterr() == ("", "")


# The constraint itself


def test_complete_answer_lets_only_ends_through(constrainer: Constrainer):
    matcher = constrainer.make(Grammar("x", gbnf='root ::= "ab"'))
    assert matcher.accept(97) and not matcher.is_complete and not matcher.accept(EOS)
    assert matcher.accept(98) and matcher.is_complete
    assert [token for token, is_allowed in enumerate(bits(matcher.mask())) if is_allowed] == [EOS]
    assert not matcher.accept(98) and matcher.accept(EOS)


def test_refused_token_changes_nothing(constrainer: Constrainer):
    matcher = constrainer.make(Grammar("x", gbnf='root ::= "a" [xy]'))
    assert not matcher.accept(98) and not matcher.accept(BOS) and matcher.accept(97)
    assert not matcher.accept(97) and matcher.accept(121) and matcher.is_complete


def test_copies_go_their_own_ways(constrainer: Constrainer):
    matcher = constrainer.make(Grammar("x", gbnf='root ::= "ab" | "cd"'))
    other = matcher.copy()
    assert matcher.accept(97) and other.accept(99)
    assert matcher.accept(98) and not other.accept(98) and other.accept(100)


@pytest.mark.parametrize(
    "gbnf",
    [
        "root ::= root root root | [a-z] | [a-z] root",
        "root ::= w\nw ::= [a-z] v | [a-z]\nv ::= [a-z] w | [a-z]",
    ],
)
def test_what_grows_beyond_the_limits_fails_with_words(constrainer: Constrainer, gbnf: str):
    """Ambiguous grammars kept the engine's thread for ever, or took 1 GB per few seconds."""
    matcher = constrainer.make(Grammar("x", gbnf=gbnf))
    with pytest.raises(ConstraintFailed, match=r"cannot be followed any further: .*items"):
        for _ in range(2000):
            assert matcher.accept(97)


class Ends(FakeModel):
    def __init__(self, *ends: int) -> None:
        super().__init__()
        self.ends = ends

    def is_end(self, token: int) -> bool:
        return token in self.ends


@pytest.mark.parametrize("ends", [(EOS, BOS), ()])
def test_vocabularies_have_several_ends_or_none(ends: tuple[int, ...]):
    constrainer = Constrainer(Ends(*ends), check=lambda text, is_json: None)
    matcher = constrainer.make(Grammar("x", gbnf='root ::= "a"'))
    assert matcher.accept(97) and matcher.is_complete
    assert {token for token, is_allowed in enumerate(bits(matcher.mask())[:259]) if is_allowed} == set(ends)
    assert all(matcher.accept(end) for end in ends)


# Making one


class Gated(FakeModel):
    """A vocabulary that cannot be read until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read = threading.Event()

    def token_bytes(self, token: int) -> bytes:
        assert self.may_read.wait(60)
        return super().token_bytes(token)


def test_request_waits_for_the_vocabulary():
    model, made = Gated(), queue.SimpleQueue[Matcher]()
    constrainer = Constrainer(model, check=lambda text, is_json: None)
    asking = threading.Thread(target=lambda: made.put(constrainer.make(Grammar("x"))), daemon=True)
    asking.start()
    assert made.empty() and constrainer._tokenizer is None
    model.may_read.set()
    assert takes(made.get(timeout=60), "{}")


def test_vocabulary_that_is_not_needed_any_more_is_not_read_to_its_end():
    model = Gated()
    constrainer = Constrainer(model, check=lambda text, is_json: None)
    constrainer.close()
    model.may_read.set()
    with pytest.raises(Unavailable, match="shutting down"):
        constrainer.make(Grammar("x"))


def test_what_the_trial_says_is_the_reason():
    def check(text: str, is_json: bool) -> None:
        raise HelperBusy if is_json else ValueError("too complex")

    constrainer = Constrainer(FakeModel(), check=check)
    assert refusal(constrainer, Grammar("grammar", gbnf='root ::= "a"')) == "grammar: too complex"
    with pytest.raises(Unavailable, match="ask again"):
        constrainer.make(Grammar("x"))
