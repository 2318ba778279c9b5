"""Bodies that nobody sends by accident: each kind of cost and each kind of breakage that a body can carry."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

MIB = 1 << 20
ROOM = MIB - 4096
CHAT, COMPLETION, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"

Thrown = Iterator[tuple[str, str, bytes]]  # name, path, body


def dump(body: Any) -> bytes:
    return json.dumps(body).encode()


def read_running(body: bytes) -> float:
    """llm_requests_running of a /status.json; infinite if there is none."""
    try:
        text = body[body.index(b"{") : body.rindex(b"}") + 1]
        return float(json.loads(text)["metrics"]["llm_requests_running"])
    except (ValueError, KeyError):
        return float("inf")


def poisonous() -> Thrown:
    yield from _long_texts()
    yield from _schemas()
    yield from _lists()
    yield from _raw()


def _long_texts() -> Thrown:
    units = {
        "one word": "a",
        "one digit": "7",
        "spaces": " ",
        "line feeds": "\n",
        "emoji": "\U0001f469\u200d\U0001f680",
        "combining marks": "e\u0301\u0302\u0303",
        "chinese": "\u6f22\u5b57",
        "a control character": "\x01",
        "special tokens": "<|im_end|>",
        "apostrophes": "'s't're",
        "mixed": "aA1 -\t",
    }
    for name, unit in units.items():
        for n_bytes in (50_000, ROOM):
            text = unit * (n_bytes // len(json.dumps(unit).encode()))
            yield f"{name}, {n_bytes} bytes, chat", CHAT, dump({"messages": [{"role": "user", "content": "x" + text}]})
            yield f"{name}, {n_bytes} bytes, completion", COMPLETION, dump({"prompt": "x" + text, "max_tokens": 1})
            yield f"{name}, {n_bytes} bytes, pieces", "/tokenize", dump({"content": text, "with_pieces": True})
    yield "1024 messages", CHAT, dump({"messages": [{"role": "user", "content": "x" * 900}] * 1024})
    yield "token ids", COMPLETION, dump({"prompt": [1] * (ROOM // 3)})
    yield "detokenize", "/detokenize", dump({"tokens": [3] * (ROOM // 3)})
    yield "detokenize bytes", "/detokenize", dump({"tokens": [200] * (ROOM // 5)})


def _ask(**more: Any) -> bytes:
    return dump({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, **more})


def _schema(schema: Any) -> bytes:
    return _ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def _nest(inner: Any, wrap: Callable[[Any], Any], depth: int) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def _schemas() -> Thrown:
    properties = {f"property_{i}": {"type": "integer", "minimum": i} for i in range(900)}
    yield "900 properties", CHAT, _schema({"type": "object", "properties": properties, "required": sorted(properties)})
    yield "900 optional properties", CHAT, _schema({"type": "object", "properties": properties})
    yield "enum of 20,000", CHAT, _schema({"enum": [f"value {i}" for i in range(20_000)]})
    yield "nested anyOf", CHAT, _schema(_nest({"type": "null"}, lambda inner: {"anyOf": [inner, inner]}, 14))
    yield "nested objects", CHAT, _schema(_nest({}, lambda i: {"type": "object", "properties": {"a": i}}, 150))
    yield "refs in a ring", CHAT, _schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    yield "remote ref", CHAT, _schema({"$ref": "http://127.0.0.1:9/x"})
    yield "pattern of repeats", CHAT, _schema({"type": "string", "pattern": "^((((a?){0,50}){0,50}){0,50}){0,50}$"})
    yield "minLength", CHAT, _schema({"type": "string", "minLength": 10**9})
    yield "minItems", CHAT, _schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**7})
    yield "half a surrogate", CHAT, _schema({"$ref": "\ud800"})
    for name, grammar in {
        "spaces": "root ::= {" + " " * 100_000,
        "left recursion": 'root ::= e root "x" | "y"\ne ::= "z"?',
        "ambiguity": 'root ::= "a" root "b" | "a" root "c" | "a" root "d"',
        "token range": "root ::= <[999999]>",
        "nul": 'root ::= "\\x00"',
        "nested groups": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
        "repeat": 'root ::= "a"{1,1000000000}',
    }.items():
        yield f"grammar: {name}", CHAT, _ask(grammar=grammar)


def _lists() -> Thrown:
    yield "thousands of stop strings", CHAT, _ask(stop=[f"stop {i}" for i in range(50_000)])
    yield "16 long stop strings", CHAT, _ask(stop=["a" * 255 + str(i) for i in range(10)])
    yield "thousands of biases", CHAT, _ask(logit_bias={str(i): 1 for i in range(50_000)})
    yield "biases against everything", CHAT, _ask(logit_bias=[[i, False] for i in range(1024)])
    yield (
        "biases without an end",
        CHAT,
        _ask(logit_bias={str(i): -100 for i in range(1024)}, response_format={"type": "json_object"}),
    )
    yield "logprobs of all choices", CHAT, _ask(n=8, logprobs=True, top_logprobs=20, max_tokens=200)
    yield "8 choices, 8 prompts", COMPLETION, dump({"prompt": ["x"] * 8, "n": 1, "max_tokens": 50})
    yield "unknown names", CHAT, _ask(**{f"name_{i}": i for i in range(20_000)})
    yield "null names", CHAT, _ask(**{f"name_{i}": None for i in range(50_000)})


def _raw() -> Thrown:
    head = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4,'
    for name, more in {
        "deep lists": b'"user":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        "deep objects": b'"user":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        "a number of a million digits": b'"seed":' + b"1" * ROOM + b"}",
        "a float of a million digits": b'"temperature":0.' + b"1" * ROOM + b"}",
        "a huge exponent": b'"temperature":1e999999999}',
        "minus zero": b'"seed":-0,"temperature":-0.0}',
        "NaN": b'"temperature":NaN}',
        "lone surrogates": b'"stop":["\\ud800","\\udfff"]}',
        "surrogates in names": b'"\\ud800":1}',
        "escapes": b'"user":"' + b"\\u0000" * 150_000 + b'"}',
        "double names": b'"seed":1,' * 80_000 + b'"seed":1}',
        "not UTF-8": b'"user":"\xff\xfe"}',
        "UTF-16": '"user":"x"}'.encode("utf-16"),
        "cut": b'"user":"',
        "white space": b" " * ROOM + b'"user":"x"}',
    }.items():
        yield f"raw: {name}", CHAT, head + more
    yield "raw: nothing", CHAT, b""
    yield "raw: zeros", CHAT, b"\0" * ROOM


def mutants(rng: random.Random) -> Thrown:
    """Without end. Each is named by its number: the generator's seed brings it back."""
    seeds = [
        (CHAT, _ask(stop=["x"], temperature=0.5, logit_bias={"5": 1}, stream=True)),
        (CHAT, _schema({"type": "object", "properties": {"a": {"type": "integer"}}})),
        (CHAT, _ask(grammar='root ::= "yes" | "no"')),
        (COMPLETION, dump({"prompt": ["a", [1, 2]], "logprobs": 3, "n": 2, "max_tokens": 4})),
        (GENERATE, dump({"prompt": "Hi \U0001f600", "max_tokens": 4, "return_progress": True, "stream": True})),
        ("/tokenize", dump({"content": "Hi <s>", "with_pieces": True})),
        ("/detokenize", dump({"tokens": [1, 2, 3]})),
    ]
    number = 0
    while True:
        path, data = seeds[rng.randrange(len(seeds))]
        yield f"mutant {number}", path, mutate(data, rng)
        number += 1


_TOKENS = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"1e9",
    b"-1",
    b"\\ud800",
    b"\xff",
    b"\0",
    b"99999999999999",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: a bit, a byte's loss, a piece doubled, moved or cut, or a word of JSON put in."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(1, 12))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:at] + data[at:end] * rng.choice((2, 3, 1000)) + data[end:]
        elif kind == 3:
            to = rng.randrange(len(data) + 1)
            data = data[:to] + data[at:end] + data[to:]
        elif kind == 4 and rng.random() < 0.2:
            data = data[:at]
        else:
            data = data[:at] + rng.choice(_TOKENS) + data[at:]
    return data
