"""The engine, stepped by hand: no thread, no sleep, time stands still unless a test moves it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.chat.constraint import Grammar
from service.chat.prompt import Prompter
from service.engine.cost import GRID, MIN_STREAMS
from service.engine.engine import RENEW_S, REST_S, Engine, Limits
from service.engine.request_queue import Phase
from service.engine.step import MAX_FAULTS
from service.engine.teller import TELL_S
from service.errors import (
    ClientGone,
    ConstraintFailed,
    Draining,
    ModelError,
    ModelFatal,
    NoRoom,
    NotReady,
    QueueFull,
    TimedOut,
)
from service.metrics import Metrics
from service.request import Done, Event, Failed, FinishReason, Piece, Progress, Request, SamplingParams, Timings
from tests.fakes import TEMPLATE, FakeClock, FakeConstraint, FakeModel, FakeSampler, echo
from tests.service.door import make_engine, make_request, wait_until


def load(model: FakeModel, *, is_known: bool = True, **changes: Any) -> Engine:
    """With a clock that stands still, and on a machine that is known to compute any step in no time, unless it is to be
    measured."""
    engine = make_engine(model, **{"clock": FakeClock(), **changes})
    engine.load()
    for rows in GRID if is_known and not changes.get("measures") else ():
        if rows <= model.max_batch:
            engine._cost.measured(rows, 1e-6)
    return engine


def run(engine: Engine, n: int = 500) -> None:
    for _ in range(n):
        engine.step(idle_s=0)


def events(request: Request) -> list[Event]:
    got = []
    while not request.events.empty():
        got.append(request.events.get())
    return got


def outcome(request: Request) -> tuple[str, Event]:
    """The text and the one end."""
    *pieces, end = events(request)
    assert all(isinstance(piece, Piece) for piece in pieces)
    return "".join(piece.text for piece in pieces), end


def submit(engine: Engine, prompt: str = "hi", **params: Any) -> Request:
    request = make_request(engine, prompt, **params)
    engine.submit([request])
    return request


def test_answer_is_delivered_piece_by_piece_and_ends_once():
    engine = load(FakeModel(lambda prompt: "yes"))
    request = submit(engine)
    run(engine)
    assert events(request) == [Piece("y"), Piece("e"), Piece("s"), Done(FinishReason.STOP, 11, 3)]


def test_long_prompt_is_computed_in_batches():
    model = FakeModel(max_batch=16)
    engine = load(model)
    model.batches.clear()
    submit(engine, "x" * 35)
    run(engine, 4)
    assert model.batches == [16, 16, 12, 1]  # 44 tokens of prompt, then the first of the answer


def test_one_step_makes_at_most_one_token():
    engine = load(FakeModel(lambda prompt: "yes"))
    request = submit(engine)
    seen = []
    for _ in range(4):
        engine.step(idle_s=0)
        seen.append(len(events(request)))
    assert seen == [1, 1, 1, 1]  # three pieces and the end


def test_requests_are_served_in_order():
    engine = load(FakeModel())
    requests = [submit(engine, prompt) for prompt in ("a", "b", "c")]
    run(engine)
    assert [outcome(request)[0] for request in requests] == ["You said: a", "You said: b", "You said: c"]


def test_max_tokens_ends_with_length():
    engine = load(FakeModel(lambda prompt: "abcdef"))
    request = submit(engine, max_tokens=2)
    run(engine)
    assert outcome(request) == ("ab", Done(FinishReason.LENGTH, 11, 2))


def test_full_context_ends_with_length():
    engine = load(FakeModel(lambda prompt: "x" * 100, n_context=20))
    request = submit(engine, max_tokens=100)
    run(engine)
    assert outcome(request) == ("x" * 9, Done(FinishReason.LENGTH, 11, 9))


def test_stop_string_ends_with_stop_and_is_not_shown():
    engine = load(FakeModel(lambda prompt: "one STOP two"))
    request = submit(engine, stop=("STOP",))
    run(engine)
    assert outcome(request) == ("one ", Done(FinishReason.STOP, 11, 8))


def test_held_back_text_is_given_at_the_end():
    engine = load(FakeModel(lambda prompt: "one ST"))
    request = submit(engine, stop=("STOP",))
    run(engine)
    assert outcome(request)[0] == "one ST"


def test_seed_is_the_clients_or_drawn():
    model = FakeModel()
    engine = load(model)
    submit(engine, seed=7)
    submit(engine)
    submit(engine)
    run(engine)
    warm_up, given, first, second = model.seeds
    assert (warm_up, given) == (0, 7) and first != second


def test_nothing_is_taken_before_the_first_token():
    engine = make_engine(FakeModel())
    with pytest.raises(NotReady) as caught:
        engine.submit([Request("r", [1], None)])
    assert caught.value.retry_after_s and not engine.is_ready
    engine.load()
    assert engine.is_ready


def test_ready_is_told_after_a_token_was_sampled():
    model = FakeModel()
    told = []
    engine = make_engine(model, on_ready=lambda: told.append(sum(model.batches)))
    engine.load()
    assert told == [6]  # BOS and "Hello"
    assert model.n_used_cells == 0 and model.n_open_samplers == 0


def test_full_queue_refuses_with_retry_after():
    engine = load(FakeModel(), max_queue=1, max_streams=1)
    submit(engine)
    engine.step(idle_s=0)
    submit(engine)
    with pytest.raises(QueueFull, match="LLM_MAX_QUEUE=1") as caught:
        submit(engine)
    assert caught.value.status == 503 and 1 <= caught.value.retry_after_s <= 60


def test_queue_of_none_still_takes_one_to_run():
    engine = load(FakeModel(), max_queue=0, max_streams=1)
    submit(engine)
    with pytest.raises(QueueFull):
        submit(engine)


def test_cancelled_while_waiting_ends_at_once_and_gives_its_place_back():
    engine = load(FakeModel(), max_queue=1, max_streams=1)
    running, waiting = submit(engine), None
    engine.step(idle_s=0)
    waiting = submit(engine)
    engine.cancel(waiting)
    (end,) = events(waiting)
    assert isinstance(end, Failed) and isinstance(end.error, ClientGone)
    submit(engine)
    run(engine)
    assert outcome(running)[0] == "You said: hi"


def test_cancelled_while_running_ends_after_the_step():
    model = FakeModel()
    engine = load(model, max_streams=1)
    request, after = submit(engine), submit(engine, "after")
    run(engine, 3)
    engine.cancel(request)
    run(engine, 1)
    assert isinstance(outcome(request)[1], Failed)
    assert model.n_open_samplers == 1  # the next one's
    run(engine)
    assert outcome(after)[0] == "You said: after"


def test_cancel_after_the_end_does_nothing():
    engine = load(FakeModel())
    request = submit(engine)
    run(engine)
    engine.cancel(request)
    run(engine)
    assert isinstance(outcome(request)[1], Done)


@pytest.mark.parametrize("n_steps", [0, 1])
def test_time_is_over_before_there_is_any_text(n_steps: int):
    clock = FakeClock()
    engine = load(FakeModel(), clock=clock, timeout_s=240)
    request = submit(engine, "x" * 40)
    run(engine, n_steps)
    clock.now += 240
    run(engine, 1)
    end = outcome(request)[1]
    assert isinstance(end, Failed) and isinstance(end.error, TimedOut) and "240 s" in end.error.message


@pytest.mark.parametrize(("stop", "text"), [((), "You sa"), (("said: no",), "You sa"), (("You said: no",), "You sa")])
def test_time_is_over_in_the_middle_of_an_answer_which_ends_with_what_there_is(stop: tuple[str, ...], text: str):
    """A request of 196 pieces was thrown away with 504. What was held back for a stop string is a part of it."""
    clock = FakeClock()
    engine = load(FakeModel(), clock=clock, timeout_s=240)
    request = submit(engine, stop=stop)
    run(engine, 6)
    clock.now += 240
    run(engine, 1)
    assert outcome(request) == (text, Done(FinishReason.LENGTH, 11, 6, timings=Timings(0, 0, 240)))
    assert engine.n_running == 0 and engine.model.n_open_samplers == 0


def test_time_is_over_while_an_answer_is_put_back():
    clock = FakeClock()
    model = FakeModel(lambda prompt: "y" * 60, n_context=100, n_cells=110)
    engine = load(model, clock=clock, timeout_s=240)
    requests = [submit(engine, word, max_tokens=60) for word in ("a", "b")]
    while not engine._queue.put_back:
        run(engine, 1)
    clock.now += 240
    run(engine, 1)
    for request in requests:
        text, end = outcome(request)
        assert text == "y" * end.n_output_tokens != "" and end.reason is FinishReason.LENGTH


@pytest.mark.parametrize("n_steps", [0, 3, 14])
def test_time_is_over_for_all_choices_of_an_answer_alike(n_steps: int):
    """One choice may run, one be complete, and one wait: if one has text, no other throws the answer away."""
    clock = FakeClock()
    engine = load(FakeModel(), clock=clock, timeout_s=240, max_streams=1)
    group = [make_request(engine, "x") for _ in range(2)]
    engine.submit(group)
    run(engine, n_steps)
    clock.now += 240
    run(engine, 1)
    texts, ends = zip(*map(outcome, group), strict=True)
    if n_steps == 0:
        assert all(isinstance(end.error, TimedOut) for end in ends)
    else:
        assert "".join(texts) and ends[1].reason is FinishReason.LENGTH
        assert ends[0].reason is (FinishReason.STOP if n_steps == 14 else FinishReason.LENGTH)


def test_fault_fails_only_that_request():
    model = FakeModel()
    engine = load(model)
    broken, sound = submit(engine, "broken \x07"), submit(engine, "sound")
    model.poison = 7
    run(engine)
    end = outcome(broken)[1]
    assert isinstance(end, Failed) and end.error.status == 500 and "llama" not in end.error.message
    assert outcome(sound)[0] == "You said: sound"


def test_fault_of_our_own_code_fails_only_that_request():
    model = FakeModel()
    engine = load(model, max_streams=1)
    broken, sound = submit(engine, "broken"), submit(engine, "sound")
    model.fault = ZeroDivisionError()
    run(engine)
    assert isinstance(outcome(broken)[1], Failed)
    assert outcome(sound)[0] == "You said: sound"


def test_fatal_fault_ends_the_engine_and_every_request():
    model = FakeModel()
    engine = load(model)
    first, second = submit(engine), submit(engine)
    model.fault = ModelFatal("llama_decode answered -3")
    with pytest.raises(ModelFatal):
        run(engine)
    engine.close()
    assert isinstance(outcome(first)[1], Failed)
    assert isinstance(outcome(second)[1], Failed)
    assert model.is_closed and engine.phase is Phase.STOPPED


def test_too_many_faults_in_a_row_are_fatal():
    model = FakeModel()
    engine = load(model)
    for _ in range(MAX_FAULTS - 1):
        submit(engine)
        model.fault = ModelError("again")
        run(engine, 1)
    submit(engine)
    model.fault = ModelError("again")
    with pytest.raises(ModelFatal, match="3 requests in a row"):
        run(engine, 1)


class Unfollowable(FakeConstraint):
    def accept(self, token: int) -> bool:
        raise ConstraintFailed("too many items")


def test_answer_that_its_constraint_gives_up_fails_alone_and_is_no_fault_of_the_model():
    engine = load(FakeModel(lambda prompt: "y" * 60))
    other = submit(engine, max_tokens=60)
    for _ in range(MAX_FAULTS * 2):
        request = submit(engine, constraint=Unfollowable(Grammar("x")))
        run(engine, 3)
        _, end = outcome(request)
        assert isinstance(end, Failed) and (end.error.status, end.error.code) == (400, "grammar_failed")
    run(engine)
    assert outcome(other)[0] == "y" * 60 and engine.is_ready


def test_success_in_between_resets_the_count():
    model = FakeModel()
    engine = load(model)
    for _ in range(MAX_FAULTS * 2):
        submit(engine)
        model.fault = ModelError("again")
        run(engine, 1)
        submit(engine)
        run(engine, 30)
    assert engine.is_ready


def test_drain_refuses_new_and_finishes_accepted():
    engine = load(FakeModel())
    requests = [submit(engine), submit(engine)]
    engine.drain()
    with pytest.raises(Draining):
        submit(engine)
    assert not engine.wait_idle(0)
    run(engine)
    assert engine.wait_idle(0)
    assert all(isinstance(outcome(request)[1], Done) for request in requests)


def test_close_fails_what_is_left():
    model = FakeModel()
    engine = load(model)
    requests = [submit(engine), submit(engine)]
    run(engine, 2)
    engine.close()
    for request in requests:
        end = outcome(request)[1]
        assert isinstance(end, Failed) and isinstance(end.error, Draining)
    assert model.n_open_samplers == 0


def test_every_step_and_every_idle_wait_beats():
    beats: list[float] = []
    clock = FakeClock()
    engine = load(FakeModel(), clock=clock, on_beat=beats.append)
    run(engine, 2)
    submit(engine)
    run(engine, 3)
    assert beats == [clock.now] * 5


def test_thread_loads_serves_and_stops():
    model = FakeModel()
    engine = make_engine(model, clock=FakeClock())
    engine.start()
    wait_until(lambda: engine.is_ready)
    request = submit(engine)
    assert [request.events.get(timeout=10) for _ in range(13)][-1] == Done(FinishReason.STOP, 11, 12)
    assert engine.stop(10)
    assert model.is_closed


def test_failed_load_is_told():
    told: list[BaseException] = []

    def load_model() -> FakeModel:
        raise ModelFatal("no such model")

    engine = Engine(load_model, limits=Limits(), metrics=Metrics(), on_fatal=told.append)
    engine.start()
    wait_until(lambda: told and engine.phase is Phase.STOPPED)
    assert str(told[0]) == "no such model"


def test_end_of_a_request_is_counted_everywhere():
    metrics = Metrics()
    engine = load(FakeModel(lambda prompt: "yes"), metrics=metrics)
    for _ in range(2):
        submit(engine)
        run(engine, 6)
    engine.cancel(submit(engine))
    lines = metrics.text().decode().splitlines()
    for line in (
        'llm_requests_finished_total{reason="stop"} 2.0',
        'llm_requests_finished_total{reason="client_gone"} 1.0',
        "llm_prompt_tokens_total 22.0",
        "llm_prompt_tokens_cached_total 10.0",
        "llm_generation_tokens_total 6.0",
        "llm_time_to_first_token_seconds_count 2.0",
        "llm_inter_token_latency_seconds_count 6.0",
        "llm_e2e_request_latency_seconds_count 3.0",
        "llm_requests_running 0.0",
    ):
        assert line in lines


def test_one_log_line_per_request_without_text(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    clock = FakeClock()
    engine = load(FakeModel(lambda prompt: "secret answer"), clock=clock)
    submit(engine, "secret question", id="abc")
    run(engine)
    lines = [record.getMessage() for record in caplog.records if "abc" in record.getMessage()]
    assert lines == [
        "request abc: prompt_tokens=24 cached_tokens=0 output_tokens=13 queue_ms=0 ttft_ms=0 total_ms=0 reason=stop"
    ]
    assert "secret" not in caplog.text


def test_streams_advance_together():
    model = FakeModel(lambda prompt: "abcdef")
    engine = load(model)
    requests = [submit(engine, word) for word in ("x", "y", "z")]
    run(engine)
    assert [outcome(request)[0] for request in requests] == ["abcdef"] * 3
    assert model.batches.count(3) >= 5  # three tokens in one step


def test_all_are_sampled_before_the_first_gets_its_token(monkeypatch: pytest.MonkeyPatch):
    engine = load(FakeModel(lambda prompt: "long answer"))
    requests = [submit(engine, f"{i}") for i in range(3)]
    happened: list[str] = []
    sample, deliver = FakeSampler.sample, Request.deliver
    monkeypatch.setattr(FakeSampler, "sample", lambda *a: (happened.append("sampled"), sample(*a))[1])
    monkeypatch.setattr(Request, "deliver", lambda *a: (happened.append("handed out"), deliver(*a))[1])
    engine.step(idle_s=0)
    while len(happened) < 6:
        happened.clear()
        engine.step(idle_s=0)
    assert happened == ["sampled"] * 3 + ["handed out"] * 3
    run(engine)
    assert [outcome(request)[0] for request in requests] == ["long answer"] * 3


def test_newcomer_joins_a_running_stream():
    engine = load(FakeModel(lambda prompt: "abcdefghij"))
    first = submit(engine)
    run(engine, 4)
    second = submit(engine, "other")
    run(engine, 2)
    assert [len(events(request)) for request in (first, second)] == [6, 2]


def test_long_prompt_does_not_stall_running_streams():
    """Every step has a token for each stream, while the prompt gets what is left."""
    model = FakeModel(lambda prompt: "y" * 200, max_batch=16)
    engine = load(model)
    streams = [submit(engine, word, max_tokens=200) for word in ("a", "b", "c")]
    run(engine, 5)
    for stream in streams:
        events(stream)
    late = submit(engine, "z" * 150)
    for _ in range(8):
        run(engine, 1)
        assert [len(events(stream)) for stream in streams] == [1, 1, 1]
    run(engine, 30)
    assert events(late)


def test_request_beyond_the_streams_waits():
    engine = load(FakeModel(), max_streams=2)
    requests = [submit(engine, word) for word in ("a", "b", "c")]
    engine.step(idle_s=0)
    assert (engine.n_running, engine.n_waiting) == (2, 1)
    run(engine)
    assert [outcome(request)[0][-1] for request in requests] == ["a", "b", "c"]


def test_common_prefix_is_computed_once_for_all_who_come_together():
    prefix = "p" * 100
    model = FakeModel()
    engine = load(model)
    model.batches.clear()
    requests = [submit(engine, prefix + word, max_tokens=1) for word in ("a", "b", "c", "d")]
    run(engine)
    ends = [outcome(request)[1] for request in requests]
    assert [end.n_cached_tokens for end in ends] == [0, 107, 107, 107]
    assert sum(model.batches) == 110 + 3 * 3


def test_follower_goes_on_when_its_leader_leaves():
    prefix = "p" * 100
    engine = load(FakeModel())
    leader, follower = submit(engine, prefix + "a"), submit(engine, prefix + "b")
    run(engine, 2)
    engine.cancel(leader)
    run(engine)
    text, end = outcome(follower)
    assert text == "You said: " + prefix + "b"
    assert end.n_cached_tokens == 32  # what the leader had computed


def test_next_turn_of_a_chat_continues_where_it_stopped():
    model = FakeModel(lambda prompt: "yes")
    engine = load(model)
    first = submit(engine)
    run(engine)
    events(first)
    turn = Request("2", [*first.prompt_tokens, *b"yes", *b" and", 258], SamplingParams(max_tokens=8))
    engine.submit([turn])
    run(engine)
    assert outcome(turn)[1].n_cached_tokens == len(first.prompt_tokens) + 3


def test_same_prompt_again_computes_only_its_last_token():
    model = FakeModel()
    engine = load(model)
    first, again = submit(engine), None
    run(engine)
    again = submit(engine)
    run(engine)
    assert outcome(first)[0] == outcome(again)[0]
    model.batches.clear()
    third = submit(engine, max_tokens=1)
    run(engine)
    assert outcome(third)[1].n_cached_tokens == 10 and model.batches == [1]


def test_model_that_cannot_share_computes_everything_again():
    engine = load(FakeModel(shares=False))
    for _ in range(2):
        request = submit(engine)
        run(engine)
        text, end = outcome(request)
        assert text == "You said: hi" and end.n_cached_tokens == 0


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("fault", [NoRoom, ModelError])
def test_failed_step_that_left_a_part_changes_no_answer(shares: bool, fault: type[Exception]):
    """A model that cannot drop a part computes the sequence again; each part is then sound alone."""
    model = FakeModel(shares=shares)
    model.leaves_part = True
    engine = load(model)
    requests = [submit(engine, word) for word in ("a", "b", "c")]
    run(engine, 6)
    model.fault = fault("again")
    run(engine)
    assert [outcome(request)[0] for request in requests] == ["You said: a", "You said: b", "You said: c"]


def test_model_that_cannot_go_back_is_not_given_guesses():
    metrics = Metrics()
    model = FakeModel(lambda prompt: "one two " * 20, shares=False)
    engine = load(model, speculates=True, metrics=metrics)
    for rows in (1, 2, 4, 8):
        engine._cost.measured(rows, 1)  # a guess would cost nothing
    request = submit(engine, "say it")
    run(engine)
    assert outcome(request)[0] == "one two " * 20
    assert metrics.numbers()["llm_drafted_tokens_total"] == 0


def test_full_cache_puts_the_youngest_back_and_nothing_is_lost():
    metrics = Metrics()
    model = FakeModel(lambda prompt: "y" * 60, n_context=100, n_cells=110)
    engine = load(model, metrics=metrics)
    requests = [submit(engine, word, max_tokens=60) for word in ("a", "b")]
    run(engine)
    assert [outcome(request)[0] for request in requests] == ["y" * 60] * 2
    assert b"llm_preemptions_total 0.0" not in metrics.text()


def test_constraint_goes_on_where_its_answer_was_put_back():
    metrics = Metrics()
    engine = load(FakeModel(lambda prompt: "n" * 99, n_context=100, n_cells=110), metrics=metrics)
    words = "".join(chr(97 + i % 26) for i in range(50))
    constraint = engine.constrainer.make(Grammar("x", gbnf=f'root ::= "{words}"'))
    requests = [submit(engine, word, max_tokens=60, constraint=constraint.copy()) for word in ("a", "b")]
    run(engine)
    assert [outcome(request)[0] for request in requests] == [words] * 2
    assert b"llm_preemptions_total 0.0" not in metrics.text()


def test_answer_that_its_limit_cuts_says_so():
    engine = load(FakeModel(lambda prompt: "n"))
    constraint = engine.constrainer.make(Grammar("x", gbnf='root ::= "abcdef"'))
    request = submit(engine, max_tokens=4, constraint=constraint)
    run(engine)
    text, end = outcome(request)
    assert text == "abcd" and end.reason is FinishReason.LENGTH


def test_guesses_keep_to_the_constraint():
    metrics = Metrics()
    engine = load(FakeModel(lambda prompt: "one two " * 20), speculates=True, metrics=metrics)
    for rows in (1, 2, 4, 8):
        engine._cost.measured(rows, 1)  # a guess costs nothing
    constraint = engine.constrainer.make(Grammar("x", gbnf='root ::= "one two one two one two one tea" ""'))
    request = submit(engine, "say it", constraint=constraint)
    run(engine)
    assert outcome(request)[0] == "one two one two one two one tea"
    assert metrics.numbers()["llm_drafted_tokens_total"] > 0


def test_retired_sequences_give_way_to_new_requests():
    model = FakeModel(lambda prompt: "y", n_context=100, n_cells=200, n_sequences=4)
    engine = load(model)
    for i in range(20):
        request = submit(engine, chr(97 + i) * 60)
        run(engine, 12)
        assert outcome(request)[0] == "y"


def test_no_room_in_the_model_is_not_a_fault():
    """Its own count may be stricter than ours."""
    model = FakeModel(lambda prompt: "yes")
    engine = load(model)
    requests = [submit(engine, word) for word in ("a", "b")]
    run(engine, 2)
    model.fault = NoRoom("full")
    run(engine)
    assert [outcome(request)[0] for request in requests] == ["yes", "yes"]


def test_wait_beyond_the_limit_is_refused_with_the_time():
    engine = load(FakeModel(), is_known=False, max_wait_s=30, max_queue=50, max_streams=1, step_s=20)
    engine._cost.measured(16, 16.0)  # a second per token: a prompt of 11 takes 11 s
    submit(engine, "x" * 50)  # alone, so it is taken
    with pytest.raises(QueueFull, match="LLM_MAX_WAIT_S=30") as caught:
        submit(engine, "x" * 50)
    assert caught.value.retry_after_s >= 50


def test_queue_is_bounded_in_tokens():
    engine = load(FakeModel(), max_queue_tokens=100, max_queue=50, max_streams=1)
    submit(engine)
    with pytest.raises(QueueFull, match="LLM_MAX_QUEUE_TOKENS=100"):
        submit(engine, "x" * 95)


def test_group_is_accepted_whole_or_not_at_all():
    engine = load(FakeModel(), max_queue=1, max_streams=1)
    submit(engine)
    group = [make_request(engine, "x") for _ in range(2)]
    with pytest.raises(QueueFull):
        engine.submit(group)
    assert engine.n_waiting == 1
    engine.submit(group[:1])
    assert engine.n_waiting == 2


def test_progress_is_told_to_who_asked():
    model, clock = FakeModel(lambda prompt: "y", max_batch=16), FakeClock()
    engine = load(model, max_streams=1, clock=clock)
    submit(engine, "first")
    second = make_request(engine, "x" * 40)
    second.wants_progress = True
    engine.submit([second])
    for _ in range(60):
        run(engine, 1)
        clock.now += TELL_S
    got = events(second)
    progress = [event for event in got if isinstance(event, Progress)]
    assert progress[0].place == 1 and progress[0].n_computed == 0
    computed = [event.n_computed for event in progress if event.place == 0]
    assert computed == sorted(computed) and computed[0] > 0 and computed[-1] < len(second.prompt_tokens)
    assert isinstance(got[-2], Piece) and isinstance(got[-1], Done)


def ask_with_progress(engine: Engine, prompt: str) -> Request:
    request = make_request(engine, prompt)
    request.wants_progress = True
    engine.submit([request])
    return request


def test_progress_is_told_on_change_and_not_with_every_step():
    """31 waiting requests were each told of every step: it woke as many threads, and a stream took 1.2-1.6x as long."""
    clock = FakeClock()
    engine = load(FakeModel(lambda prompt: "y" * 200), max_streams=1, max_queue=50, clock=clock)
    streams = [submit(engine), submit(engine)]
    run(engine, 1)
    waiting = [ask_with_progress(engine, f"{i}") for i in range(30)]
    looked: list[object] = []
    predict = engine._queue.predict_s
    engine._queue.predict_s = lambda *args: (looked.append(args), predict(*args))[1]
    run(engine, 100)
    assert [[event.place for event in events(request)] for request in waiting] == [[i] for i in range(2, 32)]
    assert len(looked) == 1  # for all of them, and never again
    clock.now += TELL_S
    run(engine, 10)
    assert not any(events(request) for request in waiting)  # nothing has changed
    engine.cancel(streams[0])
    run(engine, 10)
    assert not any(events(request) for request in waiting)  # too soon
    clock.now += TELL_S
    run(engine, 10)
    assert [[event.place for event in events(request)] for request in waiting] == [[i] for i in range(1, 31)]


def test_computed_prompt_is_told_at_most_once_a_second():
    clock = FakeClock()
    engine = load(FakeModel(max_batch=16), clock=clock)
    request = ask_with_progress(engine, "x" * 300)
    told = []
    for _ in range(12):
        run(engine, 1)
        told += [event.n_computed for event in events(request)]
        clock.now += TELL_S / 4
    assert told == [16, 80, 144]


@pytest.mark.parametrize(("max_streams", "places"), [(4, []), (1, [1])])
def test_who_waits_only_for_anothers_prefix_is_not_told_so(max_streams: int, places: list[int]):
    engine = load(FakeModel(), max_streams=max_streams)
    submit(engine, "p" * 200 + "a")
    follower = ask_with_progress(engine, "p" * 200 + "b")
    run(engine, 2)
    assert [event.place for event in events(follower)] == places


@pytest.mark.parametrize(("stop", "text"), [(("STOP",), "one "), (("P two",), "one STO"), ((), "one STOP two")])
def test_every_token_of_the_answer_has_its_probability(stop: tuple[str, ...], text: str):
    """Those of tokens that were held back for a stop string vanished when it was complete."""
    engine = load(FakeModel(lambda prompt: "one STOP two"))
    request = submit(engine, stop=stop, n_logprobs=0)
    run(engine)
    *pieces, end = events(request)
    assert "".join(piece.text for piece in pieces) == text
    assert len([entry for piece in pieces for entry in piece.logprobs]) == end.n_output_tokens


def test_bytes_that_are_no_text_have_their_probabilities():
    engine = load(FakeModel(lambda prompt: b"a\xf0\x9f"))
    request = submit(engine, n_logprobs=0)
    run(engine)
    *pieces, end = events(request)
    assert "".join(piece.text for piece in pieces) == "a\N{REPLACEMENT CHARACTER}"
    assert b"".join(entry.data for piece in pieces for entry in piece.logprobs) == b"a\xf0\x9f"
    assert end.n_output_tokens == 3


def test_logprobs_come_with_the_text_they_belong_to():
    engine = load(FakeModel(lambda prompt: "ab"))
    request = submit(engine, n_logprobs=2)
    run(engine)
    first, second, _ = events(request)
    assert [first.text, second.text] == ["a", "b"]
    assert [entry.data for entry in first.logprobs] == [b"a"]
    assert [data for _, data, _ in first.logprobs[0].top] == [b"a", b"b"]


def test_system_prompt_is_computed_once_and_never_evicted(tmp_path: Path):
    model = FakeModel(lambda prompt: "y", n_sequences=4, n_cells=300, n_context=200)
    engine = load(model, system_prompt="s" * 50, state_dir=tmp_path)
    n_system = engine.model.n_used_cells
    assert n_system >= 50
    for i in range(8):
        messages = [{"role": "system", "content": "s" * 50}, {"role": "user", "content": chr(97 + i) * 60}]
        request = Request("r", engine.prompter.encode_chat(messages), SamplingParams(max_tokens=5))
        engine.submit([request])
        run(engine, 20)
        assert outcome(request)[1].n_cached_tokens >= n_system
    again = load(FakeModel(), system_prompt="s" * 50, state_dir=tmp_path)
    assert again.model.n_used_cells == n_system and again.model.batches == [6]  # only the warm-up


def raw(engine: Engine, text: str, max_tokens: int) -> Request:
    request = Request("raw", list(text.encode()), SamplingParams(max_tokens=max_tokens))
    engine.submit([request])
    return request


def chat(engine: Engine, text: str) -> Request:
    messages = [{"role": "system", "content": "s" * 50}, {"role": "user", "content": text}]
    request = Request("chat", engine.prompter.encode_chat(messages), SamplingParams(max_tokens=5))
    engine.submit([request])
    return request


def test_request_that_fills_the_context_takes_the_room_of_the_system_prompt_which_comes_back():
    """A pinned system prompt and a cache of one context: one long request ended the process, and never got its end."""
    model = FakeModel(n_context=120, n_cells=120)
    engine = load(model, system_prompt="s" * 50)
    n_system = model.n_used_cells
    request = raw(engine, "x" * 60, 60)
    run(engine, 80)
    text, end = outcome(request)
    assert len(text) == 60 and end.reason is FinishReason.LENGTH
    cached = []
    for word in ("a", "b"):
        run(engine, 40)
        request = chat(engine, word)
        run(engine, 40)
        cached.append(outcome(request)[1].n_cached_tokens)
    assert cached == [0, n_system]
    (pinned,) = (sequence for sequence in engine._cache.sequences if sequence.is_pinned)
    assert pinned.n_computed == n_system


def test_request_that_the_model_has_no_room_for_fails_alone():
    """Only a model that counts otherwise than we do; it ended the process, and the request never got its end."""
    model = FakeModel()
    engine = load(model)
    engine._cache._n_cells = 10
    alone = submit(engine)
    run(engine)
    assert isinstance(outcome(alone)[1], Failed)
    engine._cache._n_cells = 4096
    after = submit(engine)
    run(engine)
    assert outcome(after)[0] == "You said: hi"


def test_full_cache_of_the_models_own_is_emptied_for_who_is_alone():
    model = FakeModel()
    engine = load(model, system_prompt="s" * 50)
    first = submit(engine, "first")
    run(engine)
    request = submit(engine, "second")
    model.fault = NoRoom("full")
    run(engine)
    assert [outcome(each)[0] for each in (first, request)] == ["You said: first", "You said: second"]


def test_system_prompt_that_changes_with_the_date_gives_its_cells_back():
    """The cells of yesterday's prompt, which no chat begins with any more, stayed taken for ever."""
    today = [datetime(1999, 1, 1)]
    template = "{{ strftime_now('%Y') }}" + TEMPLATE
    model, clock = FakeModel(chat_template=template), FakeClock()
    engine = load(model, clock=clock, system_prompt="s" * 50)
    engine._prompter = Prompter(model, now=lambda: today[0])
    clock.now += RENEW_S
    run(engine, 1)
    assert model.n_used_cells == 0  # what was pinned at the start has the date of this machine
    run_chats = []
    for year in (1998, 2001):
        today[0] = datetime(year, 1, 1)
        clock.now += RENEW_S
        run(engine, 1)
        for word in ("a", "b"):
            request = chat(engine, word)
            run(engine, 30)
            run_chats.append(outcome(request)[1].n_cached_tokens)
    n_head = len(f"2001<s>[system]{'s' * 50}\n[user]") + 1
    assert run_chats == [0, n_head, 1, n_head]
    assert sum(sequence.is_pinned for sequence in engine._cache.sequences) == 1


class TimedModel(FakeModel):
    """Each decode takes as long as it has rows: 250 a second."""

    def __init__(self, clock: FakeClock, **changes: Any) -> None:
        super().__init__(**changes)
        self.clock = clock

    def decode(self, chunks: Any) -> None:
        self.clock.now += 0.004 * sum(len(chunk.tokens) for chunk in chunks)
        super().decode(chunks)


def test_machine_is_measured_when_idle_and_remembered(tmp_path: Path):
    clock = FakeClock()
    engine = load(TimedModel(clock, max_batch=16), clock=clock, measures=True, max_streams=None, state_dir=tmp_path)
    clock.now += REST_S
    run(engine, 40)
    known = json.loads((tmp_path / "steps.json").read_text())
    assert known["steps"] == {str(n): [pytest.approx(n * 0.004)] for n in (1, 2, 4, 8, 12, 16)}
    assert known["flash_attention"] is True
    assert engine.max_streams == MIN_STREAMS  # more rows bring no more here
    assert engine.model.n_used_cells == 0 and engine._cache.n_free_sequences == engine.model.n_sequences
    model = FakeModel(max_batch=16)
    run(load(model, measures=True, state_dir=tmp_path), 5)
    assert model.batches == [6]


def test_what_was_measured_before_a_restart_is_not_measured_again(tmp_path: Path):
    def start() -> tuple[Engine, FakeModel]:
        clock = FakeClock()
        model = TimedModel(clock, max_batch=16)
        engine = load(model, clock=clock, measures=True, max_streams=None, state_dir=tmp_path)
        clock.now += REST_S
        model.batches.clear()
        return engine, model

    engine, model = start()
    run(engine, 7)
    assert model.batches == [1, 1, 1, 2, 2, 2, 4]
    assert engine.max_streams == 8  # half of the fake's sequences: two prices do not tell yet how many pay
    engine.close()
    again, model = start()
    run(again, 7)
    assert model.batches == [4, 4, 4, 8, 8, 8, 12] and again.max_streams == 8


def test_measuring_costs_a_chat_nothing_and_ends(tmp_path: Path):
    """Symptom: under steady traffic every idle second cleared the cache, and measuring never ended: 8 turns of a chat
    with pauses of 3 s had no cached token."""
    clock = FakeClock()
    model = TimedModel(clock, answer=lambda prompt: "so it is", n_context=1024, n_cells=1400, max_batch=64)
    engine = load(model, clock=clock, measures=True, max_streams=None, state_dir=tmp_path)
    tokens: list[int] = [256]
    for turn in range(8):
        question = Request("r", [*tokens, *b"and then? ", 258], SamplingParams(max_tokens=8))
        engine.submit([question])
        while not engine.wait_idle(0):
            engine.step(idle_s=0)
        assert outcome(question)[1].n_cached_tokens >= len(tokens) - 1
        tokens = [*question.prompt_tokens, *b"so it is"]
        idle_until = clock.now + (3.0 if turn % 2 else 1.5)
        while clock.now < idle_until:
            clock.now += 0.05
            engine.step(idle_s=0)
    assert engine._cost.is_measured and engine._cost.cell_s is not None
    assert {path.name for path in tmp_path.iterdir()} == {"steps.json"}


def test_full_cache_is_not_emptied_for_a_measurement():
    clock = FakeClock()
    model = FakeModel(lambda prompt: "y", n_context=512, n_cells=512, max_batch=256, n_sequences=8)
    engine = load(model, clock=clock, measures=True)
    request = submit(engine, "x" * 480)
    run(engine)
    clock.now += REST_S
    run(engine, 100)
    assert sorted(engine._cost.points) == [1, 2, 4, 8, 12, 16]  # what the free cells hold
    assert engine._cache.match(request.prompt_tokens).n == len(request.prompt_tokens) - 1


def test_engine_sleeps_while_there_is_no_room_to_measure():
    model = FakeModel(lambda prompt: "y", n_context=512, n_cells=512, max_batch=256, n_sequences=8)
    clock = FakeClock()
    engine = load(model, clock=clock, measures=True)
    submit(engine, "x" * 480)
    run(engine)
    clock.now += REST_S
    run(engine, 100)
    assert not engine._wants_measuring and not engine._cost.is_measured


@pytest.mark.parametrize("fault", [NoRoom, ModelError, ZeroDivisionError])
def test_failed_measurement_ends_the_measuring_and_nothing_else(fault: type[Exception]):
    clock = FakeClock()
    model = FakeModel(lambda prompt: "yes", max_batch=16)
    engine = load(model, clock=clock, measures=True)
    clock.now += REST_S
    run(engine, 5)
    model.fault = fault("no")
    run(engine, 5)
    n_steps = len(model.batches)
    run(engine, 5)
    assert len(model.batches) == n_steps and engine._cache.n_free_sequences == model.n_sequences
    request = submit(engine)
    run(engine)
    assert outcome(request)[0] == "yes"


def test_drain_ends_the_measuring_after_the_step():
    clock = FakeClock()
    model = FakeModel(max_batch=16)
    engine = load(model, clock=clock, measures=True)
    clock.now += REST_S
    run(engine, 2)
    n_steps = len(model.batches)
    engine.drain()
    run(engine, 5)
    assert len(model.batches) == n_steps and engine.wait_idle(0)


def test_each_measured_step_beats_and_lets_a_request_in():
    beats: list[float] = []
    clock = FakeClock()
    model = FakeModel(lambda prompt: "yes", max_batch=64, n_context=2048)
    engine = load(model, measures=True, clock=clock, on_beat=beats.append)
    clock.now += REST_S
    beats.clear()
    model.batches.clear()
    run(engine, 40)
    assert len(beats) == len(model.batches) == 40
    request = submit(engine)
    run(engine, 4)
    assert outcome(request)[0] == "yes"


def test_guesses_do_not_change_the_answer():
    text = "the cat sat on the mat and the cat sat on the mat and the cat sat on the mat. " * 2
    answers, steps = [], []
    for speculates in (False, True):
        ticks = itertools.count()
        model = FakeModel(lambda prompt: text)
        engine = load(model, speculates=speculates, clock=ticks.__next__, timeout_s=1e9)
        for rows in (1, 2, 4, 8):
            engine._cost.measured(rows, 1)  # a guess costs nothing here
        request = submit(engine, "say it", max_tokens=len(text) - 3)
        model.batches.clear()
        run(engine)
        text_said, end = outcome(request)
        answers.append((text_said, end.reason, end.n_output_tokens))
        steps.append(len(model.batches))
        assert model.n_used_cells == len(request.prompt_tokens) + len(text) - 3 - 1
    assert answers[0] == answers[1]
    assert steps[1] < steps[0] * 0.6


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.tuples(st.text("ab", min_size=1, max_size=45), st.integers(1, 60))),
        st.tuples(st.just("chat"), st.tuples(st.text("ab", min_size=1, max_size=5), st.integers(1, 60))),
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("fault"), st.sampled_from([ModelError, ZeroDivisionError, NoRoom])),
        st.tuples(st.just("wait"), st.integers(1, 200)),
        st.tuples(st.just("drain"), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    actions=ACTIONS,
    max_queue=st.integers(0, 3),
    max_streams=st.integers(1, 4),
    n_cells=st.integers(60, 200),
    system_prompt=st.sampled_from(["", "s" * 10, "s" * 35]),
    shares=st.booleans(),
    speculates=st.booleans(),
    leaves_part=st.booleans(),
    measures=st.booleans(),
)
def test_every_accepted_request_has_exactly_one_end(
    actions: list[tuple[str, Any]],
    max_queue: int,
    max_streams: int,
    n_cells: int,
    system_prompt: str,
    shares: bool,
    speculates: bool,
    leaves_part: bool,
    measures: bool,
):
    """Whatever happens in whatever order: pieces, then one Done or Failed; what is done says what the fake model says
    alone; cells are counted right, and nothing stays open in the model. A pinned system prompt and a cache of one
    context: one long request ended the process, and never got its end."""
    clock = FakeClock()
    model = FakeModel(n_context=60, n_cells=n_cells, n_sequences=max_streams * 2, shares=shares)
    model.leaves_part = leaves_part
    limits = {"max_queue": max_queue, "max_streams": max_streams, "speculates": speculates, "timeout_s": 240}
    engine = load(model, clock=clock, system_prompt=system_prompt, measures=measures, **limits)
    has_faults = False
    for rows in (1, 2, 4, 8):
        engine._cost.measured(rows, 0.01)
    accepted: list[Request] = []
    try:
        for action, value in actions:
            if action == "submit":
                prompt, n = value
                with contextlib.suppress(QueueFull, Draining):
                    accepted.append(submit(engine, prompt, max_tokens=n))
            elif action == "chat":
                prompt, n = value
                messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
                with contextlib.suppress(QueueFull, Draining):
                    request = Request("chat", engine.prompter.encode_chat(messages), SamplingParams(max_tokens=n))
                    engine.submit([request])
                    accepted.append(request)
            elif action == "step":
                for _ in range(value):
                    engine.step(idle_s=0)
                    assert engine._cache.count_cells() == model.n_used_cells <= n_cells
                    assert engine._cache.n_free_sequences + len(engine._cache.sequences) == model.n_sequences
            elif action == "cancel" and accepted:
                engine.cancel(accepted[value % len(accepted)])
            elif action == "fault":
                model.fault = value("fault")
                has_faults = True
            elif action == "wait":
                clock.now += value
            elif action == "drain":
                engine.drain()
    except ModelFatal:
        assert has_faults
    engine.close()
    for request in accepted:
        got = events(request)
        assert [isinstance(event, Piece) for event in got] == [True] * (len(got) - 1) + [False]
        text = "".join(piece.text for piece in got[:-1])
        prompt = bytes(token for token in request.prompt_tokens if token < 256).decode()
        alone = echo(prompt)
        assert alone.startswith(text)
        if isinstance(got[-1], Done):
            n_most = min(request.params.max_tokens, model.n_context - len(request.prompt_tokens))
            is_late = clock.now - request.submitted_at >= 240
            assert text == alone[:n_most] or (is_late and text and got[-1].reason is FinishReason.LENGTH)
        elif not has_faults:
            assert got[-1].error.code in ("client_gone", "timeout", "draining")
    assert model.n_open_samplers == 0 and model.is_closed


def test_an_engine_that_does_not_beat_is_stuck_until_it_does():
    clock, metrics = FakeClock(), Metrics()
    engine = load(FakeModel(), clock=clock, metrics=metrics)
    assert (engine.is_ready, engine.state) == (True, "ready")
    clock.now += 1000
    assert (engine.is_ready, engine.state, engine.phase) == (False, "stuck", Phase.READY)
    assert metrics.numbers()["llm_engine_stuck"] == 1
    engine.step(idle_s=0)
    assert (engine.is_ready, engine.state) == (True, "ready")


def test_a_stuck_engine_that_drains_is_draining():
    clock = FakeClock()
    engine = load(FakeModel(), clock=clock)
    clock.now += 1000
    engine.drain()
    assert engine.state == "draining"


def ask(engine: Engine, client: str, prompt: str = "hi", **params: Any) -> Request:
    request = make_request(engine, prompt, **params)
    request.client = client
    engine.submit([request])
    return request


def test_a_greedy_client_waits_for_its_turn():
    """It filled the queue first; the others begin before its second."""
    engine = load(FakeModel(), max_streams=1, max_queue=8)
    greedy = [ask(engine, "g", f"g{i}") for i in range(5)]
    polite = [ask(engine, client, client) for client in "ab"]
    began: list[Request] = []
    for _ in range(500):
        engine.step(idle_s=0)
        began += [r for r in (*greedy, *polite) if r.started_at is not None and r not in began]
    assert began[:3] == [greedy[0], *polite] and len(began) == 7


def test_who_has_every_stream_makes_way_and_loses_nothing():
    model = FakeModel(n_cells=4096)
    engine = load(model, max_streams=3, max_queue=8)
    greedy = [ask(engine, "g", "long question " + str(i)) for i in range(3)]
    run(engine, 20)
    polite = ask(engine, "p")
    engine.step(idle_s=0)
    engine.step(idle_s=0)
    assert polite.started_at is not None and engine.n_running == 3
    run(engine)
    assert outcome(polite)[0] == "You said: hi"
    for i, request in enumerate(greedy):
        text, end = outcome(request)
        assert text == f"You said: long question {i}" and isinstance(end, Done)
    assert model.n_open_samplers == 0


def test_making_way_settles_and_nobody_is_put_back_again_and_again():
    metrics = Metrics()
    engine = load(FakeModel(), max_streams=2, max_queue=8, metrics=metrics)
    for i in range(4):
        ask(engine, "g", f"question {i}")
    run(engine, 5)
    for client in "abc":
        ask(engine, client, f"question of {client}")
    run(engine)
    assert metrics.numbers()["llm_preemptions_total"] == 1  # from two of g to one; afterwards all have at most one
    assert engine.n_running == engine.n_waiting == 0


def test_one_client_that_fills_the_queue_keeps_nobody_out():
    engine = load(FakeModel(), max_streams=1, max_queue=4)
    ask(engine, "g")
    engine.step(idle_s=0)
    for _ in range(4):
        ask(engine, "g")
    with pytest.raises(QueueFull):
        ask(engine, "g")
    ask(engine, "a")
    ask(engine, "b")
    with pytest.raises(QueueFull):
        ask(engine, "c")


def test_expected_wait_is_what_is_ahead_in_turn():
    """A polite client is not refused for a queue that it will not stand in."""
    engine = load(FakeModel(), is_known=False, max_streams=1, max_queue=8, max_wait_s=3)
    for rows in (1, 2, 4, 8, 12, 16):
        engine._cost.measured(rows, 0.1)  # an answer of ten tokens, half of what may be, takes a second
    ask(engine, "g", max_tokens=20)
    engine.step(idle_s=0)
    for _ in range(2):
        ask(engine, "g", max_tokens=20)
    with pytest.raises(QueueFull):
        [ask(engine, "g", max_tokens=20) for _ in range(2)]
    ask(engine, "p", max_tokens=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("gab"), st.integers(0, 9), st.integers(1, 30)), max_size=25))
def test_whoever_asks_in_whatever_order_each_ends_once_and_whole(asked: list[tuple[str, int, int]]):
    model = FakeModel(n_cells=1024)
    engine = load(model, max_streams=3, max_queue=40, max_queue_tokens=100_000)
    requests = []
    for client, n_steps, n in asked:
        requests.append((ask(engine, client, "x" * n), "You said: " + "x" * n))
        run(engine, n_steps)
    run(engine, 1500)
    for request, expected in requests:
        text, end = outcome(request)
        assert text == expected and isinstance(end, Done)
    assert engine.n_running == engine.n_waiting == 0 and model.n_open_samplers == 0
