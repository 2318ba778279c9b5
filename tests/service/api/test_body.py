"""Bodies in, with every limit. How single values are read is here too, through the bodies that hold them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api import body as bodies
from service.api.reply import error_body
from service.errors import BadRequest, UnsupportedMedia
from service.request import SamplingParams

HELLO = [{"role": "user", "content": "hi"}]


def parse(data: bytes | str, content_type: str | None = "application/json") -> dict[str, Any]:
    return bodies.parse_json(content_type, data if isinstance(data, bytes) else data.encode())


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
        ({"max_tokens": 1.5}, "max_tokens", "max_tokens: is a number, must be a whole number from 1 to 400"),
        ({"n_predict": 401}, "n_predict", "n_predict=401: must be a whole number from 1 to 400, or -1"),
        ({"max_tokens": True}, "max_tokens", "max_tokens: is a boolean, must be a whole number"),
        ({"max_tokens": "9"}, "max_tokens", "max_tokens: is a string, must be a whole number"),
        ({"temperature": -0.1}, "temperature", "temperature=-0.1: must be a number from 0 to 2"),
        ({"temperature": 2.5}, "temperature", "temperature=2.5: must be a number from 0 to 2"),
        ({"temperature": 1e999}, "temperature", "temperature=a number of many digits: must be"),
        ({"temperature": []}, "temperature", "temperature: is a list, must be a number"),
        ({"top_p": 1.01}, "top_p", "top_p=1.01: must be a number from 0 to 1"),
        ({"top_k": -1}, "top_k", "top_k=-1: must be a whole number from 0 to 1000000"),
        ({"top_k": 1.5}, "top_k", "top_k: is a number, must be a whole number"),
        ({"seed": 2**63}, "seed", "seed=a number of many digits: must be a whole number from -9223372036854775808"),
        ({"min_p": 1.5}, "min_p", "min_p=1.5: must be a number from 0 to 1"),
        ({"repeat_penalty": 0}, "repeat_penalty", "repeat_penalty=0: must be a number from 0.1 to 10"),
        ({"frequency_penalty": -2.1}, "frequency_penalty", "frequency_penalty=-2.1: must be a number from -2 to 2"),
        ({"presence_penalty": 3}, "presence_penalty", "presence_penalty=3: must be a number from -2 to 2"),
        ({"stop": 5}, "stop", "stop: is a number, must be a string or a list of at most 16 strings"),
        ({"stop": [""]}, "stop", "stop[0]: has 0 characters"),
        ({"stop": ["x" * 257]}, "stop", "stop[0]: has 257 characters"),
        ({"stop": ["x"] * 17}, "stop", "stop: holds 17 strings"),
        ({"stop": [1]}, "stop[0]", "stop[0]: is a number, must be a string"),
        ({"stream": 1}, "stream", "stream: is a number, must be true or false"),
        ({"stream_options": {}}, "stream_options", "only allowed with stream=true"),
        ({"stream": True, "stream_options": 1}, "stream_options", "stream_options: is a number, must be an object"),
        (
            {"stream": True, "stream_options": {"include_usage": "y"}},
            "stream_options.include_usage",
            "must be true or false",
        ),
        ({"model": 1}, "model", "model: is a number, must be a string"),
        ({"best_of": 2}, "best_of", "best_of: this service supports only 1"),
        ({"best_of": True}, "best_of", "best_of: this service supports only 1"),
        ({"echo": True}, "echo", "echo: this service supports only false"),
        ({"tools": [{}]}, "tools", "tools: this service supports only []"),
        ({"mirostat": 2}, "mirostat", "mirostat: this service supports only 0"),
        ({"tool_choice": "required"}, "tool_choice", 'tool_choice: this service supports only "none" or "auto"'),
        (
            {"response_format": {"type": "sound"}},
            "response_format.type",
            "response_format.type=sound: must be one of text",
        ),
        ({"logit_bias": {"a": 1}}, "logit_bias[a]", "logit_bias[a]: is a string, must be a whole number from 0"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]", "logit_bias[1]=101: must be a number from -100 to 100"),
        ({"max_tokenz": 5}, "max_tokenz", "max_tokenz: no such parameter"),
        ({"messages": HELLO}, "messages", "messages: no such parameter"),
    ],
)
@pytest.mark.parametrize("parse_body", [bodies.parse_generate, bodies.parse_completion])
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
    assert message in refusal(bodies.parse_chat, {"messages": messages}).message


def test_messages_are_text_in_the_end():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask = bodies.parse_chat(
        {"messages": [{"role": "developer", "content": "be kind", "name": "x"}, {"role": "user", "content": parts}]},
        400,
    )
    assert ask.messages == ({"role": "system", "content": "be kind"}, {"role": "user", "content": "ab"})


def test_values_that_mean_nothing_are_accepted():
    body = {"prompt": "hi", "user": "me", "metadata": {"a": "b"}, "n": 1, "best_of": 1, "echo": False, "suffix": None}
    body |= {"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "tools": None, "temperature": None}
    assert bodies.parse_completion(body, 400).prompts == ("hi",)


@pytest.mark.parametrize(
    "sent",
    [
        {"stream": True, "stream_options": {"include_usage": True}, "n": 1, "temperature": 0.7},  # LangChain
        {
            "parallel_tool_calls": True,
            "tools": [],
            "tool_choice": "none",
            "user": "x",
            "store": False,
        },  # openai, agents
        {"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1, "repeat_last_n": 64},  # Open WebUI
        {"cache_prompt": True, "id_slot": -1, "timings_per_token": True, "return_progress": True, "n_predict": -1},
        {"samplers": None, "dynatemp_range": 0, "xtc_probability": 0, "typical_p": 1, "dry_multiplier": 0.0},
        {"reasoning_format": "auto", "mirostat": 0, "n_keep": 0, "seed": -1, "backend_sampling": False},
        {"response_format": {"type": "text"}, "logprobs": False, "top_logprobs": None, "logit_bias": {}, "stop": []},
    ],
)
def test_what_clients_send_unasked_is_accepted(sent: dict[str, Any]):
    assert bodies.parse_chat({"model": "any", "messages": HELLO, **sent}, 400).messages


def test_generate_is_a_question_to_the_model():
    assert bodies.parse_generate({"prompt": "hi"}, 400).messages == ({"role": "user", "content": "hi"},)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_every_name_of_the_token_limit_works(name: str):
    ask = bodies.parse_chat({"messages": HELLO, name: 7}, 400)
    assert (ask.max_tokens, ask.max_tokens_param) == (7, name)
    assert f"{name}=0" in refusal(bodies.parse_chat, {"messages": HELLO, name: 0}).message


def test_only_n_predict_knows_minus_one():
    """It is llama-server's word for no limit; OpenAI refuses it."""
    assert bodies.parse_chat({"messages": HELLO, "n_predict": -1}, 400).max_tokens is None
    for name in ("max_tokens", "max_completion_tokens"):
        assert f"{name}=-1: must be" in refusal(bodies.parse_chat, {"messages": HELLO, name: -1}).message


def test_smallest_of_several_token_limits_holds():
    ask = bodies.parse_chat({"messages": HELLO, "max_tokens": 9, "max_completion_tokens": 7, "n_predict": -1}, 400)
    assert (ask.max_tokens, ask.max_tokens_param) == (7, "max_completion_tokens")


@pytest.mark.parametrize(
    ("seed", "means"),
    [(-1, None), (0, 0), (7, 7), (-2, 2**32 - 3), (2**32 - 1, 0), (2**63 - 1, (2**63 - 1) % (2**32 - 1)), (7.0, 7)],
)
def test_any_64_bit_seed_becomes_one_of_llama_cpps(seed: float, means: int | None):
    """llama.cpp takes 2**32 - 1 itself for "any seed", so no seed may become that."""
    ask = bodies.parse_chat({"messages": HELLO, "seed": seed}, 400)
    assert bodies.limit_to_context(ask, 5, 512, 400).seed == means


def test_choices_have_seeds_of_their_own():
    assert [bodies.choice_seed(2**32 - 3, i) for i in range(3)] == [2**32 - 3, 2**32 - 2, 0]
    assert bodies.choice_seed(None, 3) is None


@pytest.mark.parametrize(
    ("parse_body", "body", "n_logprobs"),
    [
        (bodies.parse_chat, {}, None),
        (bodies.parse_chat, {"logprobs": False, "top_logprobs": 0}, None),
        (bodies.parse_chat, {"logprobs": True}, 0),
        (bodies.parse_chat, {"logprobs": True, "top_logprobs": 20}, 20),
        (bodies.parse_completion, {"logprobs": None}, None),
        (bodies.parse_completion, {"logprobs": 0}, 0),
        (bodies.parse_completion, {"logprobs": 5}, 5),
        (bodies.parse_generate, {"logprobs": False}, None),
    ],
)
def test_logprobs_are_asked_for_in_each_routes_way(parse_body: Any, body: dict[str, Any], n_logprobs: int | None):
    asked = {"messages": HELLO} if parse_body is bodies.parse_chat else {"prompt": "hi"}
    assert parse_body({**asked, **body}, 400).n_logprobs == n_logprobs


@pytest.mark.parametrize(
    ("parse_body", "body", "message"),
    [
        (bodies.parse_chat, {"top_logprobs": 2}, "top_logprobs: only allowed with logprobs=true"),
        (bodies.parse_chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs=21: must be a whole number from 0"),
        (bodies.parse_chat, {"logprobs": 1}, "logprobs: is a number, must be true or false"),
        (bodies.parse_chat, {"n": 9}, "n=9: must be a whole number from 1 to 8"),
        (bodies.parse_completion, {"logprobs": 6}, "logprobs=6: must be a whole number from 0 to 5"),
        (bodies.parse_completion, {"prompt": ["a"] * 3, "n": 3}, "n=3: 3 prompts make 9 answers, at most 8"),
        (bodies.parse_completion, {"prompt": ["a"] * 9}, "prompt: holds 9 prompts, at most 8"),
        (bodies.parse_generate, {"n": 2}, "n: this service supports only 1"),
        (bodies.parse_generate, {"logprobs": True}, "logprobs: this service supports only false or 0"),
        (bodies.parse_chat, {"grammar": "root ::= [a]", "json_schema": {}}, "grammar: json_schema is there already"),
        (
            bodies.parse_chat,
            {"grammar": "root ::= [a]", "response_format": {"type": "json_object"}},
            "grammar: response_format is there already, at most one is allowed",
        ),
    ],
)
def test_faults_of_one_route_are_told(parse_body: Any, body: dict[str, Any], message: str):
    asked = {"messages": HELLO} if parse_body is bodies.parse_chat else {"prompt": "hi"}
    assert message in refusal(parse_body, {**asked, **body}).message


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
    ask = bodies.parse_completion({"prompt": "x", **body}, 400)
    with pytest.raises(BadRequest) as caught:
        bodies.limit_to_context(ask, n_prompt, 512, 400)
    assert caught.value.message == message


@pytest.mark.parametrize(("n_prompt", "n_tokens"), [(10, 400), (500, 12), (511, 1)])
def test_unsaid_limit_is_what_fits(n_prompt: int, n_tokens: int):
    ask = bodies.parse_completion({"prompt": "x"}, 400)
    assert bodies.limit_to_context(ask, n_prompt, 512, 400).max_tokens == n_tokens


def test_stop_strings_of_the_template_are_added():
    ask = bodies.parse_generate({"prompt": "x", "stop": "a"}, 400)
    assert bodies.limit_to_context(ask, 5, 512, 400, ("b",)).stop == ("a", "b")


def test_body_wins_over_the_model_and_the_model_over_the_table():
    ask = bodies.parse_generate({"prompt": "x", "top_k": 7}, 400)
    params = bodies.limit_to_context(ask, 5, 512, 400, defaults={"temperature": 0.0, "top_k": 3})
    assert (params.top_k, params.temperature, params.top_p) == (7, 0.0, 0.95)


def test_defaults_of_the_table_are_those_of_sampling_params():
    """Two homes of one fact: a request the engine makes for itself samples like one that asks for nothing."""
    params = SamplingParams(max_tokens=1)
    assert {name: getattr(params, name) for name in bodies.FIELDS} == bodies.sampling_defaults({})


def test_tokens_beyond_the_vocabulary_are_refused():
    bodies.check_vocabulary(bodies.parse_completion({"prompt": [1, 258], "logit_bias": {"258": 1}}, 400), 259)
    for body, message in (
        ({"prompt": [1, 259]}, "prompt: token 259 is not in the vocabulary, which ends at 258"),
        ({"prompt": ["a", [300]]}, "prompt[1]: token 300 is not in"),
        ({"prompt": "a", "logit_bias": {"259": 1}}, "logit_bias: token 259 is not in"),
    ):
        with pytest.raises(BadRequest) as caught:
            bodies.check_vocabulary(bodies.parse_completion(body, 400), 259)
        assert message in caught.value.message


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_prompt_is_put_before_chats_without_one(role: str):
    plain = bodies.parse_chat({"messages": HELLO}, 400).messages
    assert bodies.add_system(plain, "be kind") == ({"role": "system", "content": "be kind"}, *HELLO)
    assert bodies.add_system(plain, "") == plain
    own = bodies.parse_chat({"messages": [{"role": role, "content": "be brief"}, *HELLO]}, 400).messages
    assert bodies.add_system(own, "be kind") == own


def test_tokenize_has_llama_servers_defaults():
    asked = bodies.parse_tokenize({"content": ""})
    assert asked == {"content": "", "add_special": False, "parse_special": True, "with_pieces": False}
    with pytest.raises(BadRequest, match="content: is missing"):
        bodies.parse_tokenize({})
    with pytest.raises(BadRequest, match=r"tokens\[1\]=-1: must be a whole number from 0"):
        bodies.parse_detokenize({"tokens": [1, -1]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({*bodies.chat_parameters(400), *bodies.completion_parameters(400)})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_any_body_is_parsed_or_refused_but_never_crashes(body: dict[str, Any]):
    for parse_body in (bodies.parse_generate, bodies.parse_completion, bodies.parse_chat):
        try:
            parse_body(body, 400)
        except BadRequest as error:
            json.dumps(error_body(error)).encode()
