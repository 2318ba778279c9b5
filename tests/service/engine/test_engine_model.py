"""The engine with llama.cpp itself and the demo model: what a fake model cannot show."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.chat.constraint import Grammar
from service.config import MAX_AUTO_CONTEXT
from service.engine.engine import Engine
from service.llama import library
from service.llama.model import LlamaModel
from service.request import Done, Failed, FinishReason, Piece, Request, SamplingParams
from tests.service.door import DEMO, make_engine

QUESTIONS = ("What is Llamakiln?", "Who are you?", "What is OpenBLAS?", "How do I bake an image?", "Is it free?")


@pytest.fixture(scope="module", autouse=True)
def chosen_library() -> None:
    if "llama_cpp" not in sys.modules:
        library.load(Path(os.environ["LLM_LIB_DIR"]), "auto")


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Stepped by hand, eight streams, a small cache so that eviction happens too."""
    model = LlamaModel(DEMO, n_context=512, max_auto_context=MAX_AUTO_CONTEXT, n_threads=1, n_cells=2048)
    engine = make_engine(model, max_streams=8, max_queue=100, speculates=False)
    engine.load()
    yield engine
    engine.close()


def ask(engine: Engine, question: str, **params: object) -> Request:
    tokens = engine.prompter.encode_chat([{"role": "user", "content": question}])
    request = Request(question, tokens, SamplingParams(**{"max_tokens": 40, "temperature": 0, **params}))
    engine.submit([request])
    return request


def run(engine: Engine) -> None:
    while engine.n_running or engine.n_waiting:
        engine.step(idle_s=0)


def outcome(request: Request) -> tuple[str, Done | Failed]:
    *pieces, end = [request.events.get(timeout=0) for _ in range(request.events.qsize())]
    assert all(isinstance(piece, Piece) for piece in pieces)
    return "".join(piece.text for piece in pieces), end


def test_five_at_once_say_what_each_says_alone(engine: Engine):
    """The demo is sure of every token, so the last bit, which may differ by batch, decides nothing."""
    alone = []
    for question in QUESTIONS:
        request = ask(engine, question)
        run(engine)
        alone.append(outcome(request)[0])
    together = [ask(engine, question) for question in QUESTIONS]
    run(engine)
    assert [outcome(request)[0] for request in together] == alone
    assert "Llamakiln" in alone[0]


def test_seed_gives_the_same_text_again(engine: Engine):
    texts = []
    for _ in range(3):
        request = ask(engine, "Tell me a story.", temperature=1.5, min_p=0.0, seed=42)
        run(engine)
        texts.append(outcome(request)[0])
    assert texts[0] == texts[1] == texts[2]


def test_poisoned_request_fails_alone(engine: Engine):
    sound = ask(engine, "What is Llamakiln?")
    poisoned = Request("poison", [1, 10**8, 2], SamplingParams(max_tokens=5))
    engine.submit([poisoned])
    run(engine)
    assert isinstance(outcome(poisoned)[1], Failed)
    text, end = outcome(sound)
    assert "Llamakiln" in text and isinstance(end, Done) and engine.is_ready


@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_cancelled_queued_prefilling_or_streaming_is_freed_within_a_step(engine: Engine, n_steps: int):
    other = ask(engine, "What is Llamakiln?")
    leaver = ask(engine, "x " * 300 if n_steps == 1 else "Who are you?")
    for _ in range(n_steps):
        engine.step(idle_s=0)
    engine.cancel(leaver)
    engine.step(idle_s=0)
    assert isinstance(outcome(leaver)[1], Failed) and engine.n_running == 1
    run(engine)
    assert "Llamakiln" in outcome(other)[0]


def test_chat_goes_on_from_the_cache(engine: Engine):
    first = ask(engine, "What is Llamakiln?", max_tokens=200)
    run(engine)
    answer, _ = outcome(first)
    messages = [("user", "What is Llamakiln?"), ("assistant", answer), ("user", "Tell me more.")]
    tokens = engine.prompter.encode_chat([{"role": role, "content": content} for role, content in messages])
    second = Request("2", tokens, SamplingParams(max_tokens=20, temperature=0))
    engine.submit([second])
    run(engine)
    _, end = outcome(second)
    assert end.n_cached_tokens > len(first.prompt_tokens)


def test_guesses_save_steps_and_change_nothing():
    """A grammar makes the answer repeat itself."""
    grammar = 'root ::= "' + "one two three four five six " * 6 + '"'
    words, n_steps = [], []
    for speculates in (False, True):
        model = LlamaModel(DEMO, n_context=1024, max_auto_context=MAX_AUTO_CONTEXT, n_threads=1)
        engine = make_engine(model, speculates=speculates, clock=lambda: 0.0)
        engine.load()
        for rows in (1, 2, 4):
            engine._cost.measured(rows, 1.0)  # a guess costs nothing
        constraint = engine.constrainer.make(Grammar("grammar", gbnf=grammar))
        request = ask(engine, "Count.", max_tokens=200, constraint=constraint)
        n_steps.append(0)
        while engine.n_running or engine.n_waiting:
            engine.step(idle_s=0)
            n_steps[-1] += 1
        words.append(outcome(request)[0])
        engine.close()
    assert words[0] == words[1] == "one two three four five six " * 6
    assert n_steps[1] < n_steps[0] * 0.7


def test_two_thousand_short_requests_leave_no_memory_behind(engine: Engine):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def soak(n: int) -> None:
        for i in range(n):
            ask(engine, f"{QUESTIONS[i % 5]} {i % 97}", max_tokens=1 + i % 3, temperature=i % 2, seed=i)
            while engine.n_waiting + engine.n_running > 16:
                engine.step(idle_s=0)
        run(engine)

    soak(500)
    before = resident()
    soak(2000)
    assert resident() - before < 16 << 20
    assert engine._cache.count_cells() <= 2048


def test_full_context_ends_with_length(engine: Engine):
    request = ask(engine, "word " * 150, max_tokens=500, logit_bias=((2, -100.0),))
    run(engine)
    _, end = outcome(request)
    assert isinstance(end, Done) and end.reason in (FinishReason.LENGTH, FinishReason.STOP)
    assert end.n_prompt_tokens + end.n_output_tokens <= 512
