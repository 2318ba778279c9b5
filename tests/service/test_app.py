"""Every route through the WSGI door: an engine thread with a fake model behind it, no sockets."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes import FakeModel, Gate
from tests.service.door import Running, parse_events, run_service, wait_until

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
    assert reply.json | {"id": "-"} == {
        "id": "-",
        "model": "fake",
        "text": "You said: hi",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 11, "completion_tokens": 12, "total_tokens": 23},
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
        ("GET", "/../service/app.py", 404),
        ("GET", "/static/chat.js", 404),
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


@pytest.mark.parametrize("path", ["/", "/index.html", "/chat.js", "/style.css", "/icon.svg"])
def test_page_is_served_with_its_headers(service: Running, path: str):
    reply = service.door.get(path)
    assert reply.status == 200 and len(reply.body) > 300
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


def test_page_needs_nothing_that_its_policy_forbids(service: Running):
    page = service.door.get("/").body.decode()
    assert "<style" not in page and not re.search(r"\s(style|on\w+)=", page)
    assert page.count("<script") == 1 and 'src="/chat.js"' in page
    assert "http://" not in page and "https://" not in page


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
