"""Messages -> text by the model's own chat template, and text -> token ids.

The template is the GGUF's, never a client's, and even so it runs in Jinja's sandbox (CVE-2024-34359). A model without
one gets FALLBACK. Knows nothing of HTTP, sampling or threads; safe to call from any thread.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import BadRequest, ModelFatal, ServiceError
from ..protocol import Vocabulary

log = logging.getLogger(__name__)

# Phi-2's form, from its model card: the one base model in the catalogue whose GGUF carries no template.
FALLBACK = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}Output: {{ message.content }}
{% elif message.role == 'user' -%}Instruct: {{ message.content }}
{% else -%}{{ message.content }}
{% endif -%}
{%- endfor -%}
Output:"""
FALLBACK_STOP = ("\nInstruct:",)


class TemplateRefusal(Exception):
    """The template's own raise_exception: these messages do not fit it."""


class Prompter:
    """Makes prompts for one model. `stop` holds strings that end an answer besides the model's own end token."""

    def __init__(self, vocabulary: Vocabulary, now: Callable[[], datetime] = datetime.now) -> None:
        self._vocabulary = vocabulary
        self.stop = () if vocabulary.chat_template else FALLBACK_STOP
        try:
            self._template = _make_environment(now).from_string(vocabulary.chat_template or FALLBACK)
        except jinja2.TemplateError as error:
            raise ModelFatal(f"the model's chat template is not valid Jinja: {error}") from error

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages of {role, content} -> the text the model was trained to continue. Raises BadRequest."""
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=self._vocabulary.bos_text,
                eos_token=self._vocabulary.eos_text,
                tools=None,
                documents=None,
            )
        except TemplateRefusal as error:
            raise BadRequest(f"messages: the model's chat template refuses them: {error}", param="messages") from error
        except Exception as error:
            log.exception("the model's chat template failed")
            raise ServiceError("the model's chat template failed on these messages", code="template_failed") from error

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode(self.render(messages))

    def encode(self, text: str) -> list[int]:
        """Text -> token ids with the vocabulary's BOS, once: many templates write it themselves."""
        bos = self._vocabulary.bos_text
        if self._vocabulary.adds_bos and bos:
            text = text.removeprefix(bos)
        return self._vocabulary.tokenize(text, add_special=True, parse_special=True)


def _make_environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """What templates written for Hugging Face's apply_chat_template expect to find."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


def _to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own escapes for HTML


def _refuse(message: str) -> None:
    raise TemplateRefusal(message)


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %} marks training text; for us it is just its contents."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
