"""Bodies in, with every limit; bodies out, in OpenAI's shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import schema
from service.errors import BadRequest, ServiceError, UnsupportedMedia
from service.request import Done, FinishReason

HELLO = [{"role": "user", "content": "hi"}]


def parse(data: bytes | str, content_type: str | None = "application/json") -> dict[str, Any]:
    return schema.parse_json(content_type, data if isinstance(data, bytes) else data.encode())


def refusal(parse_body: Any, body: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_body(body, 400)
    return caught.value


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken(content_type: str):
    assert parse('{"prompt":"é"}', content_type) == {"prompt": "é"}


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_other_content_types_are_415(content_type: str | None):
    with pytest.raises(UnsupportedMedia, match="must be application/json"):
        parse("{}", content_type)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the body is not JSON"),
        (b'{"a":', "the body is not JSON: Expecting value: line 1 column 6"),
        (b'{"a":1}{', "the body is not JSON: Extra data"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b"\xff{}", "the body is not UTF-8: byte 0 is 0xff"),
        (b"[" * 100000, "nested too deeply"),
        (b'{"a":' + b"9" * 5000 + b"}", "a number is too long"),
        (b"[]", "the body is a list: must be a JSON object"),
        (b"null", "the body is null"),
        (b'"x"', "the body is a string"),
    ],
)
def test_malformed_bodies_say_what_is_wrong(data: bytes, message: str):
    with pytest.raises(BadRequest) as caught:
        parse(data)
    assert message in caught.value.message and caught.value.status == 400


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"prompt": None}, "prompt", "prompt: is missing"),
        ({"prompt": ""}, "prompt", "prompt: is empty, must hold text"),
        ({"prompt": " \n"}, "prompt", "prompt: is empty, must hold text"),
        ({"prompt": 5}, "prompt", "prompt: is a number, must be a string"),
        ({"prompt": "a\ud800"}, "prompt", "prompt: character 1 is half of a surrogate pair"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens=0: must be a whole number from 1 to 400"),
        ({"max_tokens": 401}, "max_tokens", "max_tokens=401: must be a whole number from 1 to 400"),
        ({"max_tokens": 10**300}, "max_tokens", "max_tokens=a number of many digits: must be"),
        ({"max_tokens": 1.0}, "max_tokens", "max_tokens: is a number, must be a whole number from 1 to 400"),
        ({"max_tokens": True}, "max_tokens", "max_tokens: is a boolean, must be a whole number"),
        ({"max_tokens": "9"}, "max_tokens", "max_tokens: is a string, must be a whole number"),
        ({"temperature": -0.1}, "temperature", "temperature=-0.1: must be a number from 0 to 2"),
        ({"temperature": 2.5}, "temperature", "temperature=2.5: must be a number from 0 to 2"),
        ({"temperature": 1e999}, "temperature", "temperature=a number of many digits: must be"),
        ({"temperature": []}, "temperature", "temperature: is a list, must be a number"),
        ({"top_p": 1.01}, "top_p", "top_p=1.01: must be a number from 0 to 1"),
        ({"top_k": -1}, "top_k", "top_k=-1: must be a whole number from 0 to 1000000"),
        ({"top_k": 1.5}, "top_k", "top_k: is a number, must be a whole number"),
        ({"seed": -1}, "seed", "seed=-1: must be a whole number from 0 to 4294967295"),
        ({"stop": 5}, "stop", "stop: is a number, must be a string or a list of at most 16 strings"),
        ({"stop": [""]}, "stop", "stop[0]: has 0 characters"),
        ({"stop": ["x" * 257]}, "stop", "stop[0]: has 257 characters"),
        ({"stop": ["x"] * 17}, "stop", "stop: holds 17 strings"),
        ({"stop": [1]}, "stop[0]", "stop[0]: is a number, must be a string"),
        ({"stream": 1}, "stream", "stream: is a number, must be true or false"),
        ({"stream_options": {}}, "stream_options", "only allowed with stream=true"),
        ({"stream": True, "stream_options": 1}, "stream_options", "stream_options: must be an object"),
        (
            {"stream": True, "stream_options": {"include_usage": "y"}},
            "stream_options.include_usage",
            "must be true or false",
        ),
        ({"model": 1}, "model", "model: is a number, must be a string"),
        ({"n": 2}, "n", "n: this service supports only 1"),
        ({"n": True}, "n", "n: this service supports only 1"),
        ({"logprobs": True}, "logprobs", "logprobs: this service supports only false or 0"),
        ({"echo": True}, "echo", "echo: this service supports only false"),
        ({"tools": [{}]}, "tools", "tools: this service supports only []"),
        ({"presence_penalty": 0.5}, "presence_penalty", "supports only 0"),
        ({"response_format": {"type": "json_object"}}, "response_format", "supports only"),
        ({"max_tokenz": 5}, "max_tokenz", "max_tokenz: no such parameter"),
        ({"messages": HELLO}, "messages", "messages: no such parameter"),
    ],
)
@pytest.mark.parametrize("parse_body", [schema.parse_generate, schema.parse_completion])
def test_faults_name_parameter_value_and_what_is_allowed(
    parse_body: Any, change: dict[str, Any], param: str, message: str
):
    error = refusal(parse_body, {"prompt": "hi", **change})
    assert message in error.message and error.param == param and error.status == 400


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "messages: is missing"),
        ([], "messages: must be a list of 1 to 1024 messages"),
        ("hi", "messages: must be a list of 1 to 1024 messages"),
        (HELLO * 1025, "messages: must be a list of 1 to 1024 messages"),
        (["hi"], "messages[0]: is a string, must be an object"),
        ([{"content": "x"}], "messages[0].role=null: must be one of system, developer, user, assistant"),
        ([{"role": "tool", "content": "x"}], "messages[0].role=tool: must be one of"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role=a list: must be one of"),
        ([*HELLO, {"role": "user"}], "messages[1].content: is null, must be a string"),
        ([{"role": "user", "content": " "}], "messages[0].content: is empty"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]: only parts of type text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text: is null"),
    ],
)
def test_faults_in_messages_name_the_place(messages: Any, message: str):
    assert message in refusal(schema.parse_chat, {"messages": messages}).message


def test_messages_are_text_in_the_end():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask = schema.parse_chat(
        {"messages": [{"role": "developer", "content": "be kind", "name": "x"}, {"role": "user", "content": parts}]},
        400,
    )
    assert ask.messages == ({"role": "system", "content": "be kind"}, {"role": "user", "content": "ab"})


def test_values_that_mean_nothing_are_accepted():
    body = {"prompt": "hi", "user": "me", "metadata": {"a": "b"}, "n": 1, "best_of": 1, "echo": False, "suffix": None}
    body |= {"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "tools": None, "temperature": None}
    assert schema.parse_completion(body, 400).text == "hi"


def test_prompt_may_be_a_list_of_one():
    assert schema.parse_completion({"prompt": ["hi"]}, 400).text == "hi"
    for prompt in (["a", "b"], [], [1, 2]):
        assert "exactly one string" in refusal(schema.parse_completion, {"prompt": prompt}).message


def test_generate_is_a_question_to_the_model():
    assert schema.parse_generate({"prompt": "hi"}, 400).messages == ({"role": "user", "content": "hi"},)


def test_both_names_of_the_token_limit_work():
    for name in ("max_tokens", "max_completion_tokens"):
        ask = schema.parse_chat({"messages": HELLO, name: 7}, 400)
        assert (ask.max_tokens, ask.max_tokens_param) == (7, name)
        assert f"{name}=0" in refusal(schema.parse_chat, {"messages": HELLO, name: 0}).message


@pytest.mark.parametrize(
    ("body", "n_prompt", "message"),
    [
        (
            {"max_tokens": 300},
            310,
            "max_tokens=300: the context holds 512 tokens and the prompt uses 310, so at most 202",
        ),
        ({}, 512, "prompt: uses 512 tokens; the context holds 512, so at most 511"),
        ({}, 0, "prompt: holds no tokens"),
    ],
)
def test_ask_must_fit_the_context(body: dict[str, Any], n_prompt: int, message: str):
    ask = schema.parse_completion({"prompt": "x", **body}, 400)
    with pytest.raises(BadRequest) as caught:
        schema.fit(ask, n_prompt, 512, 400)
    assert caught.value.message == message


@pytest.mark.parametrize(("n_prompt", "n_tokens"), [(10, 400), (500, 12), (511, 1)])
def test_unsaid_limit_is_what_fits(n_prompt: int, n_tokens: int):
    ask = schema.parse_completion({"prompt": "x"}, 400)
    assert schema.fit(ask, n_prompt, 512, 400).max_tokens == n_tokens


def test_stop_strings_of_the_template_are_added():
    ask = schema.parse_generate({"prompt": "x", "stop": "a"}, 400)
    assert schema.fit(ask, 5, 512, 400, ("b",)).stop == ("a", "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(schema.CHAT_NAMES | schema.GENERATE_NAMES | schema.IGNORED | set(schema.NEUTRAL))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_any_body_is_parsed_or_refused_but_never_crashes(body: dict[str, Any]):
    for parse_body in (schema.parse_generate, schema.parse_completion, schema.parse_chat):
        try:
            parse_body(body, 400)
        except BadRequest as error:
            json.dumps(schema.error_body(error))


def test_error_body_is_openais():
    error = ServiceError("no", param="p", code="c")
    assert schema.error_body(error) == {"error": {"message": "no", "type": "server_error", "param": "p", "code": "c"}}


DONE = Done(FinishReason.STOP, 3, 2)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_chat_chunks_are_openais():
    reply = schema.ChatReply("1", "m", wants_usage=False, created=9)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 9, "model": "m"}
    base = {"index": 0, "logprobs": None}
    assert reply.opening() == [
        {**head, "choices": [{**base, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    ]
    assert reply.piece("a") == {**head, "choices": [{**base, "delta": {"content": "a"}, "finish_reason": None}]}
    assert reply.closing(DONE) == [{**head, "choices": [{**base, "delta": {}, "finish_reason": "stop"}]}]


def test_usage_comes_in_a_last_chunk_without_choices_and_is_null_before():
    reply = schema.ChatReply("1", "m", wants_usage=True, created=9)
    assert reply.piece("a")["usage"] is None
    last, usage = reply.closing(DONE)
    assert last["usage"] is None and usage["usage"] == USAGE and usage["choices"] == []


def test_whole_answers_are_openais():
    chat = schema.ChatReply("1", "m", created=9).whole("hi", DONE)
    assert chat["object"] == "chat.completion" and chat["usage"] == USAGE
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    text = schema.CompletionReply("1", "m", created=9).whole("hi", DONE)
    assert text["object"] == "text_completion" and text["id"] == "cmpl-1"
    assert text["choices"] == [{"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}]


def test_event_is_one_line_of_data():
    """A newline in the text must not end the event."""
    assert schema.sse({"text": "a\n\nb"}) == b'data: {"text":"a\\n\\nb"}\n\n'
