"""The API as its clients use it: the official openai client, and what clients of llama-server look for.

The behaviour is that of the tests llama.cpp has for its own server, where it makes sense here. No sockets: the client's
HTTP goes straight through the WSGI door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from service.api.app import make_app
from service.api.keys import Keys
from service.metrics import Metrics
from service.request import Done, FinishReason, Piece, Progress, Timings, TokenLogprob
from tests.service.door import Running, ScriptedEngine, make_config, run_service, script

KEY = "sk-0123456789abcdef"
HI: list[Any] = [{"role": "user", "content": "hi"}]
DONE = Done(FinishReason.STOP, 11, 2, 4, Timings(0.0, 0.5, 0.25))
WORDS = ("He", "llo")
PIECES = [
    Piece(word, (TokenLogprob(i, word.encode(), -0.5, ((i, word.encode(), -0.5), (9, b"x", -1.5))),))
    for i, word in enumerate(WORDS)
]


@pytest.fixture
def service() -> Iterator[Running]:
    with run_service(max_queue=8) as running:
        yield running


def connect(app: Callable[..., Any], key: str = "none") -> openai.OpenAI:
    http = httpx.Client(transport=httpx.WSGITransport(app=app))
    return openai.OpenAI(base_url="http://localhost/v1", api_key=key, max_retries=0, http_client=http)


@pytest.fixture
def client(service: Running) -> openai.OpenAI:
    return connect(service.door.app)


# openai


@pytest.mark.parametrize("key", ["", "wrong-wrong-wrong", KEY[:-1]])
def test_wrong_key_is_an_authentication_error(key: str):
    app = make_app(make_config(), ScriptedEngine(), Metrics(), keys=Keys([KEY]))
    with pytest.raises(openai.AuthenticationError) as caught:
        connect(app, key or "none").chat.completions.create(model="m", messages=HI)
    assert caught.value.status_code == 401 and caught.value.code == "invalid_api_key"


def test_right_key_is_let_in():
    app = make_app(make_config(), ScriptedEngine(Piece("a"), DONE), Metrics(), keys=Keys([KEY]))
    assert connect(app, KEY).chat.completions.create(model="m", messages=HI).choices[0].message.content == "a"


def test_n_gives_that_many_choices(client: openai.OpenAI):
    answer = client.chat.completions.create(model="m", messages=HI, n=2, seed=1, extra_body={"id_slot": 0})
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "You said: hi", "stop"),
        (1, "You said: hi", "stop"),
    ]


def test_chat_logprobs_put_together_are_the_text():
    _, door = script(*PIECES, DONE)
    answer = connect(door.app).chat.completions.create(model="m", messages=HI, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == answer.choices[0].message.content == "Hello"
    assert all(token.logprob <= 0 and token.bytes and len(token.top_logprobs) == 2 for token in content)


def test_streamed_logprobs_come_with_their_pieces():
    _, door = script(*PIECES, DONE)
    stream = connect(door.app).chat.completions.create(
        model="m", messages=HI, logprobs=True, top_logprobs=2, stream=True
    )
    first, *chunks, last = stream
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    for chunk, word in zip(chunks, WORDS, strict=True):
        assert chunk.choices[0].delta.role is None
        assert (
            [token.token for token in chunk.choices[0].logprobs.content] == [chunk.choices[0].delta.content] == [word]
        )
    assert last.choices[0].finish_reason == "stop"


def test_completion_logprobs_are_lists():
    _, door = script(*PIECES, DONE)
    choice = connect(door.app).completions.create(model="m", prompt="x", logprobs=2).choices[0]
    assert choice.logprobs.tokens == list(WORDS) and choice.logprobs.text_offset == [0, 2]
    assert choice.logprobs.token_logprobs == [-0.5, -0.5]
    assert choice.logprobs.top_logprobs == [{"He": -0.5, "x": -1.5}, {"llo": -0.5, "x": -1.5}]


def test_usage_tells_of_cached_tokens():
    _, door = script(Piece("a"), DONE)
    usage = connect(door.app).chat.completions.create(model="m", messages=HI).usage
    assert usage.prompt_tokens_details.cached_tokens == 4 and usage.total_tokens == 13


def test_structured_output_of_the_clients_helper_reaches_the_model():
    import pydantic

    class Point(pydantic.BaseModel):
        x: int

    engine, door = script(Piece('{"x":5}'), DONE)
    answer = connect(door.app).chat.completions.parse(model="m", messages=HI, response_format=Point)
    assert answer.choices[0].message.parsed == Point(x=5)
    assert engine.requests[0].params.constraint.grammar.schema["required"] == ["x"]


def test_tokens_are_a_prompt_as_good_as_their_text(client: openai.OpenAI, service: Running):
    tokens = service.door.post("/tokenize", {"content": "abc", "add_special": True}).json["tokens"]
    for prompt in (tokens, [tokens], [tokens, "abc"], ["abc", tokens]):
        choices = client.completions.create(model="m", prompt=prompt, max_tokens=3).choices
        assert {choice.text for choice in choices} == {"def"}


def test_conversation_goes_on_with_what_the_client_was_given(client: openai.OpenAI):
    messages = list(HI)
    message = client.chat.completions.create(model="m", messages=messages).choices[0].message
    messages += [message.model_dump(), {"role": "user", "content": "more"}]
    assert client.chat.completions.create(model="m", messages=messages).choices[0].message.content == "You said: more"


# llama-server


def test_last_chunk_has_the_timings_and_no_other():
    _, door = script(*PIECES, DONE)
    body = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}, "timings_per_token": True}
    *chunks, last, end = door.post("/v1/chat/completions", body).events
    assert end == "[DONE]" and last["choices"] == [] and not any("timings" in chunk for chunk in chunks)
    timings = last["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (4, 7, 2)
    assert (timings["prompt_per_second"], timings["predicted_per_second"]) == (14.0, 8.0)


def test_progress_grows_to_the_whole_prompt():
    steps = [Progress(0, 1.0, n, 2) for n in (2, 8, 11)]
    _, door = script(*steps, Piece("a"), DONE)
    body = {"messages": HI, "stream": True, "return_progress": True, "max_tokens": 10}
    chunks = [chunk for chunk in door.post("/v1/chat/completions", body).events if "prompt_progress" in chunk]
    seen = [chunk["prompt_progress"] for chunk in chunks]
    assert seen[0]["cache"] == seen[0]["processed"] == 2
    assert [step["processed"] for step in seen] == [2, 8, 11] and seen[-1]["total"] == 11


@pytest.mark.parametrize(
    ("format", "status"),
    [
        ({"type": "json_object", "schema": {"const": "42"}}, 200),
        ({"type": "json_schema", "json_schema": {"schema": {"const": "foooooo"}}}, 200),
        ({"type": "json_object"}, 200),
        ({"type": "sound"}, 400),
        ({"type": "json_object", "schema": 123}, 400),
        ({"type": "json_object", "schema": {"type": "hiccup"}}, 400),
    ],
)
def test_response_formats(service: Running, format: dict[str, Any], status: int):
    body = {"messages": HI, "response_format": format, "max_tokens": 5}
    assert service.door.post("/v1/chat/completions", body).status == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"json_schema": {"const": "42"}}, 200),
        ({"grammar": 'root ::= "a"{5,5}'}, 200),
        ({"grammar": "this is (not valid GBNF"}, 400),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, 400),
    ],
)
def test_grammars(service: Running, body: dict[str, Any], status: int):
    assert service.door.post("/v1/chat/completions", {"messages": HI, "max_tokens": 5, **body}).status == status


@pytest.mark.parametrize(
    "messages",
    [
        None,
        "string",
        [123],
        [{}],
        [{"role": 123}],
        [{"role": "system", "content": 123}],
        [*HI, {}],
        [{"content": "hi"}],
    ],
)
def test_messages_that_are_none_are_refused(service: Running, messages: Any):
    assert service.door.post("/v1/chat/completions", {"messages": messages}).status == 400


@pytest.mark.parametrize("stream", [False, True])
def test_conversation_beyond_the_context_is_400_before_any_event(service: Running, stream: bool):
    reply = service.door.post("/v1/chat/completions", {"messages": HI * 100, "stream": stream})
    assert reply.status == 400 and reply.error["code"] == "context_length_exceeded"
    assert reply.error["message"] == "messages: uses 902 tokens; the context holds 512, so at most 511"


@pytest.mark.parametrize(("n_predict", "n_output"), [(64, 64), (-1, 400)])
def test_n_predict_is_a_limit_or_none(service: Running, n_predict: int, n_output: int):
    reply = service.door.post("/v1/completions", {"prompt": "abc", "n_predict": n_predict}).json
    assert reply["timings"]["predicted_n"] == n_output and reply["choices"][0]["finish_reason"] == "length"


def test_parts_of_a_message_are_put_together(service: Running):
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " best"}]
    reply = service.door.post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}).json
    assert reply["choices"][0]["message"]["content"] == "You said: What is best"
