"""The shipped NGINX in front of the service with a fake model: what a client on port 80 meets."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service import config
from service.api import app, page
from tests.fakes import FakeModel, Gate
from tests.runtime.door import ETC, Nginx, free_port, run_nginx, write_configuration
from tests.service.door import Running, run_service, wait_until

STATIC = f"/static/{page.read_stamp()}"
CONF = "".join(path.read_text() for path in sorted((ETC / "nginx").rglob("*.conf")))


def seconds(directive: str) -> int:
    found = re.findall(rf"^\s*{directive} (\d+)s;", CONF, re.MULTILINE)
    assert len(found) == 1, directive
    return int(found[0])


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.open(1)  # the warm-up token
    return gate


@pytest.fixture
def node(tmp_path: Path, gate: Gate) -> Iterator[tuple[Nginx, Running]]:
    with (
        run_service(FakeModel(gate=gate), on_socket=True, max_queue=1) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        yield nginx, service


@pytest.fixture
def down(tmp_path: Path) -> Iterator[Nginx]:
    """NGINX while the service is away."""
    with run_nginx(tmp_path, free_port()) as nginx:
        yield nginx


def test_configuration_is_valid(tmp_path: Path):
    file = write_configuration(tmp_path, free_port(), free_port())
    checked = subprocess.run(["nginx", "-t", "-c", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0 and "warn" not in checked.stderr, checked.stderr


@pytest.mark.parametrize("path", ["/", "/status", f"{STATIC}/chat.js", f"{STATIC}/vendor/marked.js"])
def test_page_comes_from_disk_even_when_the_service_is_away(down: Nginx, path: str):
    reply = httpx.get(down.url + path)
    assert reply.status_code == 200
    for name, value in page.HEADERS.items():
        assert reply.headers[name] == value
    assert reply.headers["Cache-Control"] == page.map_paths()[path][1]
    assert reply.headers["Content-Encoding"] == "gzip"
    again = httpx.get(down.url + path, headers={"If-None-Match": reply.headers["ETag"]})
    assert again.status_code == 304


def test_page_is_the_services_own(node: tuple[Nginx, Running]):
    nginx, service = node
    for path in page.map_paths():
        ours, theirs = httpx.get(nginx.url + path), httpx.get(service.url + path)
        assert ours.content == theirs.content
        assert ours.headers["Cache-Control"] == theirs.headers["Cache-Control"]
        if path.endswith(".js"):
            assert "javascript" in ours.headers["Content-Type"] and "javascript" in theirs.headers["Content-Type"]


def test_content_of_another_stamp_is_not_found(down: Nginx):
    """While two nodes differ, a browser must not keep the one's script under the other's name."""
    assert httpx.get(f"{down.url}/static/0123456789ab/chat.js").status_code == 404


def test_status_passes_and_is_never_kept(node: tuple[Nginx, Running]):
    reply = httpx.get(node[0].url + "/status.json")
    assert reply.json()["status"] == "ready" and reply.headers["Cache-Control"] == "no-store"


def test_listens_on_both_address_families(down: Nginx):
    assert httpx.get(f"http://[::1]:{down.port}/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/nope",
        "/.git/config",
        "/service/api/app.py",
        "/chat.js",
        "/static/",
        f"{STATIC}/",
        f"{STATIC}/../../api/app.py",
        "/../etc/passwd",
        "/v2/x",
    ],
)
def test_everything_else_is_a_json_404(node: tuple[Nginx, Running], path: str):
    reply = httpx.get(node[0].url + path)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


def test_metrics_answer_only_behind_nginx(node: tuple[Nginx, Running]):
    nginx, service = node
    assert "llm_ready 1.0" in httpx.get(service.url + "/metrics").text
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}):
        assert httpx.get(nginx.url + "/metrics", headers=headers).status_code == 404


@pytest.mark.parametrize("target", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/a%00b", "nonsense"])
def test_a_request_line_that_cannot_be_read_is_a_400_in_json(down: Nginx, target: str):
    """Sent as written: an HTTP library would tidy these paths up first."""
    with socket.create_connection(("127.0.0.1", down.port), timeout=10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/completions"])
def test_stream_arrives_piece_by_piece(node: tuple[Nginx, Running], gate: Gate, path: str):
    """The first event is read while the model cannot yet make the second: nothing on the way held it back."""
    body = {"stream": True, "max_tokens": 3}
    body |= {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    gate.open(1)
    with httpx.stream("POST", node[0].url + path, json=body, headers={"Accept-Encoding": "gzip"}) as reply:
        lines = reply.iter_lines()
        first = next(line for line in lines if '"content":"Y"' in line or re.search(r'"text":"[Yy]"', line))
        assert first
        assert not gate._passes.acquire(blocking=False)  # no token but the first was allowed
        gate.open_for_ever()
        assert list(lines)[-2] == "data: [DONE]"
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert "Content-Encoding" not in reply.headers


def test_every_described_door_is_passed_on_but_metrics(node: tuple[Nginx, Running]):
    nginx, service = node
    for path, item in service.door.get("/openapi.json").json["paths"].items():
        for method in set(item) - {"parameters"}:
            reply = httpx.request(method, nginx.url + path.format(model="fake"))
            expected = {404} if path == "/metrics" else {200, 400}  # 400: a POST without a body
            assert reply.status_code in expected, (method, path)


def test_vanished_client_frees_the_engine(node: tuple[Nginx, Running], gate: Gate):
    nginx, service = node
    gate.open(1)
    with httpx.stream("POST", nginx.url + "/generate", json={"prompt": "x", "stream": True}) as reply:
        next(reply.iter_lines())
    wait_until(lambda: service.engine._queue.runs[0].request.is_cancelled)  # told while no token was made
    gate.open_for_ever()
    assert service.engine.wait_idle(20)
    assert service.metrics.finished.labels("client_gone")._value.get() == 1


def test_whole_answer_and_request_id_pass(node: tuple[Nginx, Running], gate: Gate):
    gate.open_for_ever()
    reply = httpx.post(node[0].url + "/generate", json={"prompt": "hello"}, headers={"X-Request-Id": "abc-1"})
    assert reply.json()["text"] == "You said: hello"
    assert reply.headers["X-Request-Id"] == "abc-1"
    assert "Server" not in reply.headers or reply.headers["Server"] == "nginx"  # no version


def test_health_and_readiness_pass(node: tuple[Nginx, Running]):
    nginx, service = node
    assert httpx.get(nginx.url + "/healthz").json() == {"status": "ok"}
    assert httpx.get(nginx.url + "/readyz").json() == {"status": "ready"}
    service.engine.drain()
    assert httpx.get(nginx.url + "/readyz").status_code == 503


def test_full_queue_passes_with_its_retry_after(node: tuple[Nginx, Running], gate: Gate):
    nginx, service = node
    waiting = [
        threading.Thread(target=httpx.post, args=(nginx.url + "/generate",), kwargs={"json": {"prompt": "x"}})
        for _ in range(2)
    ]
    waiting[0].start()
    assert gate.arrived.acquire(timeout=20) and gate.arrived.acquire(timeout=20)  # warm-up, then the first request
    waiting[1].start()
    wait_until(lambda: service.engine.n_waiting == 1)
    reply = httpx.post(nginx.url + "/generate", json={"prompt": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_full")
    assert int(reply.headers["Retry-After"]) >= 1
    gate.open_for_ever()
    for thread in waiting:
        thread.join(20)


@pytest.mark.parametrize("path", ["/generate", "/v1/models", "/readyz", "/healthz"])
def test_service_away_is_a_json_502_with_retry_after(down: Nginx, path: str):
    reply = httpx.get(down.url + path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "service_down")
    assert reply.headers["Retry-After"] == "10"


def test_too_many_requests_from_one_address_are_429(down: Nginx):
    """The burst is 60 and the rate 20 per second, whatever this machine's speed: ask until refused."""
    with httpx.Client() as client:
        replies = [client.get(down.url + "/v1/models")]
        while replies[-1].status_code == 502 and len(replies) < 5000:
            replies.append(client.get(down.url + "/v1/models"))
    assert len(replies) > 60
    assert (replies[-1].status_code, replies[-1].json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert replies[-1].headers["Retry-After"] == "5"
    assert "at most 16 at a time and 20 per second" in replies[-1].json()["error"]["message"]
    assert CONF.count("limit_conn streams 16;") == 2 and "rate=20r/s" in CONF


def test_clients_behind_a_load_balancer_are_told_apart(down: Nginx):
    """On loopback the forwarded address must not be believed; the private ranges of a VCN must."""
    httpx.get(down.url + "/nope", headers={"X-Forwarded-For": "203.0.113.9"})
    wait_until(lambda: '127.0.0.1 "GET /other" 404' in down.access_log.read_text())
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"):
        assert f"set_real_ip_from {network};" in CONF
    assert "127." not in "".join(re.findall("set_real_ip_from .*", CONF))


def test_service_is_told_the_clients_address_and_nobody_elses_word(node: tuple[Nginx, Running], gate: Gate):
    nginx, service = node
    httpx_client = threading.Thread(
        target=httpx.post,
        args=(nginx.url + "/generate",),
        kwargs={"json": {"prompt": "x"}, "headers": {"X-Real-IP": "203.0.113.9", "X-Forwarded-For": "203.0.113.9"}},
    )
    httpx_client.start()
    wait_until(lambda: service.engine.n_running)
    assert service.engine._queue.runs[0].request.client == "127.0.0.1"
    gate.open_for_ever()
    httpx_client.join(30)


def test_access_log_holds_no_query_and_no_text(node: tuple[Nginx, Running], gate: Gate):
    gate.open_for_ever()
    nginx = node[0]
    httpx.post(nginx.url + "/generate?prompt=secretquery", json={"prompt": "secretbody"})
    wait_until(lambda: '"POST /generate" 200' in nginx.access_log.read_text())
    assert "secret" not in nginx.access_log.read_text() + nginx.error_log.read_text()


def test_body_limit_is_the_services(node: tuple[Nginx, Running]):
    limit = next(setting.high for setting in config.SETTINGS if setting.name == "LLM_MAX_BODY_BYTES")
    sizes = re.findall(r"client_(?:max_body|body_buffer)_size (\d+)m;", CONF)
    assert [int(size) << 20 for size in sizes] == [limit, limit]
    assert f"more than {limit} bytes" in CONF
    reply = httpx.post(node[0].url + "/generate", content=b" " * (limit + 1))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


def test_waiting_times_are_in_order():
    """A request ends before NGINX gives up on the service, and NGINX before the load balancer (300 s)."""
    longest = next(setting.high for setting in config.SETTINGS if setting.name == "LLM_REQUEST_TIMEOUT_S")
    assert longest < seconds("proxy_read_timeout") < 300
    assert seconds("keepalive_timeout") >= 310
    assert seconds("proxy_read_timeout") > app.PING_S


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_page_cannot_be_written_to(down: Nginx, method: str):
    reply = httpx.request(method, down.url + f"{STATIC}/chat.js")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")


def test_bad_http_is_a_json_400(down: Nginx):
    with socket.create_connection(("127.0.0.1", down.port), 10) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")  # no Host
        data = b""
        while chunk := client.recv(4096):
            data += chunk
    assert data.startswith(b"HTTP/1.1 400")
    assert json.loads(data.split(b"\r\n\r\n")[1])["error"]["code"] == "invalid_http"


def test_nothing_of_the_distributions_configuration_is_read():
    included = set(re.findall(r"^\s*include ([^;]+);", CONF, re.MULTILINE))
    assert included == {"mime.types", "llamakiln/page.conf", "llamakiln/proxy.conf", "llamakiln/errors.conf"}
