"""JSON bodies -> Ask, with every limit checked; what a body may hold is in tables that /openapi.json is made from too.

FIELDS is the table of sampling parameters and their ranges. A parameter of OpenAI's or llama-server's that this service
does not have is accepted only with the value that means "off" (NEUTRAL) or if it says nothing about the answer
(IGNORED), so no client gets an answer to another question than it asked. Knows nothing of HTTP libraries, threads or
the model.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import BadRequest, UnsupportedMedia
from ..request import SamplingParams
from .answer_format import GBNF, JSON_SCHEMA, RESPONSE_FORMAT, Grammar
from .check import (
    TOKENS_SCHEMA,
    Parameter,
    anything,
    check_characters,
    check_text,
    check_tokens,
    flag,
    name_type,
    number,
    only,
    read_body,
    text,
    whole,
)
from .content import LOGIT_BIAS, MAX_CHOICES, MESSAGES, PROMPT, PROMPTS, SALT, STOP, STREAM_OPTIONS

MAX_TOP_LOGPROBS = {"chat": 20, "completion": 5}
N_SEEDS = 2**32 - 1  # llama.cpp reads 2**32 - 1 itself as "take any"

FIELDS = {
    "temperature": number(0, 2, 0.8, "0 takes the likeliest token each time"),
    "top_p": number(0, 1, 0.95, "draw from the likeliest tokens that have this probability together"),
    "top_k": whole(0, 1_000_000, 40, "draw from this many likeliest tokens; 0: from all"),
    "min_p": number(0, 1, 0.05, "draw from tokens at least this probable, as a share of the likeliest one's"),
    "repeat_penalty": number(0.1, 10, 1.0, "above 1 makes tokens of the last 64 less likely"),
    "frequency_penalty": number(-2, 2, 0.0, "taken from a token's logit for each time it was said"),
    "presence_penalty": number(-2, 2, 0.0, "taken from a token's logit once it was said"),
    "seed": whole(-(2**63), 2**63 - 1, None, "the same seed gives the same answer; -1: any"),
}

# Says something about the caller, its wishes for speed, or what it would do with figures; never about the answer
IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("cache_prompt", "id_slot", "n_keep", "n_discard", "n_cache_reuse", "timings_per_token", "sse_ping_interval"),
    *("backend_sampling", "parallel_tool_calls"),
)

# Parameters we do not have, and the values that mean "off"; null always does
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "reasoning_format": ("none", "auto"),
    "verbosity": ("medium",),
    "repeat_last_n": (64,),
    "typical_p": (1,),
    "top_n_sigma": (-1,),
    "dynatemp_range": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "mirostat": (0,),
    "n_probs": (0,),
    "t_max_predict_ms": (-1, 0),
    "ignore_eos": (False,),
    "return_tokens": (False,),
    "post_sampling_probs": (False,),
    "logprobs": (False, 0),  # the routes that have these say so in their own tables
    "top_logprobs": (0,),
    "n": (1,),
}


@dataclass(frozen=True)
class Ask:
    """What a client asked for, checked. Either messages (for the chat template) or prompts (texts as they are, or token
    ids). sampling: the values it said, by names of FIELDS. n: answers to each prompt. n_logprobs: None for none."""

    messages: tuple[dict[str, str], ...] = ()
    prompts: tuple[str | list[int], ...] = ()
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    n: int = 1
    n_logprobs: int | None = None
    grammar: Grammar | None = None
    cache_salt: str = ""
    is_stream: bool = False
    wants_usage: bool = False
    wants_progress: bool = False

    @property
    def prompt_param(self) -> str:
        return "prompt" if self.prompts else "messages"


# Bodies in


def parse_json(content_type: str | None, data: bytes) -> dict[str, Any]:
    """Raw body -> JSON object. Raises BadRequest or UnsupportedMedia with the place of the fault."""
    media = (content_type or "").split(";")[0].strip().lower()
    if media != "application/json":
        shown = f"Content-Type: {media[:80]}" if media else "no Content-Type"
        raise UnsupportedMedia(f"{shown}: must be application/json")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise BadRequest("the body is not JSON: nested too deeply", code="invalid_json") from error
    except ValueError as error:  # a number of thousands of digits
        raise BadRequest("the body is not JSON: a number is too long", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {name_type(body)}: must be a JSON object", code="invalid_type")
    if _HALF_PAIR.search(text):
        check_characters(body)
    return body


def parse_generate(body: dict[str, Any], max_tokens: int) -> Ask:
    """/generate: the prompt is a question to the model and goes through its chat template."""
    said = read_body(body, generate_parameters(max_tokens))
    return _make_ask(said, messages=({"role": "user", "content": said["prompt"]},))


def parse_completion(body: dict[str, Any], max_tokens: int) -> Ask:
    """/v1/completions: each prompt is text, or tokens, to continue as it is."""
    said = read_body(body, completion_parameters(max_tokens))
    n, prompts = said.get("n", 1), said["prompt"]
    if n * len(prompts) > MAX_CHOICES:
        raise BadRequest(
            f"n={n}: {len(prompts)} prompts make {n * len(prompts)} answers, at most {MAX_CHOICES}", param="n"
        )
    return _make_ask(said, prompts=prompts, n=n, n_logprobs=said.get("logprobs"))


def parse_chat(body: dict[str, Any], max_tokens: int) -> Ask:
    """/v1/chat/completions: messages of OpenAI's roles, text only."""
    said = read_body(body, chat_parameters(max_tokens))
    n_logprobs = said.get("top_logprobs", 0) if said.get("logprobs") else None
    if said.get("top_logprobs") and n_logprobs is None:
        raise BadRequest("top_logprobs: only allowed with logprobs=true", param="top_logprobs")
    return _make_ask(said, messages=said["messages"], n=said.get("n", 1), n_logprobs=n_logprobs)


def parse_tokenize(body: dict[str, Any]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in TOKENIZE.items()} | read_body(body, TOKENIZE)


def parse_detokenize(body: dict[str, Any]) -> list[int]:
    return read_body(body, DETOKENIZE)["tokens"]


def limit_to_context(
    ask: Ask,
    n_prompt: int,
    n_context: int,
    max_tokens: int,
    extra_stop: tuple[str, ...] = (),
    defaults: Mapping[str, float] | None = None,
) -> SamplingParams:
    """Hold the ask against the context: n_prompt tokens are known only after encoding. defaults: the model's own,
    before those of FIELDS. The grammar stays out: the model has to read it. Raises BadRequest."""
    room = n_context - n_prompt
    if n_prompt == 0:
        raise BadRequest("prompt: holds no tokens", param=ask.prompt_param, code="empty_prompt")
    if room < 1:
        refuse_length(ask, n_context, f"{n_prompt}")
    if ask.max_tokens is not None and ask.max_tokens > room:
        raise BadRequest(
            f"{ask.max_tokens_param}={ask.max_tokens}: the context holds {n_context} tokens and the prompt uses "
            f"{n_prompt}, so at most {room}",
            param=ask.max_tokens_param,
            code="context_length_exceeded",
        )
    return SamplingParams(
        max_tokens=ask.max_tokens or min(max_tokens, room),
        stop=ask.stop + extra_stop,
        logit_bias=ask.logit_bias,
        n_logprobs=ask.n_logprobs,
        **{**sampling_defaults(defaults or {}), **ask.sampling},
    )


def refuse_length(ask: Ask, n_context: int, n_prompt: str = "") -> NoReturn:
    """n_prompt: its tokens, if they were counted to the end."""
    raise BadRequest(
        f"{ask.prompt_param}: uses {n_prompt or f'more than {n_context}'} tokens; the context holds {n_context}, "
        f"so at most {n_context - 1}",
        param=ask.prompt_param,
        code="context_length_exceeded",
    )


def check_vocabulary(ask: Ask, n_vocab: int) -> None:
    """Hold the token ids a client wrote against the model's. Raises BadRequest."""
    for i, prompt in enumerate(ask.prompts):
        if isinstance(prompt, list):
            require_tokens(prompt, n_vocab, "prompt" if len(ask.prompts) == 1 else f"prompt[{i}]")
    require_tokens([token for token, _ in ask.logit_bias], n_vocab, "logit_bias")


def require_tokens(tokens: list[int], n_vocab: int, param: str) -> None:
    for token in tokens:
        if token >= n_vocab:
            raise BadRequest(
                f"{param}: token {token} is not in the vocabulary, which ends at {n_vocab - 1}", param=param
            )


def add_system(messages: tuple[dict[str, str], ...], system_prompt: str) -> tuple[dict[str, str], ...]:
    """LLM_SYSTEM_PROMPT before a chat that brings none of its own."""
    if not system_prompt or any(message["role"] == "system" for message in messages):
        return messages
    return ({"role": "system", "content": system_prompt}, *messages)


def sampling_defaults(recommended: Mapping[str, float]) -> dict[str, Any]:
    """What each of FIELDS is if a body says nothing: the model's recommendation, else the table's."""
    return {name: recommended.get(name, parameter.default) for name, parameter in FIELDS.items()}


def choice_seed(seed: int | None, index: int) -> int | None:
    """The seed of one of several answers: each its own, and the same each time."""
    return None if seed is None else (seed + index) % N_SEEDS


def _make_ask(said: dict[str, Any], **route: Any) -> Ask:
    limits = {name: said[name] for name in _LIMIT_NAMES if said.get(name, -1) != -1}
    shortest = min(limits, key=limits.__getitem__, default="max_tokens")
    sampling = {name: said[name] for name in FIELDS if name in said}
    if "seed" in sampling:
        sampling["seed"] = None if sampling["seed"] == -1 else sampling["seed"] % N_SEEDS
    grammars = [said[name] for name in _GRAMMAR_NAMES if said.get(name)]
    if len(grammars) > 1:
        raise BadRequest(
            f"{grammars[1].param}: {grammars[0].param} is there already, at most one is allowed",
            param=grammars[1].param,
        )
    options = said.get("stream_options")
    if options is not None and not said.get("stream"):
        raise BadRequest("stream_options: only allowed with stream=true", param="stream_options")
    return Ask(
        max_tokens=limits.get(shortest),
        max_tokens_param=shortest,
        sampling=sampling,
        stop=said.get("stop", ()),
        logit_bias=said.get("logit_bias", ()),
        grammar=grammars[0] if grammars else None,
        cache_salt=said.get("cache_salt", ""),
        is_stream=said.get("stream", False),
        wants_usage=(options or {}).get("include_usage", False),
        wants_progress=said.get("return_progress", False),
        **route,
    )


_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # only an escape can write one: the body is UTF-8


def _refuse_constant(name: str) -> None:
    raise BadRequest(f"the body is not JSON: {name} is not a JSON number", code="invalid_json")


# Tables: what a body of each route may hold

_LIMIT_NAMES = ("max_tokens", "max_completion_tokens", "n_predict")
_GRAMMAR_NAMES = ("response_format", "json_schema", "grammar")

_COMMON = {
    "model": text("any name: this node serves one model"),
    **FIELDS,
    "stop": STOP,
    "logit_bias": LOGIT_BIAS,
    "response_format": RESPONSE_FORMAT,
    "json_schema": JSON_SCHEMA,
    "grammar": GBNF,
    "cache_salt": SALT,
    "stream": flag("server-sent events instead of one JSON"),
    "stream_options": STREAM_OPTIONS,
    "return_progress": flag("with stream: chunks that say how far the prompt is"),
    **{name: only(*values) for name, values in NEUTRAL.items()},
    **{name: anything("ignored") for name in IGNORED},
}
_N = whole(1, MAX_CHOICES, 1, "answers to each prompt")

TOKENIZE = {
    "content": Parameter(check_text, {"type": "string"}, "text", is_required=True),
    "add_special": flag("begin with the vocabulary's BOS, if it wants one"),
    "parse_special": flag("read markers such as <|im_end|> as tokens", True),
    "with_pieces": flag("tell each token's text too, or its bytes if they are not whole characters"),
}
DETOKENIZE = {"tokens": Parameter(check_tokens, TOKENS_SCHEMA, "token ids", is_required=True)}


@functools.cache
def generate_parameters(max_tokens: int) -> dict[str, Parameter]:
    return {"prompt": PROMPT, **_COMMON, **_limits(max_tokens)}


@functools.cache
def completion_parameters(max_tokens: int) -> dict[str, Parameter]:
    logprobs = whole(0, MAX_TOP_LOGPROBS["completion"], None, "likeliest tokens to tell beside each chosen one")
    return {"prompt": PROMPTS, **_COMMON, **_limits(max_tokens), "n": _N, "logprobs": logprobs}


@functools.cache
def chat_parameters(max_tokens: int) -> dict[str, Parameter]:
    top = whole(0, MAX_TOP_LOGPROBS["chat"], 0, "with logprobs: likeliest tokens to tell beside each chosen one")
    logprobs = flag("tell the probability of each token")
    return {
        "messages": MESSAGES,
        **_COMMON,
        **_limits(max_tokens),
        "n": _N,
        "logprobs": logprobs,
        "top_logprobs": top,
    }


def _limits(max_tokens: int) -> dict[str, Parameter]:
    """Three names for one thing; the smallest holds. Only llama-server's takes its -1."""
    limit = whole(1, max_tokens, None, "most tokens of the answer")
    n_predict = whole(1, max_tokens, None, "most tokens of the answer; -1: as many as fit", also=-1)
    return {name: n_predict if name == "n_predict" else limit for name in _LIMIT_NAMES}
