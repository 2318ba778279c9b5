"""What one client can learn of another's prompts from numbers: nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.engine import Engine
from service.engine.teller import TELL_S
from service.request import Done, Progress, Request, SamplingParams
from tests.fakes import FakeClock, FakeModel
from tests.service.door import make_engine

SYSTEM = "Be kind to everybody who comes here, and brief."


def load(**changes: Any) -> Engine:
    model = FakeModel(lambda prompt: "ok", n_sequences=64, n_context=512, n_cells=100_000, max_batch=16)
    engine = make_engine(model, **{"clock": FakeClock(), "max_streams": 8, "max_queue": 100, **changes})
    engine.load()
    return engine


def begin(engine: Engine, text: str, client: str, namespace: str = "") -> Request:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    tokens = engine.prompter.encode_chat(messages)
    params = SamplingParams(max_tokens=5)
    request = Request("r", tokens, params, namespace=namespace, client=client, wants_progress=True)
    engine.submit([request])
    return request


def finish(engine: Engine) -> None:
    while engine.n_running or engine.n_waiting:
        engine.step(idle_s=0)
        engine._clock.now += TELL_S


def ask(engine: Engine, text: str, client: str, namespace: str = "") -> tuple[int, list[Progress]]:
    """What it is told: cached tokens at the end, and on the way."""
    request = begin(engine, text, client, namespace)
    finish(engine)
    events = [request.events.get() for _ in range(request.events.qsize())]
    assert isinstance(events[-1], Done)
    return events[-1].n_cached_tokens, [event for event in events if isinstance(event, Progress)]


def guess_pin(engine: Engine, attacker: str, namespace: str) -> str:
    """Digit by digit: the guess of which more was computed already than of the others."""
    known = ""
    for _ in range(4):
        told = {
            digit: ask(engine, f"My PIN is {known}{digit}, keep it.", attacker, namespace)[0] for digit in "0123456789"
        }
        best = max(told, key=lambda digit: told[digit])
        known += best if told[best] > min(told.values()) else "?"
    return known


@pytest.mark.parametrize(
    ("victim", "attacker"),
    [(("10.0.0.1", " "), ("10.0.0.2", " ")), (("key-1", "key-1 "), ("key-2", "key-2 "))],
    ids=["addresses without keys", "keys"],
)
def test_pin_is_not_found_digit_by_digit(victim: tuple[str, str], attacker: tuple[str, str]):
    """A PIN was found digit by digit in 17 requests, through cached_tokens."""
    worlds = []
    for pin in ("4711", "4712", "9035"):
        engine = load(system_prompt=SYSTEM)
        ask(engine, f"My PIN is {pin}, keep it.", *victim)
        found = [guess_pin(engine, *attacker)]
        found += [ask(engine, f"My PIN is {guess}, keep it.", *attacker)[0] for guess in ("4711", "9035", "1234")]
        worlds.append(found)
    assert worlds[0] == worlds[1] == worlds[2]


def test_pin_is_found_by_who_has_told_it_himself():
    """So the attack above is one."""
    engine = load()
    ask(engine, "My PIN is 4711, keep it.", "me", " ")
    told = [ask(engine, f"My PIN is {pin}, keep it.", "me", " ")[0] for pin in ("9035", "4735", "4711")]
    assert told == sorted(set(told))


@pytest.mark.parametrize("is_late", [False, True])
def test_progress_and_end_tell_of_nothing_that_another_address_had_computed(is_late: bool):
    """It may even wait for the other's prompt, and be done sooner: only time tells."""
    engine = load()
    text = "a secret of two hundred characters " * 6
    others = begin(engine, text, "10.0.0.1")
    if is_late:
        finish(engine)
    cached, progress = ask(engine, text + "?", "10.0.0.2")
    alone = load()
    cached_alone, progress_alone = ask(alone, text + "?", "10.0.0.2")
    assert cached == cached_alone == 0
    computed, computed_alone = ([e.n_computed for e in each if not e.place] for each in (progress, progress_alone))
    assert computed == computed_alone[: len(computed)]
    assert others.state.value == "finished" and engine._metrics.cached_tokens._value.get() > 200


def test_system_prompt_of_the_operator_is_told_to_everybody():
    engine = load(system_prompt=SYSTEM)
    n_system = engine.model.n_used_cells
    assert [ask(engine, "hi", client, name)[0] for client, name in (("1", " "), ("2", " "), ("3", "3 "))] == [
        n_system
    ] * 3


def test_ones_own_is_told_though_others_went_on_from_it():
    engine = load()
    ask(engine, "What is it?", "a", " ")
    n_own = ask(engine, "What is it?", "a", " ")[0]
    ask(engine, "What is it?", "b", " ")
    assert n_own > 60
    assert ask(engine, "What is it?", "b", " ")[0] == n_own
    assert ask(engine, "What is it?", "a", " ")[0] == n_own


def test_namespaces_share_nothing():
    engine = load()
    ask(engine, "What is it?", "me", "key salt")
    engine.model.batches.clear()
    assert ask(engine, "What is it?", "me", "key other")[0] == 0
    assert sum(engine.model.batches) > 60
    assert ask(engine, "What is it?", "me", "key salt")[0] > 60


def test_nobody_waits_for_a_prefix_of_another_namespace():
    engine = load()
    for namespace in ("1 ", "2 "):
        begin(engine, "p" * 200, "me", namespace)
    engine.step(idle_s=0)
    assert engine.n_running == 2


def test_what_somebody_else_keeps_alive_is_not_told():
    """The client's own would have gone long ago, as what was used later has: that another has it again is nobody's
    business."""
    model = FakeModel(lambda prompt: "ok", n_sequences=64, n_context=200, n_cells=400, max_batch=16)
    engine = make_engine(model, clock=FakeClock(), max_streams=8, max_queue=100)
    engine.load()
    ask(engine, "x" * 40, "a", " ")
    for word in "123456789":
        ask(engine, word * 40, "a", " ")
        ask(engine, "x" * 40, "b", " ")
    engine.model.batches.clear()
    assert ask(engine, "x" * 40, "a", " ")[0] < 80
    assert sum(engine.model.batches) < 10  # it was there


TEXTS = st.text("ab", min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("vvaa+"), TEXTS), max_size=14))
def test_numbers_are_the_same_whatever_another_client_says(asked: list[tuple[str, str]]):
    """Two worlds, in which the other one says the like, or something else of the same length. Some ask at once."""
    worlds = []
    for table in ({}, str.maketrans("ab", "cd")):
        engine, told = load(), []
        for who, text in asked:
            if who == "+":
                pair = [begin(engine, text.translate(table), "v", " "), begin(engine, text, "a", " ")]
                finish(engine)
                told.append([pair[1].events.get() for _ in range(pair[1].events.qsize())][-1].n_cached_tokens)
            elif who == "v":
                ask(engine, text.translate(table), "v", " ")
            else:
                told.append(ask(engine, text, "a", " ")[0])
        worlds.append(told)
    assert worlds[0] == worlds[1]
