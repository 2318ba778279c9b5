"""Port 80 from outside, as a browser and an API client see it: page, answers, streams, bad requests, lost clients."""

import http.client
import json
import socket
import struct
import time

import httpx
import pytest

PROMPT = {"prompt": "What is this project?", "max_tokens": 24, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "What is this project?"}], "max_tokens": 24, "temperature": 0}


def read_events(response: httpx.Response) -> list[str]:
    """Return the data of each server-sent event; comments (pings) are not events."""
    return [line.removeprefix("data:").strip() for line in response.iter_lines() if line.startswith("data:")]


def get_as_written(web: httpx.Client, path: str) -> tuple[int, str]:
    """GET a path that an HTTP library would tidy up first, like //x or /../x; (status, body)."""
    connection = http.client.HTTPConnection(web.base_url.host, web.base_url.port or 80, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def stream(web: httpx.Client, path: str, body: dict) -> list[str]:
    with web.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return read_events(response)


def test_page_is_served_with_its_policy(web):
    """The page shows a model's words: a content security policy keeps them from ever becoming code."""
    page = web.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src" in policy
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize("file", ["chat.js", "style.css"])
def test_page_finds_its_files(web, file):
    page = web.get("/").text
    path = next(part for part in page.split('"') if part.endswith(file))
    assert web.get(httpx.URL("/").join(path).path).status_code == 200


def test_page_of_the_node_tells_what_was_baked(web):
    assert web.get("/status").headers["content-type"].startswith("text/html")
    status = web.get("/status.json").json()
    assert status["status"] == "ready"
    assert status["library_set"]
    assert status["image"]["version"]
    assert status["image"]["model"]["sha256"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_shown(web, path):
    """The load balancer asks these."""
    assert web.get(path).status_code == 200


def test_server_does_not_tell_its_version(web):
    assert not any(character.isdigit() for character in web.get("/").headers.get("server", ""))


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6detrics", "//metrics", "/METRICS"])
def test_metrics_are_not_for_the_world(web, path):
    """However it is spelled: load and timing of a node are the operator's business."""
    status, body = get_as_written(web, path)
    assert status in (403, 404)
    assert "# TYPE" not in body


@pytest.mark.parametrize(
    "path", ["/.git/config", "/etc/passwd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/nothing"]
)
def test_other_paths_are_not_found(web, path):
    status, body = get_as_written(web, path)
    assert status in (400, 403, 404)
    assert "root:" not in body


def test_generate_answers_as_one_json(web):
    answer = web.post("/generate", json=PROMPT)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["text"].strip()


def test_generate_streams_pieces(web):
    """Several events, not one at the end: NGINX must not buffer."""
    events = stream(web, "/generate", PROMPT)
    assert len(events) > 3


def test_pieces_arrive_while_the_answer_is_made(web):
    """The first piece comes in the first half of the whole time."""
    started = time.monotonic()
    with web.stream("POST", "/generate", json=PROMPT | {"stream": True, "max_tokens": 64}) as response:
        first = None
        for line in response.iter_lines():
            if line.startswith("data:") and first is None:
                first = time.monotonic() - started
    assert first is not None
    assert first < 0.5 * (time.monotonic() - started)


def test_streamed_text_is_the_unstreamed_text(web):
    """Temperature 0: the same model gives the same words through both doors."""
    pieces = [json.loads(event) for event in stream(web, "/v1/chat/completions", CHAT) if event != "[DONE]"]
    streamed = "".join(choice["delta"].get("content") or "" for piece in pieces for choice in piece["choices"])
    whole = web.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"]
    assert streamed.strip()
    assert streamed == whole


def test_chat_stream_ends_with_done(web):
    assert stream(web, "/v1/chat/completions", CHAT)[-1] == "[DONE]"


def test_completions_answer(web):
    answer = web.post("/v1/completions", json=PROMPT)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"].strip()


def test_models_are_listed(web):
    """One model, the baked one, under the name that answers carry."""
    models = web.get("/v1/models").json()["data"]
    assert len(models) == 1
    assert web.post("/v1/completions", json=PROMPT).json()["model"] == models[0]["id"]


BAD_REQUESTS = {
    "no JSON": ("/generate", b"{nonsense", {400}),
    "not an object": ("/generate", b"[1, 2]", {400, 422}),
    "no prompt": ("/generate", b"{}", {400, 422}),
    "prompt is a number": ("/generate", b'{"prompt": 7}', {400, 422}),
    "negative max_tokens": ("/generate", b'{"prompt": "x", "max_tokens": -1}', {400, 422}),
    "max_tokens is a word": ("/generate", b'{"prompt": "x", "max_tokens": "many"}', {400, 422}),
    "temperature out of range": ("/generate", b'{"prompt": "x", "temperature": 99}', {400, 422}),
    "temperature is not a number": ("/generate", b'{"prompt": "x", "temperature": NaN}', {400, 422}),
    "stream is a word": ("/generate", b'{"prompt": "x", "stream": "yes"}', {400, 422}),
    "not UTF-8": ("/generate", b'{"prompt": "\xff\xfe"}', {400, 422}),
    "no messages": ("/v1/chat/completions", b'{"messages": []}', {400, 422}),
    "unknown role": ("/v1/chat/completions", b'{"messages": [{"role": "king", "content": "x"}]}', {400, 422}),
    "too large": ("/generate", b'{"prompt": "' + b"x" * (2 << 20) + b'"}', {413}),
    "too long for the context": ("/generate", b'{"prompt": "' + b"many words " * 20000 + b'"}', {400, 413, 422}),
    "no such path": ("/v1/nothing", b"{}", {404}),
}


@pytest.mark.parametrize("fault", BAD_REQUESTS)
def test_bad_request_is_refused_in_json(web, fault):
    """A client's fault is answered 4xx with an error a program can read, by NGINX too."""
    path, body, statuses = BAD_REQUESTS[fault]
    answer = web.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in statuses
    assert answer.json()["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_refused(web, method):
    assert web.request(method, "/generate").status_code in (403, 404, 405)


def test_vanished_clients_do_not_hold_the_node(web):
    """Ten clients ask for a long answer, read its first bytes and drop the connection; then an answer still comes."""
    body = json.dumps(PROMPT | {"stream": True, "max_tokens": 512}).encode()
    head = "POST /generate HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    for _ in range(10):
        with socket.create_connection((web.base_url.host, web.base_url.port or 80), timeout=60) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close = reset
            client.sendall(head.encode() + body)
            assert client.recv(64).startswith(b"HTTP/1.1 ")
    answer = web.post("/generate", json=PROMPT | {"max_tokens": 4})
    assert answer.status_code == 200


def test_half_a_request_does_not_hold_the_node(web):
    """A client that never finishes its headers keeps one NGINX connection, and nothing else."""
    with socket.create_connection((web.base_url.host, web.base_url.port or 80), timeout=60) as client:
        client.sendall(b"POST /generate HTTP/1.1\r\nHost: node\r\nContent-Le")
        assert web.get("/readyz").status_code == 200
