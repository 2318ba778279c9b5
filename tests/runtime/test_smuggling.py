"""What reaches the service behind NGINX when requests are written to be read in two ways.

/metrics is the proof: NGINX never passes it on, so whoever gets it through has hidden a request within another.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.api import page
from tests.fakes import FakeModel
from tests.runtime.door import Nginx, run_nginx
from tests.service.door import run_service

HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
BODY = b'{"prompt":"x","max_tokens":1}'
JSON = b"Host: node\r\nContent-Type: application/json\r\n"
STATIC = f"/static/{page.read_stamp()}"


class Node:
    """seen: the environment of each request that reached the service."""

    def __init__(self, nginx: Nginx, seen: list[dict[str, Any]]) -> None:
        self.nginx, self.seen = nginx, seen

    @property
    def paths(self) -> set[str]:
        return {environ["PATH_INFO"] for environ in self.seen}

    def send(self, data: bytes) -> bytes:
        """All that comes back until the connection ends, or is silent for a second."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.nginx.port), 10) as client:
            client.sendall(data)
            client.settimeout(1)
            try:
                while chunk := client.recv(65536):
                    received += chunk
            except (TimeoutError, ConnectionResetError):
                pass
        return received


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    seen: list[dict[str, Any]] = []
    with (
        run_service(FakeModel(), on_socket=True) as service,
        run_nginx(tmp_path_factory.mktemp("nginx"), service.server.port) as nginx,
    ):
        app = service.server.application
        service.server.application = lambda environ, start: seen.append(environ) or app(environ, start)
        yield Node(nginx, seen)


@pytest.fixture(autouse=True)
def _forget(node: Node) -> None:
    node.seen.clear()


def post(headers: bytes, body: bytes = BODY, end: bytes = b"\r\n") -> bytes:
    return b"POST /generate HTTP/1.1" + end + JSON.replace(b"\r\n", end) + headers + end + end + body


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
TE = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "data",
    [
        post(b"Content-Length: %d\r\n%s" % (len(CHUNKED) + len(HIDDEN), TE), CHUNKED + HIDDEN),
        post(b"%s\r\nContent-Length: 4" % TE, CHUNKED + HIDDEN),
        post(b"Content-Length: 5\r\nContent-Length: %d" % (len(BODY) + len(HIDDEN)), BODY + HIDDEN),
        post(b"Content-Length: %d\r\nContent-Length: %d" % (len(BODY), len(BODY)), BODY + HIDDEN),
        post(b"Content-Length: %d, %d" % (len(BODY), len(BODY)), BODY + HIDDEN),
        post(b"Content-Length: +%d" % len(BODY), BODY + HIDDEN),
        post(b"Content-Length: -1", HIDDEN),
        post(b"Content-Length: 0x1d", BODY + HIDDEN),
        post(b"Content-Length: 1_0", BODY + HIDDEN),
        post(b"Content-Length:", HIDDEN),
        post(b"Content-Length: 99999999999999999999999", BODY + HIDDEN),
        post(b"Content-Length: 1\r\n %d" % len(BODY), BODY + HIDDEN),  # obs-fold
        post(b"X: a\r\n\tContent-Length: 0", HIDDEN),
        post(b"Transfer-Encoding : chunked", CHUNKED + HIDDEN),
        post(b"Transfer-Encoding:\x0bchunked", CHUNKED + HIDDEN),
        post(b"Transfer-Encoding: xchunked", CHUNKED + HIDDEN),
        post(b"Transfer-Encoding: chunked, identity", CHUNKED + HIDDEN),
        post(b"Transfer-Encoding: identity, chunked", CHUNKED + HIDDEN),
        post(b"Transfer-Encoding: identity\r\n%s" % TE, CHUNKED + HIDDEN),
        post(b"Transfer_Encoding: chunked\r\nContent-Length: 0", CHUNKED + HIDDEN),
        post(b"X: a\nTransfer-Encoding: chunked\r\nContent-Length: 3", b"0\r\n\r\n" + HIDDEN),
        post(b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n" + HIDDEN),
        post(TE, b"%x;a=b\nc\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) + HIDDEN),
        post(TE, b"ffffffffffffffff1\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN),
        post(TE, b"-1\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN),
        post(TE, b"0\r\nContent-Length: 9\r\n\r\n" + HIDDEN),
        post(b"Content-Length: %d" % len(BODY), BODY + HIDDEN, end=b"\n"),
        post(b"Content-Length: 0\r\n\r\n" + HIDDEN.rstrip()),
        b"GET /healthz HTTP/1.1\r\nHost: node\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        b"GET /healthz HTTP/0.9\r\n\r\n" + HIDDEN,
        b"GET /healthz\r\n" + HIDDEN,
        b"GET /healthz HTTP/1.0\r\n%s\r\n\r\n" % TE + b"0\r\n\r\n" + HIDDEN,
        b"GET /healthz HTTP/1.1\r\nHost: node\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n" + HIDDEN,
        b"GET http://127.0.0.1:8080/metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
        b"GET http:///metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:8080 HTTP/1.1\r\nHost: node\r\n\r\n" + HIDDEN,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_no_request_is_hidden_in_another(node: Node, data: bytes):
    answer = node.send(data)
    assert b"llm_" not in answer
    assert node.paths <= {"/generate", "/healthz"}
    assert httpx.get(node.nginx.url + "/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/..%2fmetrics",
        "/v1/..%5cmetrics",
        "/v1/%252e%252e/metrics",
        "/v1/models/..;/..;/metrics",
        "/v1/models/../../metrics",
        "/metrics/../v1/models",
        "/metrics%2f..%2fv1/models",
        "/metrics%3f/../v1/models",
        "/metrics%23/../v1/models",
        "/metrics;/../v1/models",
        "//metrics",
        "//x/metrics",
        "/%6detrics",
        "/metrics/",
        "/metrics%00",
        "/METRICS",
        "/v1/models#/../../metrics",
        "/healthz%0a/../metrics",
    ],
)
def test_no_spelling_leads_to_metrics(node: Node, target: str):
    answer = node.send(f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 ") and b"llm_" not in answer
    assert "/metrics" not in node.paths


@pytest.mark.parametrize(
    "target",
    [
        f"{STATIC}/{climb}etc/passwd"
        for climb in (
            "../" * 9,
            "..%2f" * 9,
            "%2e%2e/" * 9,
            "%2e%2e%2f" * 9,
            "%252e%252e%252f" * 9,
            "..%5c" * 9,
            "..;/" * 9,
            ".../" * 9,
            "%c0%ae%c0%ae/" * 9,
            "..%00/" * 9,
            "/",
            "%2f",
        )
    ]
    + [f"{STATIC}/{climb}service/config.py" for climb in ("../../", "..%2f..%2f", "%2e%2e/%2e%2e/", "..%252f..%252f")]
    + [
        f"{STATIC}..%2f..%2fconfig.py",
        f"{STATIC}../config.py",
        f"{STATIC}/chat.js/../../../config.py",
        "/static/../config.py",
    ],
)
def test_nothing_outside_of_the_page_is_read(node: Node, target: str):
    answer = node.send(f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"400", b"404"), answer[:200]
    assert b"root:" not in answer and b"import " not in answer


@pytest.mark.parametrize("name", ["x" * 40_000, "X-Long"])
def test_headers_too_long_are_refused_in_json(node: Node, name: str):
    answer = node.send(f"GET /healthz HTTP/1.1\r\nHost: node\r\n{name}: {'y' * 40_000}\r\n\r\n".encode())
    assert answer.split()[1] == b"400" and b'"code":"invalid_http"' in answer and not node.seen


def test_what_a_client_says_of_itself_is_replaced(node: Node):
    """Its address decides whose turn it is, and a name in Host could be a stranger's page."""
    headers = "X-Real-IP: 203.0.113.9\r\nX_Real_IP: 203.0.113.9\r\nConnection: close, X-Real-IP\r\n"
    node.send(f"GET /readyz HTTP/1.1\r\nHost: evil.example\r\n{headers}\r\n".encode())
    (environ,) = node.seen
    assert (environ["HTTP_X_REAL_IP"], environ["HTTP_HOST"]) == ("127.0.0.1", "localhost")
    assert "203.0.113.9" not in str({name: value for name, value in environ.items() if name.startswith("HTTP_")})


@pytest.mark.parametrize("given", ["a b", "a\tb", "x" * 65, "\xe9", "<script>", 'a"b', "%0d%0aX: y"])
def test_a_request_id_that_is_no_plain_word_is_not_said_back(node: Node, given: str):
    data = f"GET /readyz HTTP/1.1\r\nHost: node\r\nX-Request-Id: {given}\r\nConnection: close\r\n\r\n"
    answer = node.send(data.encode("latin-1"))
    assert given.encode("latin-1") not in answer and b"X-Request-Id: " in answer


def test_a_thousand_headers_are_refused_or_read(node: Node):
    lines = "".join(f"X-{i}: y\r\n" for i in range(1000))
    answer = node.send(f"GET /healthz HTTP/1.1\r\nHost: node\r\n{lines}Connection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"200", b"400")
