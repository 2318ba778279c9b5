"""Prompts, messages and biases: every form that is taken, and what each form's faults are called."""

from __future__ import annotations

import math
from typing import Any

import pytest

from service.api import content as value
from service.errors import BadRequest


def refusal(parameter: Any, given: Any, name: str) -> str:
    with pytest.raises(BadRequest) as caught:
        parameter.read(given, name)
    return caught.value.message


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("hi", ("hi",)),
        (["hi"], ("hi",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ([1, 2],)),
        ([[1], [2, 3]], ([1], [2, 3])),
        ([[1], "b"], ([1], "b")),
    ],
)
def test_prompts_are_text_or_tokens_one_or_several(given: Any, prompts: Any):
    assert value.PROMPTS.read(given, "prompt") == prompts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "prompt: is a number, must be a string, a list of token ids, or a list of such prompts"),
        ({}, "prompt: is an object"),
        ([], "prompt: is empty, must hold text or token ids"),
        ([[]], "prompt[0]: is empty, must hold token ids"),
        (["a", ""], "prompt[1]: is empty, must hold text"),
        (["a", 1], "prompt[1]: is a number, must be a string"),
        ([1, "a"], "prompt[1]: is a string, must be a whole number from 0 to 2147483647"),
        ([[1], [True]], "prompt[1][0]: is a boolean, must be a whole number"),
        ([1, -1], "prompt[1]=-1: must be a whole number"),
        ([None], "prompt[0]: is null, must be a whole number"),
    ],
)
def test_faults_in_prompts_name_the_place(given: Any, message: str):
    assert message in refusal(value.PROMPTS, given, "prompt")


@pytest.mark.parametrize(
    ("given", "biases"),
    [
        ({}, ()),
        ({"5": -100, "007": 1.5}, ((5, -100.0), (7, 1.5))),
        ([[5, -100], [7, False]], ((5, -100.0), (7, -math.inf))),
    ],
)
def test_biases_are_openais_object_or_llama_servers_list(given: Any, biases: Any):
    assert value.LOGIT_BIAS.read(given, "logit_bias") == biases


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("x", "logit_bias: is a string, must be an object of token id and bias"),
        ([5], "logit_bias: is a number, must be [token id, bias]"),
        ([[5]], "logit_bias: is a list, must be [token id, bias]"),
        ([[5, True]], "logit_bias[5]: is a boolean, must be a number from -100 to 100"),
        ({"5": False}, "logit_bias[5]: is a boolean"),
        ({"-5": 1}, "logit_bias[-5]: is a string, must be a whole number"),
        ({"9999999999": 1}, "logit_bias[9999999999]: is a string"),
        ({str(i): 1 for i in range(1025)}, "logit_bias: holds 1025 tokens, at most 1024"),
    ],
)
def test_faults_in_biases_name_the_token(given: Any, message: str):
    assert message in refusal(value.LOGIT_BIAS, given, "logit_bias")


def test_what_openais_client_sends_back_of_an_answer_is_taken():
    """`messages.append(answer.choices[0].message.model_dump())` is how its users go on."""
    said = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "annotations": [], "audio": None}
    read = value.MESSAGES.read([said | {"reasoning_content": "hm"}], "messages")
    assert read == ({"role": "assistant", "content": "hi"},)


@pytest.mark.parametrize("key", ["tool_calls", "function_call", "prefix"])
def test_message_that_says_more_than_text_is_refused(key: str):
    message = {"role": "assistant", "content": "hi", key: [{"id": 1}]}
    assert refusal(value.MESSAGES, [message], "messages") == f"messages[0].{key}: is not supported"
