"""Every route through the WSGI door: an engine thread with a fake model behind it, no sockets."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.api import page
from service.api import reply as reply_room
from service.api.app import make_app
from service.api.keys import Keys
from service.api.status import COARSE, PRIVATE
from service.api.watch import Watch
from service.chat.constraint import Grammar
from service.chat.length import FIRST_CHARACTERS
from service.engine.request_queue import Phase
from service.errors import ServiceError
from service.metrics import Metrics
from service.request import Done, Failed, FinishReason, Piece, Progress, Request, SamplingParams
from tests.fakes import ANSWER, BOS, FakeConstraint, FakeModel, Gate
from tests.service.door import Door, Running, ScriptedEngine, make_config, parse_events, run_service, script, wait_until

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def service() -> Iterator[Running]:
    with run_service() as running:
        yield running


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.open(1)
    return gate


def test_generate_answers_in_one_json(service: Running):
    reply = service.door.post("/generate", {"prompt": "hi"})
    assert reply.status == 200 and reply.headers["Content-Type"] == "application/json"
    assert reply.json | {"id": "-", "timings": "-"} == {
        "id": "-",
        "model": "fake",
        "text": "You said: hi",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 12,
            "total_tokens": 23,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "timings": "-",
    }


def test_generate_streams(service: Running):
    reply = service.door.post("/generate", {"prompt": "hi", "stream": True})
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    *pieces, last, end = reply.events
    assert "".join(piece["text"] for piece in pieces) == "You said: hi" and len(pieces) == 12
    assert last["finish_reason"] == "stop" and last["usage"]["completion_tokens"] == 12
    assert end == "[DONE]"


def test_chat_streams(service: Running):
    events = service.door.post("/v1/chat/completions", {**HELLO, "stream": True}).events
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == "You said: hi"
    assert len({event["id"] for event in events[:-1]}) == 1


def test_completion_continues_the_text_as_it_is(service: Running):
    reply = service.door.post("/v1/completions", {"prompt": "abc", "max_tokens": 4})
    assert reply.json["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "text": "defg",
        "logprobs": None,
        "finish_reason": "length",
    }
    assert reply.json["usage"]["prompt_tokens"] == 4  # BOS, a, b, c


def test_streams_and_whole_answers_say_the_same(service: Running):
    whole = service.door.post("/v1/chat/completions", HELLO).json["choices"][0]["message"]["content"]
    events = service.door.post("/v1/chat/completions", {**HELLO, "stream": True}).events
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == whole


def test_stop_string_is_honoured(service: Running):
    reply = service.door.post("/generate", {"prompt": "hi", "stop": ["said"]})
    assert (reply.json["text"], reply.json["finish_reason"]) == ("You ", "stop")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("data", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b'{"prompt":"\xff"}', {}, 400, "invalid_value"),
        (b"[1]", {}, 400, "invalid_type"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        (b" " * 65537, {}, 413, "body_too_large"),
        (b" " * 65537, {"Content-Length": ""}, 413, "body_too_large"),
        (b'{"nope":1}', {}, 400, "unknown_parameter"),
    ],
)
def test_bad_bodies_are_refused_in_openais_shape(
    service: Running, path: str, data: bytes, headers: dict[str, str], status: int, code: str
):
    reply = service.door.call("POST", path, data, headers)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert reply.error["type"] == "invalid_request_error" and reply.headers["Content-Type"] == "application/json"


def test_too_long_prompt_is_refused_with_numbers(service: Running):
    reply = service.door.post("/generate", {"prompt": "x" * 600})
    assert reply.status == 400 and reply.error["code"] == "context_length_exceeded"
    assert reply.error["message"] == "messages: uses 609 tokens; the context holds 512, so at most 511"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/nope", 404),
        ("GET", "/generate", 405),
        ("DELETE", "/v1/chat/completions", 405),
        ("POST", "/healthz", 405),
        ("GET", "/v1/models/other", 404),
        ("GET", "/../service/api/app.py", 404),
        ("GET", "/static/chat.js", 404),
        ("GET", "/static/000000000000/chat.js", 404),
        ("GET", "/caf\xe9", 404),
    ],
)
def test_wrong_paths_and_methods_are_errors_of_the_same_shape(service: Running, method: str, path: str, status: int):
    reply = service.door.call(method, path)
    assert reply.status == status and reply.error["type"] == "invalid_request_error"


def test_models_are_listed(service: Running):
    listed = service.door.get("/v1/models").json
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["context"]) == ("fake", "model", 512)
    assert service.door.get("/v1/models/fake").json == model


def test_health_and_readiness(service: Running):
    assert service.door.get("/healthz").status == service.door.get("/readyz").status == 200
    service.engine.drain()
    assert service.door.get("/healthz").status == 200
    drained = service.door.get("/readyz")
    assert (drained.status, drained.json["status"]) == (503, "draining")
    refused = service.door.post("/generate", {"prompt": "x"})
    assert (refused.status, refused.error["code"]) == (503, "draining") and int(refused.headers["Retry-After"]) > 0


def test_health_and_models_answer_while_the_model_loads(gate: Gate):
    gate = Gate()  # not even the warm-up token
    with run_service(FakeModel(gate=gate), wait_ready=False) as service:
        assert gate.arrived.acquire(timeout=10)
        assert service.door.get("/healthz").status == 200
        ready = service.door.get("/readyz")
        assert (ready.status, ready.json["status"]) == (503, "loading") and ready.headers["Retry-After"]
        assert service.door.get("/v1/models").json["data"][0]["id"] == "fake"
        refused = service.door.post("/generate", {"prompt": "x"})
        assert (refused.status, refused.error["code"]) == (503, "not_ready") and refused.headers["Retry-After"]


def test_request_id_is_kept_if_plain_and_made_otherwise(service: Running):
    assert service.door.get("/healthz", **{"X-Request-Id": "a-1.b_2"}).headers["X-Request-Id"] == "a-1.b_2"
    for bad in ("", "x" * 65, "a b", 'a"b', "a\nb"):
        made = service.door.get("/healthz", **{"X-Request-Id": bad}).headers["X-Request-Id"]
        assert made != bad and len(made) == 32
    reply = service.door.post("/generate", {"prompt": "x"}, **{"X-Request-Id": "mine"})
    assert reply.json["id"] == reply.headers["X-Request-Id"] == "mine"
    assert service.door.get("/nope", **{"X-Request-Id": "mine"}).headers["X-Request-Id"] == "mine"


@pytest.mark.parametrize("path", sorted(page.map_paths()))
def test_page_is_served_with_its_headers(service: Running, path: str):
    reply = service.door.get(path)
    assert reply.status == 200 and len(reply.body) > 300
    assert ("immutable" in reply.headers["Cache-Control"]) == path.startswith("/static/")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/status"])
def test_page_needs_nothing_that_its_policy_forbids(service: Running, path: str):
    html = service.door.get(path).body.decode()
    assert "<style" not in html and not re.search(r"\s(style|on\w+)=", html)
    scripts = re.findall(r"<script[^>]*>.*?</script>", html, re.DOTALL)
    assert len(scripts) == html.count("<script") >= 1
    assert all(re.fullmatch(r'<script( type="module")? src="/static/[^"]+"></script>', script) for script in scripts)
    assert not re.search(r"(?:src|href)=.https?:", html)


def test_status_is_the_numbers_of_metrics(service: Running):
    service.door.post("/generate", {"prompt": "hi"})
    service.door.post("/generate", {"prompt": ""})
    status = service.door.get("/status.json").json
    assert (status["status"], status["model"]["id"], status["image"]) == ("ready", "fake", None)
    lines = service.door.get("/metrics").body.decode().splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("llm_") and "{" not in line)
    numbers = status["metrics"]
    assert numbers["llm_requests_finished_total"] == numbers["llm_requests_refused_total"] == 1
    hidden = {*PRIVATE, *COARSE}
    assert {name: float(told[name]) for name in told if "_created" not in name and name not in hidden} == {
        name: value for name, value in numbers.items() if name in told and name not in hidden
    }
    assert not numbers.keys() & set(PRIVATE) and set(PRIVATE) <= told.keys()
    assert len([name for name in numbers if name in told]) > 20


def test_metrics_tell_of_requests(service: Running):
    service.door.post("/generate", {"prompt": "hi"})
    service.door.post("/generate", {"prompt": ""})
    text = service.door.get("/metrics").body.decode()
    assert 'llm_requests_finished_total{reason="stop"} 1.0' in text
    assert 'llm_requests_refused_total{code="empty_prompt"} 1.0' in text
    assert "llm_generation_tokens_total 12.0" in text and "llm_ready 1.0" in text


def test_silent_stream_gets_a_comment(gate: Gate):
    with run_service(FakeModel(gate=gate), ping_s=0.05) as service:
        body = json.dumps({"prompt": "hi", "stream": True}).encode()
        chunks, status, _ = service.door.begin("POST", "/generate", body)
        iterator = iter(chunks)
        assert status == 200 and next(iterator) == b": ping\n\n" and next(iterator) == b": ping\n\n"
        gate.open_for_ever()
        rest = b"".join(iterator).decode()
        assert parse_events(rest)[-1] == "[DONE]" and '"finish_reason":"stop"' in rest


def test_failure_before_the_first_token_is_a_status(service: Running):
    service.model.fault = RuntimeError("broken")
    for stream in (False, True):
        service.model.fault = RuntimeError("broken")
        reply = service.door.post("/generate", {"prompt": "hi", "stream": stream})
        assert (reply.status, reply.error["code"]) == (500, "model_failed")
    assert service.door.post("/generate", {"prompt": "hi"}).status == 200


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
def test_failure_in_a_stream_is_its_last_event(gate: Gate, path: str):
    with run_service(FakeModel(gate=gate)) as service:
        gate.open(1)
        body = {"stream": True} | (HELLO if "chat" in path else {"prompt": "hi"})
        chunks, _, _ = service.door.begin("POST", path, json.dumps(body).encode())
        iterator = iter(chunks)
        begun = next(iterator)
        service.model.fault = RuntimeError("broken")
        gate.open_for_ever()
        events = parse_events((begun + b"".join(iterator)).decode())
        assert events[-1]["error"]["code"] == "model_failed"
        assert "[DONE]" not in events


def test_closed_stream_frees_the_engine(gate: Gate):
    with run_service(FakeModel(gate=gate)) as service:
        gate.open(1)
        body = json.dumps({"prompt": "hi", "stream": True}).encode()
        chunks, _, _ = service.door.begin("POST", "/generate", body)
        chunks.close()  # as waitress does when the socket is gone; not one chunk was read
        gate.open_for_ever()
        assert service.engine.wait_idle(10)
        assert service.metrics.finished.labels("client_gone")._value.get() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_vanishes_while_it_waits_is_let_go(gate: Gate, stream: bool):
    with run_service(FakeModel(gate=gate)) as service:
        service.door.is_gone = lambda: service.engine.n_waiting == 0 and service.engine.n_running
        reply = service.door.post("/generate", {"prompt": "hi", "stream": stream})
        assert reply.status == 499
        gate.open_for_ever()
        assert service.engine.wait_idle(10)
        assert service.metrics.finished.labels("client_gone")._value.get() == 1


def test_client_that_vanishes_in_the_queue_gives_its_place_back(gate: Gate):
    with run_service(FakeModel(gate=gate), max_queue=1) as service:
        first = threading.Thread(target=service.door.post, args=("/generate", {"prompt": "a"}))
        first.start()
        wait_until(lambda: service.engine.n_running)
        is_gone = threading.Event()
        service.door.is_gone = is_gone.is_set
        second = threading.Thread(target=service.door.post, args=("/generate", {"prompt": "b"}))
        second.start()
        wait_until(lambda: service.engine.n_waiting == 1)
        full = service.door.post("/generate", {"prompt": "c"})
        assert (full.status, full.error["code"]) == (503, "queue_full") and int(full.headers["Retry-After"]) >= 1
        is_gone.set()
        second.join(10)
        assert service.engine.n_waiting == 0
        gate.open_for_ever()
        first.join(10)


def test_many_clients_at_once_get_their_own_answers():
    with run_service(max_queue=40) as service:
        answers: dict[str, Any] = {}

        def ask(word: str) -> None:
            answers[word] = service.door.post("/generate", {"prompt": word}).json["text"]

        threads = [threading.Thread(target=ask, args=(f"word{i}",)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == {f"word{i}": f"You said: word{i}" for i in range(24)}


# Choices, progress and failures of some: a scripted engine says what a real one would say over time


def ended(index: int = 0) -> Done:
    return Done(FinishReason.STOP, 9, 1, 0, index=index)


def failed(index: int = 0) -> Failed:
    return Failed(ServiceError("broken", code="model_failed"), index)


PROGRESS = Progress(0, 1.0, 5, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_choices_share_the_prompt_and_come_back_by_index(service: Running, stream: bool):
    body = {**HELLO, "n": 3, "stream": stream, "seed": 5, "stream_options": {"include_usage": True} if stream else None}
    reply = service.door.post("/v1/chat/completions", body)
    if stream:
        *chunks, usage, _ = reply.events
        texts = ["", "", ""]
        for chunk in chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons.count("stop") == 3
    else:
        usage = reply.json
        texts = [choice["message"]["content"] for choice in reply.json["choices"]]
    assert texts == ["You said: hi"] * 3
    assert service.model.seeds[-3:] == [5, 6, 7]
    assert usage["usage"]["prompt_tokens"] == 11 and usage["usage"]["completion_tokens"] == 36


def test_several_prompts_are_answered_in_order_as_if_each_were_alone():
    with run_service(max_queue=8) as service:
        body = {"prompt": ["abc", [97, 98], "xyz"], "max_tokens": 2, "n": 2, "seed": 5}
        choices = service.door.post("/v1/completions", body).json["choices"]
        assert [choice["text"] for choice in choices] == ["de", "de", "cd", "cd", "ab", "ab"]
        assert [choice["index"] for choice in choices] == list(range(6))
        assert service.model.seeds[-6:] == [5, 6] * 3


def test_all_choices_are_accepted_or_none():
    with run_service(max_queue=1) as service:
        reply = service.door.post("/v1/chat/completions", {**HELLO, "n": 8})
        assert (reply.status, reply.error["param"]) == (400, "n")
        assert "at most 2" in reply.error["message"]
        assert service.engine.n_waiting == 0


@pytest.mark.parametrize("stream", [False, True])
def test_first_choice_that_fails_is_a_status_and_ends_the_others(stream: bool):
    engine, door = script(failed(1), Piece("a"), ended())
    reply = door.post("/v1/chat/completions", {**HELLO, "n": 3, "stream": stream})
    assert (reply.status, reply.error["code"]) == (500, "model_failed")
    assert engine.cancelled[:3] == [0, 1, 2]


def test_choice_that_fails_later_fails_the_whole_body():
    engine, door = script(Piece("a"), ended(), Piece("b", index=1), failed(1))
    reply = door.post("/v1/chat/completions", {**HELLO, "n": 2})
    assert (reply.status, reply.error["code"]) == (500, "model_failed") and engine.cancelled == [0, 1]


def test_each_key_has_a_namespace_and_a_salt_narrows_it():
    keys = ["sk-0123456789abcdef", "sk-fedcba9876543210"]
    engine, _ = script(Piece("a"), ended())
    door = Door(make_app(make_config(), engine, Metrics(), keys=Keys(keys)))
    seen = []
    for key in keys:
        for more in ({}, {}, {"cache_salt": "me"}, {"cache_salt": "you"}):
            assert door.post("/generate", {"prompt": "x", **more}, Authorization=f"Bearer {key}").status == 200
            (request,) = engine.requests
            seen.append((request.client, request.namespace))
            assert key not in f"{seen[-1]}"
    assert len({client for client, _ in seen}) == 2 and len({namespace for _, namespace in seen}) == 6


@pytest.mark.parametrize("salt", ["", "x" * 257, 7, ["a"], {}])
def test_salt_is_a_short_text(salt: Any):
    reply = script()[1].post("/v1/chat/completions", {**HELLO, "cache_salt": salt})
    assert reply.status == 400 and reply.error["param"] == "cache_salt"


def test_without_keys_cached_tokens_are_those_of_ones_own_address(service: Running):
    told = []
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.2"):
        service.door.headers = {"X-Real-IP": address}
        reply = service.door.post("/v1/chat/completions", HELLO).json
        told.append(reply["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert reply["timings"]["cache_n"] == told[-1]
        assert reply["timings"]["prompt_n"] == 11 - told[-1]
    assert told == [0, 0, 10, 10]
    assert service.metrics.cached_tokens._value.get() == 30


def test_what_was_accepted_is_answered_while_the_node_drains():
    """SIGTERM between submit and reply: 500 for an accepted request."""
    engine, door = script(Piece("a"), ended())
    submit = engine.submit

    def submit_and_drain(requests: list[Request]) -> None:
        submit(requests)
        del engine.model, engine.prompter

    engine.submit = submit_and_drain
    assert door.post("/generate", {"prompt": "x"}).json["text"] == "a"


def test_fault_of_our_own_code_is_a_json_500_and_frees_the_engine(monkeypatch: pytest.MonkeyPatch):
    engine, door = script()
    monkeypatch.setattr(Watch, "next_event", lambda *a: 1 / 0)
    assert door.post("/generate", {"prompt": "x"}).error["code"] == "internal_error"
    assert engine.cancelled == [0]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"prompt": "x", "json_schema": {"$ref": "\ud800"}}, "json_schema.$ref"),
        ("/generate", {"prompt": "x", "json_schema": {"enum": [["\udfff"]]}}, "json_schema.enum[0][0]"),
        ("/generate", {"prompt": "x", "json_schema": {"a": {"\ud800": 1}}}, "json_schema.a.\ufffd"),
        ("/generate", {"prompt": "x", "grammar": "\ud83d"}, "grammar"),
        ("/generate", {"prompt": "x", "model": "\ud800\ud800"}, "model"),
        ("/generate", {"prompt": "x", "user": {"metadata": ["\udc00"]}}, "user.metadata[0]"),
        ("/generate", {"prompt": "x", "\ud800": None}, "\ufffd"),
        ("/generate", {"prompt": "x", "\ud800": 1}, "\ufffd"),
        ("/v1/completions", {"prompt": ["x", "\udead"]}, "prompt[1]"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"\ud800": 1}}, "logit_bias.\ufffd"),
        ("/v1/completions", {"prompt": "x", "stop": ["a", "\ud800"]}, "stop[1]"),
        ("/v1/chat/completions", {"messages": [{"role": "\ud800"}]}, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "name": "\ud800"}]}, "messages[0].name"),
        ("/tokenize", {"content": "\ud800"}, "content"),
        ("/detokenize", {"tokens": ["\ud800"]}, "tokens[0]"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_is(path: str, body: dict[str, Any], param: str):
    """`$ref: "\\ud800"` answered 500 with HTML."""
    reply = script()[1].post(path, body)
    assert reply.status == 400 and reply.error["param"] == param
    assert "is half of a surrogate pair" in reply.error["message"]


def test_whole_surrogate_pair_is_a_character():
    engine, door = script(Piece("a"), ended())
    assert door.post("/generate", rb'{"prompt": "\ud83d\ude00", "user": "\\ud800"}').status == 200
    assert bytes(engine.requests[0].prompt_tokens[1:-1]).decode() == "[user]\U0001f600\n"


def test_choice_that_fails_in_a_stream_ends_it_with_the_error():
    """The others are cancelled before the error is written: its reader may be slow."""
    engine, door = script(Piece("a"), ended(), failed(1), Piece("never"))
    body = json.dumps({**HELLO, "n": 2, "stream": True}).encode()
    chunks, _, _ = door.begin("POST", "/v1/chat/completions", body)
    text = next(chunk for chunk in chunks if b'"error"' in chunk).decode()
    assert engine.cancelled == [0, 1] and parse_events(text)[0]["error"]["code"] == "model_failed"
    assert list(chunks) == []


def test_client_that_leaves_ends_all_choices():
    engine, door = script(Piece("a"))
    door.is_gone = lambda: bool(engine.requests)
    assert door.post("/v1/chat/completions", {**HELLO, "n": 2}).status == 499
    assert engine.cancelled == [0, 1]


def test_progress_is_sent_to_who_asks_for_it():
    engine, door = script(PROGRESS, Piece("a"), ended())
    events = door.post("/v1/chat/completions", {**HELLO, "stream": True, "return_progress": True}).events
    assert engine.requests[0].wants_progress
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[1]["prompt_progress"] | {"time_ms": 0} == {"total": 11, "cache": 2, "processed": 5, "time_ms": 0}
    assert events[1]["queue"] == {"place": 0, "wait_s": 1.0}
    assert not any("prompt_progress" in event for event in events[2:-1])


@pytest.mark.parametrize("body", [{}, {"stream": True}, {"return_progress": True}])
def test_progress_is_not_asked_of_the_engine_for_anybody_else(body: dict[str, Any]):
    engine, door = script(Piece("a"), ended())
    assert door.post("/v1/chat/completions", {**HELLO, **body}).status == 200
    assert not engine.requests[0].wants_progress


def test_first_progress_sends_the_headers():
    """Who asks for progress waits for it, not for an error's status: what fails afterwards is an event."""
    _, door = script(PROGRESS, failed())
    reply = door.post("/v1/chat/completions", {**HELLO, "stream": True, "return_progress": True})
    assert reply.status == 200 and reply.events[-1]["error"]["code"] == "model_failed"
    _, door = script(failed())
    reply = door.post("/v1/chat/completions", {**HELLO, "stream": True, "return_progress": True})
    assert reply.status == 500


def test_what_a_body_says_reaches_the_engine():
    engine, door = script(Piece("a"), ended())
    body = {"temperature": 0.5, "min_p": 0.1, "repeat_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.4}
    more = {"logit_bias": {"97": -100}, "logprobs": True, "top_logprobs": 2, "grammar": "root ::= [a]", "seed": 3}
    door.post("/v1/chat/completions", {**HELLO, **body, **more, "stop": "x", "max_tokens": 9})
    assert engine.requests[0].params == SamplingParams(
        max_tokens=9,
        **body,
        seed=3,
        stop=("x",),
        logit_bias=((97, -100.0),),
        n_logprobs=2,
        constraint=FakeConstraint(Grammar("grammar", gbnf="root ::= [a]")),
    )


def test_response_format_binds_the_answer(service: Running):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "additionalProperties": False}
    schema["required"] = ["ok"]
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    reply = service.door.post("/v1/chat/completions", {**HELLO, "response_format": asked})
    assert json.loads(reply.json["choices"][0]["message"]["content"]) == {"ok": False}


def test_each_choice_has_a_constraint_of_its_own(service: Running):
    body = {**HELLO, "n": 3, "grammar": 'root ::= "You" [a-z ]+ ": ha"'}
    choices = service.door.post("/v1/chat/completions", body).json["choices"]
    assert {choice["message"]["content"] for choice in choices} == {"You said: ha"}


def test_schema_that_cannot_be_kept_is_refused_by_its_name(service: Running):
    hiccup = {"type": "json_schema", "json_schema": {"schema": {"type": "hiccup"}}}
    reply = service.door.post("/v1/chat/completions", {**HELLO, "response_format": hiccup})
    assert (reply.status, reply.error["code"]) == (400, "invalid_grammar")
    assert reply.error["param"] == "response_format.json_schema.schema"
    assert reply.error["message"] == "response_format.json_schema.schema: Invalid type: hiccup"


def test_defaults_are_the_models_and_models_tell_them():
    engine, door = script(Piece("a"), ended())
    engine.model.sampling_defaults = {"temperature": 0.0}
    defaults = door.get("/v1/models").json["data"][0]["defaults"]
    assert (defaults["temperature"], defaults["top_p"], defaults["seed"]) == (0.0, 0.95, None)
    door.post("/v1/chat/completions", HELLO)
    assert engine.requests[0].params.temperature == 0.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": [97, 259]}, "prompt: token 259 is not in the vocabulary, which ends at 258"),
        (
            {"prompt": "a", "logit_bias": {"259": 1}},
            "logit_bias: token 259 is not in the vocabulary, which ends at 258",
        ),
    ],
)
def test_tokens_the_model_does_not_have_never_reach_it(service: Running, body: dict[str, Any], message: str):
    reply = service.door.post("/v1/completions", body)
    assert reply.status == 400 and reply.error["message"] == message


@pytest.mark.parametrize(("path", "body"), [("/generate", {"prompt": "hi"}), ("/v1/chat/completions", HELLO)])
def test_system_prompt_of_the_node_comes_first(path: str, body: dict[str, Any]):
    with run_service(FakeModel(lambda prompt: prompt), system_prompt="be kind") as service:
        reply = service.door.post(path, body).json
        text = reply["text"] if "text" in reply else reply["choices"][0]["message"]["content"]
        assert text == "[system]be kind\n[user]hi\n"


def test_fingerprint_names_what_computed_the_answer(service: Running):
    answers = [service.door.post("/v1/chat/completions", {**HELLO, "stream": stream}) for stream in (False, True)]
    prints = {answers[0].json["system_fingerprint"], *(e["system_fingerprint"] for e in answers[1].events[:-1])}
    assert len(prints) == 1 and re.fullmatch(r"b[0-9a-f]{10}", prints.pop())


# Tokens


def test_tokens_go_there_and_back(service: Running):
    tokens = service.door.post("/tokenize", {"content": "hé"}).json["tokens"]
    assert tokens == [104, 0xC3, 0xA9]
    assert service.door.post("/tokenize", {"content": "h", "add_special": True}).json["tokens"] == [BOS, 104]
    assert service.door.post("/detokenize", {"tokens": tokens}).json == {"content": "hé"}
    pieces = service.door.post("/tokenize", {"content": "hé", "with_pieces": True}).json["tokens"]
    assert pieces == [{"id": 104, "piece": "h"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]


def test_markers_are_tokens_unless_told_otherwise(service: Running):
    assert service.door.post("/tokenize", {"content": "<answer>"}).json["tokens"] == [ANSWER]
    plain = service.door.post("/tokenize", {"content": "<answer>", "parse_special": False}).json["tokens"]
    assert bytes(plain) == b"<answer>"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {}, "content: is missing"),
        ("/tokenize", {"content": ["a"]}, "content: is a list, must be a string"),
        ("/detokenize", {"tokens": [259]}, "tokens: token 259 is not in the vocabulary, which ends at 258"),
        ("/detokenize", {"tokens": "a"}, "tokens: is a string, must be a list of token ids"),
    ],
)
def test_faults_of_token_routes_are_told(service: Running, path: str, body: dict[str, Any], message: str):
    reply = service.door.post(path, body)
    assert reply.status == 400 and reply.error["message"] == message


# Keys


@pytest.fixture
def locked() -> Door:
    engine = ScriptedEngine(Piece("a"), ended())
    return Door(make_app(make_config(), engine, Metrics(), keys=Keys(["sk-0123456789abcdef"])))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/generate"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/fake"),
        ("GET", "/status.json"),
        ("GET", "/static/../status.json"),
        ("GET", "/nope"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/healthz/"),
    ],
)
@pytest.mark.parametrize("header", ["", "Bearer wrong-wrong-wrong"])
def test_closed_doors_ask_for_a_key(locked: Door, method: str, path: str, header: str):
    reply = locked.call(method, path, b'{"prompt":"hi"}', {"Authorization": header})
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert reply.headers["Www-Authenticate"] == 'Bearer realm="llamakiln"'


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/openapi.json", *page.map_paths()])
def test_open_doors_need_no_key(locked: Door, path: str):
    assert locked.get(path).status == 200


def test_key_opens(locked: Door):
    given = {"Authorization": "Bearer sk-0123456789abcdef"}
    assert locked.post("/v1/chat/completions", HELLO, **given).status == 200
    assert locked.get("/v1/models", **given).status == 200


# Methods


def test_head_is_get_without_a_body(service: Running):
    for path in ("/healthz", "/v1/models", "/"):
        assert service.door.call("HEAD", path).status == 200 and service.door.call("HEAD", path).body == b""
    assert service.door.call("HEAD", "/generate").status == 405


def test_options_tells_what_is_allowed(service: Running):
    assert service.door.call("OPTIONS", "/generate").headers["Allow"] == "POST"
    assert service.door.call("OPTIONS", "/nope").status == 404


def test_a_stuck_engine_is_not_ready_and_its_node_lives():
    engine, door = script()
    engine.is_ready, engine.state, engine.phase = False, "stuck", Phase.READY
    reply = door.get("/readyz")
    assert (reply.status, reply.json, reply.headers["Retry-After"]) == (503, {"status": "stuck"}, "5")
    assert door.get("/healthz").status == 200
    assert door.get("/status.json").json["status"] == "stuck"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"prompt": "x" * 60000}, "messages"),
        ("/v1/completions", {"prompt": "x" * 60000}, "prompt"),
        ("/v1/completions", {"prompt": ["x", "x" * 50000]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 60000}]}, "messages"),
    ],
)
def test_a_text_far_too_long_is_refused_by_its_beginning(path: str, body: dict[str, Any], param: str):
    """A megabyte cost a tokenizer up to ten seconds of a core before its length was looked at."""
    engine, door = script()
    read: list[int] = []
    tokenize = engine.model.tokenize
    engine.model.tokenize = lambda text, **how: read.append(len(text)) or tokenize(text, **how)
    reply = door.post(path, body)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "context_length_exceeded", param)
    assert "more than 512 tokens" in reply.error["message"]
    assert sum(read) <= FIRST_CHARACTERS * engine.model.n_context + 10


def test_a_long_reply_is_written_in_pieces(service: Running, monkeypatch: pytest.MonkeyPatch):
    """One call of json's C code would hold the interpreter for most of a second: a megabyte of one-byte tokens."""
    sizes: list[int] = []
    dumps = reply_room.json.dumps
    content = "ab" * 30000
    body = json.dumps({"content": content, "with_pieces": True}).encode()
    monkeypatch.setattr(reply_room.json, "dumps", lambda *a, **k: sizes.append(len(text := dumps(*a, **k))) or text)
    reply = service.door.post("/tokenize", body)
    assert "".join(token["piece"] for token in reply.json["tokens"]) == content
    assert max(sizes) < 100 * reply_room.BATCH
    monkeypatch.undo()
    tokens = [token["id"] for token in reply.json["tokens"]][:15000]
    assert service.door.post("/detokenize", {"tokens": tokens}).json == {"content": content[:15000]}
