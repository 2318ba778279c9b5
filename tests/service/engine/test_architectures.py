"""The engine with llama.cpp and tiny files of many architectures: who can go back in a sequence, and who cannot.

Each serves for as long as one likes: through its measurements in idle time, with requests before, between and after
them, and side by side; and always says what one plain stream says.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine.engine import Engine
from service.errors import ModelError
from service.llama import attention_kind, library
from service.llama.model import LlamaModel
from service.protocol import Chunk
from service.request import Done, Request, SamplingParams
from tests.service.door import make_engine
from tests.tiny_models import ARCHITECTURES, HEAD, HEADS, KV_HEADS, make_model

N_TOKENS = 24
QUESTIONS = ("What is it?", "Who are you, and what do you know of the image?", "a b c " * 40)
RECURRENT = {"mamba", "mamba2", "jamba", "lfm2", "falcon-h1", "granitehybrid", "nemotron_h", "qwen35", "qwen3next"}


@pytest.fixture(scope="module", autouse=True)
def chosen_library() -> None:
    if "llama_cpp" not in sys.modules:
        library.load(Path(os.environ["LLM_LIB_DIR"]), "auto")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def load_model(folder: Path, name: str, **changes: Any) -> LlamaModel:
    values = {"n_context": None, "max_auto_context": 4096, "n_threads": 1, "n_cells": 2048, **changes}
    return LlamaModel(make_model(folder, name), **values)


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine(folder: Path, name: str) -> Iterator[Engine]:
    """Stepped by hand; measures, and every look at the clock moves it."""
    ticks = itertools.count()
    engine = make_engine(
        load_model(folder, name),
        max_streams=4,
        max_queue=50,
        measures=True,
        timeout_s=1e9,
        clock=lambda: next(ticks) * 0.1,
    )
    engine.load()
    yield engine
    engine.close()


def say_alone(folder: Path, name: str, prompts: list[list[int]]) -> list[bytes]:
    """What one plain stream says to each prompt, nothing shared and nothing beside it."""
    model = load_model(folder, name)
    answers = []
    for prompt in prompts:
        sampler = model.make_sampler(SamplingParams(N_TOKENS, temperature=0), 0, prompt)
        model.decode([Chunk(0, 0, prompt, 1)])
        tokens = [sampler.sample(len(prompt) - 1)]
        while len(tokens) < N_TOKENS:
            model.decode([Chunk(0, len(prompt) + len(tokens) - 1, tokens[-1:], 1)])
            tokens.append(sampler.sample(0))
        sampler.close()
        assert model.forget(0, 0)
        answers.append(b"".join(map(model.token_bytes, tokens)))
    model.close()
    return answers


def submit(engine: Engine, question: str, **params: object) -> Request:
    tokens = engine.prompter.encode_chat([{"role": "user", "content": question}])
    request = Request("r", tokens, SamplingParams(**{"max_tokens": N_TOKENS, "temperature": 0, **params}))
    engine.submit([request])
    return request


def answers(engine: Engine, requests: list[Request]) -> list[bytes]:
    while engine.n_running or engine.n_waiting:
        engine.step(idle_s=0)
    texts = []
    for request in requests:
        *pieces, end = [request.events.get(timeout=0) for _ in range(request.events.qsize())]
        assert isinstance(end, Done)
        texts.append("".join(piece.text for piece in pieces).encode())
    return texts


def test_model_says_the_same_before_between_and_after_measurements(engine: Engine, folder: Path, name: str):
    """Symptom: recurrent and hybrid models ended the process with 70 within 1.5 s of idling."""
    prompts = [engine.prompter.encode_chat([{"role": "user", "content": question}]) for question in QUESTIONS]
    alone = say_alone(folder, name, prompts)
    assert len(set(alone)) == len(alone)

    def ask_all() -> None:
        for question, expected in zip(QUESTIONS, alone, strict=True):
            assert answers(engine, [submit(engine, question)]) == [expected]
        together = [submit(engine, question) for question in QUESTIONS]
        assert answers(engine, together) == alone

    ask_all()
    n_idle = 0
    while not engine._cost.is_measured:
        for _ in range(20):
            engine.step(idle_s=0)
        n_idle += 1
        assert n_idle < 50, "measuring never ends"
        if n_idle % 3 == 1:
            ask_all()
    ask_all()
    assert engine.is_ready and engine._cost.cell_s is not None
    assert engine.model.shares == (name not in RECURRENT)


def test_failed_step_does_not_change_an_answer(
    engine: Engine, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    """A step that failed after it was computed: what it left in the model's memory is forgotten, or all of it."""
    prompts = [engine.prompter.encode_chat([{"role": "user", "content": question}]) for question in QUESTIONS]
    alone = say_alone(folder, name, prompts)
    requests = [submit(engine, question) for question in QUESTIONS]
    for _ in range(6):
        engine.step(idle_s=0)
    decode = LlamaModel.decode

    def fail(model: LlamaModel, chunks: list[Chunk]) -> None:
        decode(model, chunks)
        monkeypatch.setattr(LlamaModel, "decode", decode)
        raise ModelError("aborted")

    monkeypatch.setattr(LlamaModel, "decode", fail)
    assert answers(engine, requests) == alone


@pytest.mark.parametrize(("times_s", "is_flash"), [((1.0, 2.0), True), ((2.0, 1.0), False)])
def test_kind_of_attention_is_measured_where_few_heads_share_a_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch, times_s: tuple[float, float], is_flash: bool
):
    timed = []
    monkeypatch.setattr(attention_kind, "time_both", lambda *heads: timed.append(heads) or times_s)
    for name in ("qwen3", "mamba", "lfm2"):
        model = load_model(folder, name, has_flash_attention=None)
        assert model.has_flash_attention is (is_flash or name != "qwen3")
        model.close()
    assert timed == [(HEADS, KV_HEADS, HEAD)]


def test_system_prompt_and_guesses_change_no_answer(folder: Path, name: str, tmp_path: Path):
    said = []
    for speculates, state_dir in ((False, None), (True, tmp_path), (True, tmp_path)):
        model = load_model(folder, name)
        engine = make_engine(
            model, speculates=speculates, system_prompt="You know it.", state_dir=state_dir, clock=lambda: 0.0
        )
        engine.load()
        for rows in (1, 2, 4):
            engine._cost.measured(rows, 1.0)  # a guess costs nothing
        said.append(answers(engine, [submit(engine, "one two three one two three", max_tokens=100)]))
        engine.close()
    assert said[0] == said[1] == said[2]
