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


def post_raw(service: Running, body: dict[str, object], version: str = "1.1") -> socket.socket:
    """A client that has asked and can vanish."""
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", service.server.port), 10)
    head = f"POST /generate HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def read_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def n_gone(service: Running) -> float:
    return service.metrics.finished.labels("client_gone")._value.get()


@pytest.mark.parametrize("stream", [False, True])
def test_vanished_client_frees_the_engine(held: Running, gate: Gate, stream: bool):
    client = post_raw(held, {"prompt": "x", "stream": stream})
    wait_until(lambda: held.engine.n_running)
    running = held.engine._queue.runs[0].request
    client.close()
    wait_until(lambda: running.is_cancelled)
    gate.open(1)  # the step that was under way
    wait_until(lambda: n_gone(held) == 1)
    assert running.n_output_tokens <= 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("n_polls", [1, 3])
def test_client_that_has_ended_its_sending_gets_its_answer(
    held: Running, gate: Gate, stream: bool, version: str, n_polls: int
):
    """It was taken for one that had gone, and got nothing."""
    client = post_raw(held, {"prompt": "x", "stream": stream}, version)
    client.shutdown(socket.SHUT_WR)
    wait_until(lambda: held.engine.n_running)
    (channel,) = held.server.active_channels.values()
    wait_until(lambda: channel._n_probes)
    for _ in range(n_polls - 1):  # more of the status line comes before the answer
        n_before, channel._next_probe_at = channel._n_probes, 0.0
        wait_until(lambda n_before=n_before: channel._n_probes > n_before)
    assert client.recv(1, socket.MSG_PEEK) == b"H"
    gate.open_for_ever()
    head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].decode() == f"HTTP/{version} 200 OK"
    said = "You said: x" if not stream else '"finish_reason":"stop"'
    assert said in body.decode()
    wait_until(lambda: not held.server.active_channels)


def test_client_that_ends_its_sending_gets_all_that_it_asked_for(held: Running, gate: Gate):
    """Two requests in one go, and half of a third that never comes."""
    client = post_raw(held, {"prompt": "x"})
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
    client.shutdown(socket.SHUT_WR)
    gate.open_for_ever()
    assert read_all(client).count(b"HTTP/1.1 200 OK") == 2
    wait_until(lambda: not held.server.active_channels)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_ends_its_sending_and_then_vanishes_frees_the_engine(held: Running, gate: Gate, stream: bool):
    client = post_raw(held, {"prompt": "x", "stream": stream})
    client.shutdown(socket.SHUT_WR)
    wait_until(lambda: held.engine.n_running)
    running = held.engine._queue.runs[0].request
    assert client.recv(1) == b"H"
    client.close()
    wait_until(lambda: running.is_cancelled)
    gate.open_for_ever()
    wait_until(lambda: n_gone(held) == 1)


def test_client_that_vanishes_while_its_stream_is_silent_frees_the_engine(held: Running, gate: Gate):
    """What is written to it tells that it has gone, so after its last word it is written to sooner than in 10 s."""
    client = post_raw(held, {"prompt": "x", "stream": True})
    gate.open(1)
    while b'"text":"Y"' not in client.recv(4096, socket.MSG_PEEK):
        pass
    client.recv(4096)
    running = held.engine._queue.runs[0].request
    client.close()
    wait_until(lambda: running.is_cancelled)


def test_client_that_vanishes_in_the_middle_of_a_stream_frees_the_engine(held: Running, gate: Gate):
    client = post_raw(held, {"prompt": "x", "stream": True})
    gate.open(2)
    received = b""
    while b'"text":"o"' not in received:
        received += client.recv(4096)
    client.close()
    running = held.engine._queue.runs[0].request
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
        b"POST /generate HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET http://[x]y/ HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nX: \x01\r\nY\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_bad_http_is_a_json_400(held: Running, data: bytes):
    with socket.create_connection(("127.0.0.1", held.server.port), 10) as client:
        client.sendall(data)
        received = read_all(client)
    assert received.startswith(b"HTTP/1.") and b" 400 " in received.split(b"\r\n")[0]
    assert json.loads(received.split(b"\r\n\r\n")[1])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"TRACE / HTTP/1.1", 405),
        (b"FOO /healthz HTTP/1.1", 405),
        (b"PROXY /healthz HTTP/1.1", 405),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"CONNECT x:1 HTTP/1.1", 404),
        (b"PRI * HTTP/2.0", 404),
        (b"GET /%ff%fe%00 HTTP/1.1", 404),
        (b"GET /\xc3\xa9\xff HTTP/1.1", 400),
        (b"GET /%zz%2 HTTP/1.1", 404),
        (b"GET /status%0a HTTP/1.1", 404),
        (b"GET /v1/models/%ed%a0%80 HTTP/1.1", 404),
        (b"GET //../../etc/passwd HTTP/1.1", 404),
        (b"GET /static/..%2f..%2fconfig.py HTTP/1.1", 404),
        (b"GET " + b"/x" * 8000 + b" HTTP/1.1", 404),
        (b"POST / HTTP/1.1", 405),
        (b"GET /nothing HTTP/0.9", 404),
        (b"GET /nothing", 404),
    ],
)
def test_whatever_is_asked_for_is_refused_in_json(held: Running, line: bytes, status: int):
    """Bottle's and waitress's own answers are HTML and plain text."""
    with socket.create_connection(("127.0.0.1", held.server.port), 10) as client:
        client.sendall(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status and b"Content-Type: application/json" in head
    assert json.loads(body)["error"]["message"]


@pytest.mark.parametrize("host", [b"\xff:99999[", b"a b", b"x" * 9000, b"localhost\x00.example"])
def test_whatever_host_is_named_is_refused_in_json(held: Running, host: bytes):
    with socket.create_connection(("127.0.0.1", held.server.port), 10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert int(head.split()[1]) in (400, 421) and b"Content-Type: application/json" in head
    assert json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "line", [b"HEAD /nothing HTTP/1.1", b"HEAD /generate HTTP/1.1", b"HEAD / HTTP/1.1\r\nBad Line"]
)
def test_head_is_refused_without_a_body(held: Running, line: bytes):
    with socket.create_connection(("127.0.0.1", held.server.port), 10) as client:
        client.sendall(line + b"\r\nConnection: close\r\n\r\n")
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.split()[1].startswith(b"40") and b"Content-Type: application/json" in head and body == b""


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
