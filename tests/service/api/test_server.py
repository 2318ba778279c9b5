"""waitress on loopback: what only sockets show."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest

from service.api.server import SPARE_THREADS
from tests.fakes import FakeModel, Gate
from tests.service.door import Running, run_service, wait_until


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.open(1)
    return gate


@pytest.fixture
def held(gate: Gate) -> Iterator[Running]:
    """A service whose model waits at the gate."""
    with run_service(FakeModel(gate=gate), on_socket=True, max_queue=2) as service:
        yield service


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with run_service(on_socket=True) as service:
        yield openai.OpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0)


def post_raw(service: Running, body: dict[str, object]) -> socket.socket:
    """A client that has asked and can vanish."""
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", service.server.port), 10)
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def n_gone(service: Running) -> float:
    return service.metrics.finished.labels("client_gone")._value.get()


@pytest.mark.parametrize("stream", [False, True])
def test_vanished_client_frees_the_engine(held: Running, gate: Gate, stream: bool):
    client = post_raw(held, {"prompt": "x", "stream": stream})
    wait_until(lambda: held.engine.n_running)
    running = held.engine._runs[0].request
    client.close()
    wait_until(lambda: running.is_cancelled)
    gate.open(1)  # the step that was under way
    wait_until(lambda: n_gone(held) == 1)
    assert running.n_output_tokens <= 1


def test_client_that_vanishes_in_the_middle_of_a_stream_frees_the_engine(held: Running, gate: Gate):
    client = post_raw(held, {"prompt": "x", "stream": True})
    gate.open(2)
    received = b""
    while b'"text":"o"' not in received:
        received += client.recv(4096)
    client.close()
    running = held.engine._runs[0].request
    wait_until(lambda: running.is_cancelled)
    gate.open(2)
    wait_until(lambda: n_gone(held) == 1)


def test_client_that_vanishes_in_the_queue_gives_its_place_back(held: Running):
    clients = [post_raw(held, {"prompt": "x"})]
    wait_until(lambda: held.engine.n_running)
    clients += [post_raw(held, {"prompt": "x"}) for _ in range(2)]
    wait_until(lambda: held.engine.n_waiting == 2)
    assert httpx.post(held.url + "/generate", json={"prompt": "x"}).status_code == 503
    clients[1].close()
    wait_until(lambda: held.engine.n_waiting == 1)
    assert n_gone(held) == 1
    for client in clients:
        client.close()


def test_health_answers_while_every_place_is_taken(held: Running):
    clients = [post_raw(held, {"prompt": "x"}) for _ in range(3)]
    wait_until(lambda: held.engine.n_waiting == 2)
    refused = [httpx.post(held.url + "/generate", json={"prompt": "x"}).status_code for _ in range(3)]
    assert refused == [503, 503, 503]
    assert httpx.get(held.url + "/healthz", timeout=5).status_code == 200
    assert httpx.get(held.url + "/readyz", timeout=5).status_code == 200  # busy is not unready
    for client in clients:
        client.close()


def test_threads_follow_from_the_queue(held: Running):
    assert len(held.server.task_dispatcher.threads) == 1 + 2 + 1 + SPARE_THREADS


def test_body_limit_is_exact_and_its_error_is_json():
    with run_service(on_socket=True, max_body_bytes=2000) as service:
        fits = json.dumps({"prompt": "x"}).encode().ljust(2000)
        headers = {"Content-Type": "application/json"}
        assert httpx.post(service.url + "/generate", content=fits, headers=headers).status_code == 200
        for n_more in (1, 100_000):
            reply = httpx.post(service.url + "/generate", content=fits + b" " * n_more, headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
        chunked = httpx.post(service.url + "/generate", content=iter([fits, b" " * 9000]), headers=headers)
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_bad_http_is_a_json_400(held: Running, data: bytes):
    with socket.create_connection(("127.0.0.1", held.server.port), 10) as client:
        client.sendall(data)
        received = b""
        while chunk := client.recv(4096):
            received += chunk
    assert received.startswith(b"HTTP/1.") and b" 400 " in received.split(b"\r\n")[0]
    assert json.loads(received.split(b"\r\n\r\n")[1])["error"]["code"] == "invalid_http"


def test_flushed_means_every_answer_was_written(held: Running, gate: Gate):
    client = post_raw(held, {"prompt": "x"})
    wait_until(lambda: held.engine.n_running)
    assert not held.server.wait_flushed(0.05)
    gate.open_for_ever()
    assert held.server.wait_flushed(10)
    client.close()


def test_connection_is_kept_for_the_next_request(held: Running):
    with httpx.Client() as client:
        client.get(held.url + "/healthz")
        before = len(held.server.active_channels)
        client.get(held.url + "/healthz")
        assert len(held.server.active_channels) == before == 1


# The official client is the judge of OpenAI's shapes


def test_openai_client_chats(client: openai.OpenAI):
    answer = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "You said: hi"
    assert answer.choices[0].finish_reason == "stop" and answer.usage.total_tokens == 23


def test_openai_client_streams_with_usage(client: openai.OpenAI):
    chunks = list(
        client.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: hi"
    assert chunks[-1].usage.completion_tokens == 12 and chunks[-1].choices == []
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"


def test_openai_client_streams_through_its_helper(client: openai.OpenAI):
    with client.chat.completions.stream(model="fake", messages=[{"role": "user", "content": "hi"}]) as stream:
        assert stream.get_final_completion().choices[0].message.content == "You said: hi"


def test_openai_client_completes(client: openai.OpenAI):
    assert client.completions.create(model="fake", prompt="abc", max_tokens=3).choices[0].text == "def"
    pieces = client.completions.create(model="fake", prompt="abc", max_tokens=3, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "def"


def test_openai_client_lists_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").id == "fake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_openai_client_understands_our_errors(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}], temperature=3)
    assert caught.value.param == "temperature" and caught.value.code == "invalid_value"
    assert "must be a number from 0 to 2" in caught.value.message


def test_openai_client_raises_on_a_failure_in_the_stream(held: Running, gate: Gate):
    client = openai.OpenAI(base_url=held.url + "/v1", api_key="none", max_retries=0)
    gate.open(1)
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    iterator = iter(stream)
    next(iterator)
    next(iterator)
    held.model.fault = RuntimeError("broken")
    gate.open_for_ever()
    with pytest.raises(openai.APIError, match="the model failed"):
        list(iterator)


def test_openai_client_sees_a_busy_node(held: Running):
    clients = [post_raw(held, {"prompt": "x"}) for _ in range(3)]
    wait_until(lambda: held.engine.n_waiting == 2)
    client = openai.OpenAI(base_url=held.url + "/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="m", prompt="x")
    assert caught.value.status_code == 503 and int(caught.value.response.headers["Retry-After"]) >= 1
    for each in clients:
        each.close()


def test_two_hundred_short_connections_leave_nothing_behind(held: Running, gate: Gate):
    gate.open_for_ever()
    n_before = threading.active_count()
    for _ in range(200):
        post_raw(held, {"prompt": "x", "stream": True}).close()
    wait_until(lambda: held.engine.wait_idle(0) and held.server.wait_flushed(0))
    wait_until(lambda: not held.server.active_channels)
    assert threading.active_count() == n_before
    assert httpx.post(held.url + "/generate", json={"prompt": "after"}).json()["text"] == "You said: after"
