"""Waiting for a deployment's first token, against a web server on loopback that behaves like a node."""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.cloud import first_answer
from scripts.cloud.first_answer import wait_for_answer
from scripts.problem import Problem

KEY = "llk-0123456789abcdef"


class Node(ThreadingHTTPServer):
    """Answers with these codes in turn, the last one for ever; `heard` has the key of each question."""

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ready, self.answers = [200], [200]
        self.heard: list[str | None] = []
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_arguments: object) -> None:
        """A client that does not trust us leaves."""


class Handler(BaseHTTPRequestHandler):
    server: Node

    def do_GET(self) -> None:
        self._answer(self.server.ready if self.path == "/readyz" else [404])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, body["max_tokens"]) == ("/generate", 1)
        self.server.heard.append(self.headers["Authorization"])
        self._answer(self.server.answers)

    def _answer(self, codes: list[int]) -> None:
        self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(params=["http", "https"])
def node(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(first_answer, "WAIT_MINUTES", 1)
    with Node(certify(tmp_path / "node.pem") if request.param == "https" else None) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def certify(file: Path) -> Path:
    """A self-signed certificate like the stack's."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*plain) + made.public_bytes(serialization.Encoding.PEM))
    return file


def wait(node: Node, key: str = KEY, is_self_signed: bool = True) -> tuple[list[str], list[float]]:
    said: list[str] = []
    slept: list[float] = []
    wait_for_answer(node.url, key, is_self_signed, said.append, slept.append)
    return said, slept


def test_waits_until_it_is_ready_and_a_token_came(node: Node) -> None:
    node.ready, node.answers = [502, 502, 503, 200], [503, 200]
    said, slept = wait(node)
    assert [line.partition(": ")[2] for line in said] == [
        "not yet (/readyz: 502)",
        "not yet (/readyz: 503)",
        "not yet (/generate: 503)",
    ]
    assert slept == [first_answer.POLL_S] * 4
    assert node.heard == [f"Bearer {KEY}"] * 2


def test_without_a_key_none_is_sent(node: Node) -> None:
    wait(node, key="")
    assert node.heard == [None]


def test_refused_key_is_told_at_once(node: Node) -> None:
    node.answers = [401]
    with pytest.raises(Problem, match=r"refuses the stack's API key \(401\)"):
        wait(node)
    assert len(node.heard) == 1


def test_one_that_never_answers_is_told_with_its_last_word(node: Node) -> None:
    node.ready = [502]
    with pytest.raises(Problem, match=r"did not answer within 1 minutes; last: /readyz: 502"):
        wait(node)


@pytest.mark.parametrize("node", ["https"], indirect=True)
def test_a_certificate_of_ones_own_is_verified(node: Node) -> None:
    with pytest.raises(Problem, match="CERTIFICATE_VERIFY_FAILED"):
        wait(node, is_self_signed=False)
    assert node.heard == []


def test_address_where_nobody_listens_is_asked_again(node: Node) -> None:
    node.server_close()
    with pytest.raises(Problem, match="ConnectError"):
        wait(node)
