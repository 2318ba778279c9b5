"""The engine, stepped by hand: no thread, no sleep, time stands still unless a test moves it."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine import MAX_FAULTS, Engine, Phase
from service.errors import ClientGone, Draining, ModelError, ModelFatal, NotReady, QueueFull, TimedOut
from service.metrics import Metrics
from service.request import Done, Event, Failed, FinishReason, Piece, Request
from tests.fakes import FakeClock, FakeModel
from tests.service.door import make_engine, make_request, wait_until


def load(model: FakeModel, **changes: Any) -> Engine:
    engine = make_engine(model, **changes)
    engine.load()
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
    assert model.computed == {} and model.n_open_samplers == 0


def test_full_queue_refuses_with_retry_after():
    engine = load(FakeModel(), max_queue=1)
    submit(engine)
    engine.step(idle_s=0)
    submit(engine)
    with pytest.raises(QueueFull, match="LLM_MAX_QUEUE=1") as caught:
        submit(engine)
    assert caught.value.status == 503 and 1 <= caught.value.retry_after_s <= 60


def test_queue_of_none_still_takes_one_to_run():
    engine = load(FakeModel(), max_queue=0)
    submit(engine)
    with pytest.raises(QueueFull):
        submit(engine)


def test_cancelled_while_waiting_ends_at_once_and_gives_its_place_back():
    engine = load(FakeModel(), max_queue=1)
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
    engine = load(model)
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


@pytest.mark.parametrize("n_steps", [0, 3])
def test_time_is_over_waiting_or_running(n_steps: int):
    clock = FakeClock()
    engine = load(FakeModel(), clock=clock, timeout_s=240)
    request = submit(engine)
    run(engine, n_steps)
    clock.now += 240
    run(engine, 1)
    end = outcome(request)[1]
    assert isinstance(end, Failed) and isinstance(end.error, TimedOut) and "240 s" in end.error.message


def test_fault_fails_only_that_request():
    model = FakeModel()
    engine = load(model)
    broken, sound = submit(engine, "broken"), submit(engine, "sound")
    model.fault = ModelError("llama_decode answered 1")
    run(engine)
    end = outcome(broken)[1]
    assert isinstance(end, Failed) and end.error.status == 500 and "llama" not in end.error.message
    assert outcome(sound)[0] == "You said: sound"


def test_fault_of_our_own_code_fails_only_that_request():
    model = FakeModel()
    engine = load(model)
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
    engine = make_engine(model)
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

    engine = Engine(load_model, max_queue=1, timeout_s=1, metrics=Metrics(), on_fatal=told.append)
    engine.start()
    wait_until(lambda: told and engine.phase is Phase.STOPPED)
    assert str(told[0]) == "no such model"


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


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 8)),
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("fault"), st.sampled_from([ModelError, ZeroDivisionError])),
        st.tuples(st.just("wait"), st.integers(1, 200)),
        st.tuples(st.just("drain"), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, st.integers(0, 3))
def test_every_accepted_request_has_exactly_one_end(actions: list[tuple[str, Any]], max_queue: int):
    """Whatever happens in whatever order: pieces, then one Done or Failed; and nothing stays open in the model."""
    clock = FakeClock()
    model = FakeModel(n_context=40)
    engine = load(model, clock=clock, max_queue=max_queue)
    accepted: list[Request] = []
    try:
        for action, value in actions:
            if action == "submit":
                with contextlib.suppress(QueueFull, Draining):
                    accepted.append(submit(engine, "x", max_tokens=value))
            elif action == "step":
                run(engine, value)
            elif action == "cancel" and accepted:
                engine.cancel(accepted[value % len(accepted)])
            elif action == "fault":
                model.fault = value("fault")
            elif action == "wait":
                clock.now += value
            elif action == "drain":
                engine.drain()
    except ModelFatal:
        pass
    engine.close()
    for request in accepted:
        got = events(request)
        assert [isinstance(event, Piece) for event in got] == [True] * (len(got) - 1) + [False]
    assert model.n_open_samplers == 0 and model.is_closed
