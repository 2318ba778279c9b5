"""Messages to text by the model's template, in a sandbox; text to tokens with one BOS."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from service.chat.prompt import FALLBACK_STOP, Prompter
from service.errors import BadRequest, ModelFatal, ServiceError
from tests.fakes import ANSWER, BOS, FakeModel

HELLO = [{"role": "user", "content": "hi"}]

TINYLLAMA = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""


def make(template: str | None, **changes: Any) -> Prompter:
    return Prompter(FakeModel(chat_template=template), **changes)


def test_template_of_the_model_is_used():
    """As Hugging Face renders TinyLlama's: blocks leave no blank lines behind."""
    assert make(TINYLLAMA).render(HELLO) == "<|user|>\nhi</s>\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "22 Nov 2026"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ {'a': '<é>'} | tojson(indent=2) }}", '{\n  "a": "<é>"\n}'),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% generation %}{{ bos_token }}{% endgeneration %}", "<s>"),
        ("{% if tools %}t{% endif %}{{ messages[0].content }}", "hi"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
    ],
)
def test_what_templates_expect_is_there(template: str, text: str):
    assert make(template, now=lambda: datetime(2026, 11, 22)).render(HELLO) == text


def test_model_without_a_template_gets_phi_2s():
    prompter = make(None)
    talk = [*HELLO, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]
    assert prompter.render(talk) == "Instruct: hi\nOutput: yes\nInstruct: why?\nOutput:"
    assert prompter.stop == FALLBACK_STOP
    assert make("x").stop == ()


def test_refusal_of_the_template_is_the_clients_fault():
    prompter = make("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadRequest, match="refuses them: roles must alternate"):
        prompter.render(HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__['os'].system('true') }}",
        "{{ missing.attribute }}",
    ],
)
def test_template_cannot_leave_the_sandbox(template: str):
    with pytest.raises(ServiceError, match="template failed"):
        make(template).render(HELLO)


def test_broken_template_stops_the_start():
    with pytest.raises(ModelFatal, match="not valid Jinja"):
        make("{% if %}")


@pytest.mark.parametrize("text", ["hi", "<s>hi"])
def test_bos_comes_once(text: str):
    assert make("x").encode(text) == [BOS, *b"hi"]


def test_chat_is_rendered_and_encoded():
    assert Prompter(FakeModel()).encode_chat(HELLO) == [BOS, *b"[user]hi\n", ANSWER]
