"""`make status` against the loopback tenancy and a node on loopback: what a person sees, and the same as JSON."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.cloud import status
from scripts.problem import Problem
from tests.cloud.person import settle_in
from tests.cloud.pool import NEW, add_image, add_pool
from tests.cloud.services.load_balancer import kept
from tests.cloud.tenancy import COMPARTMENT, Tenancy

KEY = "test-key-0123456789abcdef"
STATUS = {
    "status": "ready",
    "model": {"id": "demo"},
    "metrics": {"llm_requests_running": 2.0, "llm_requests_waiting": 1.0},
    "history": {"columns": ["age_s", "tokens_per_s"], "rows": [[4.0, 1.0], [2.0, 12.25]]},
}


class Node:
    """A node's /status.json on loopback; with a key it asks for it, and notes what it was told."""

    def __init__(self, key: str = "", context: ssl.SSLContext | None = None) -> None:
        node = self
        self.told: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                node.told.append(self.headers.get("Authorization", ""))
                is_open = not key or node.told[-1] == f"Bearer {key}"
                body = json.dumps(STATUS).encode() if is_open and self.path == "/status.json" else b"{}"
                self.send_response(200 if is_open else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Node:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def tenancy(monkeypatch, tmp_path):
    with Tenancy() as running:
        settle_in(monkeypatch, running, tmp_path)
        monkeypatch.delenv("API_KEY", raising=False)
        yield running


@pytest.fixture
def pool(tenancy):
    return add_pool(tenancy, 2)


NOBODY = "--url=http://127.0.0.1:9"  # nobody listens on the discard port


def show(capsys, *arguments: str) -> str:
    status.main(list(arguments))
    return capsys.readouterr().out


def show_json(capsys, *arguments: str) -> list[dict]:
    return json.loads(show(capsys, *arguments, "--json"))


def test_each_node_has_a_row(tenancy, pool, capsys):
    rows = [line.split("  ") for line in show(capsys, pool["id"], NOBODY).splitlines()]
    first = next(row for row in rows if row[0] == "llamakiln-nodes-1")
    cells = [cell.strip() for cell in first if cell.strip()]
    assert cells[:5] == [
        "llamakiln-nodes-1",
        "RUNNING",
        "OK",
        "llamakiln-demo-0.1.0",
        "EU-FRANKFURT-1-AD-1 FAULT-DOMAIN-1",
    ]
    assert cells[5].endswith(" s")


def test_the_head_tells_pool_image_address_and_health(tenancy, pool, capsys):
    told = show(capsys, pool["id"], NOBODY)
    assert "llamakiln-nodes  RUNNING, 2 nodes, 2 healthy" in told
    assert "new nodes get llamakiln-demo-0.1.0" in told
    assert "backend set nodes OK" in told
    assert "rollout" not in told


def test_what_is_wrong_is_seen(tenancy, pool, capsys):
    first, second = tenancy.live("instances")
    (balancer,) = tenancy.live("loadBalancers")
    balancer["backendSets"]["nodes"]["backends"][0]["drain"] = True
    tenancy.collection("unhealthy")[f"{second['_privateIp']}:80"] = {}
    add_image(tenancy, NEW)
    first["sourceDetails"] = {"sourceType": "image", "imageId": NEW}
    pool["freeformTags"] = {**pool["freeformTags"], "rollout-size": "2"}
    told = show(capsys, pool["id"], NOBODY)
    assert "0 healthy" in told
    assert "backend set nodes WARNING" in told
    assert "OK drained" in told
    assert "CRITICAL" in told
    assert "llamakiln-new" in told
    assert "a rollout is under way: 2 nodes before it and after it" in told


def test_an_image_that_is_gone_does_not_hide_the_rest(tenancy, pool, capsys):
    tenancy.resources["images"].clear()
    assert "llamakiln-nodes-2  RUNNING" in show(capsys, pool["id"], NOBODY)


def test_json_has_the_same(tenancy, pool, capsys):
    (told,) = show_json(capsys, pool["id"], NOBODY)
    assert (told["state"], told["size"], told["healthy"], told["backend_sets"]) == ("RUNNING", 2, 2, {"nodes": "OK"})
    assert [node["health"] for node in told["nodes"]] == ["OK", "OK"]
    assert told["image"]["name"] == "llamakiln-demo-0.1.0"


@pytest.mark.parametrize(("has_tls", "url"), [(False, "http://203.0.113.80"), (True, "https://203.0.113.80")])
def test_the_address_is_the_load_balancers(tenancy, pool, capsys, monkeypatch, has_tls, url):
    (balancer,) = tenancy.live("loadBalancers")
    if has_tls:
        secure = {"name": "https", "port": 443, "sslConfiguration": {"protocols": ["TLSv1.3"]}}
        balancer["listeners"]["https"] = kept("Listener", {**balancer["listeners"]["http"], **secure})
    asked = []
    monkeypatch.setattr(status, "ask_node", lambda *arguments: asked.append(arguments[0]) or {"fault": "not asked"})
    (told,) = show_json(capsys, pool["id"])
    assert told["url"] == url
    assert asked == [url]


def test_numbers_of_one_node_are_marked_as_such(tenancy, pool, capsys):
    with Node() as node:
        told = show(capsys, pool["id"], f"--url={node.url}/")
    assert "one node's own numbers: 12.2 tokens/s, 2 running, 1 queued (demo, ready)" in told


def test_the_key_is_brought_when_it_is_set(tenancy, pool, capsys, monkeypatch):
    with Node(KEY) as node:
        assert "it asks for a key: set API_KEY" in show(capsys, pool["id"], f"--url={node.url}")
        monkeypatch.setenv("API_KEY", KEY)
        assert "12.2 tokens/s" in show(capsys, pool["id"], f"--url={node.url}")


def test_no_answer_is_said_and_is_no_fault(tenancy, pool, capsys):
    assert "one node's own numbers: no answer: " in show(capsys, pool["id"], NOBODY)


def self_signed(folder, name: str) -> tuple[str, ssl.SSLContext]:
    """As the stack's: for one address, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{name}.pem"
    file.write_text(pem + secret.decode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return pem, context


def test_a_self_signed_certificate_that_the_load_balancer_shows_is_trusted(
    tenancy, pool, capsys, monkeypatch, tmp_path
):
    pem, context = self_signed(tmp_path, "ours")
    (balancer,) = tenancy.live("loadBalancers")
    balancer["certificates"]["ours"] = kept("Certificate", {"certificateName": "ours", "publicCertificate": pem})
    monkeypatch.setenv("API_KEY", KEY)
    with Node(KEY, context) as node:
        assert "12.2 tokens/s" in show(capsys, pool["id"], f"--url={node.url}")


def test_the_key_goes_to_no_other_certificate(tenancy, pool, capsys, monkeypatch, tmp_path):
    """Somebody in between with a certificate of their own."""
    pem, _ = self_signed(tmp_path, "ours")
    (balancer,) = tenancy.live("loadBalancers")
    balancer["certificates"]["ours"] = kept("Certificate", {"certificateName": "ours", "publicCertificate": pem})
    monkeypatch.setenv("API_KEY", KEY)
    with Node(KEY, self_signed(tmp_path, "theirs")[1]) as node:
        assert "certificate verify failed" in show(capsys, pool["id"], f"--url={node.url}")
        assert node.told == []


def test_without_a_pool_every_one_of_the_compartment_is_shown(tenancy, pool, capsys):
    add_pool(tenancy, 1)
    other = add_pool(tenancy, 1)
    other["freeformTags"] = {}
    told = show_json(capsys, f"--compartment={COMPARTMENT}", NOBODY)
    assert [one["size"] for one in told] == [2, 1]


def test_a_compartment_without_pools_says_what_was_looked_for(tenancy):
    with pytest.raises(Problem, match="no pool tagged product=llamakiln"):
        status.main([f"--compartment={COMPARTMENT}"])


def test_neither_pool_nor_compartment_is_a_usage_error(tenancy):
    with pytest.raises(SystemExit) as ended:
        status.main([])
    assert ended.value.code == 2
    assert tenancy.calls == []


def test_status_changes_nothing(tenancy, pool, capsys):
    show(capsys, pool["id"], NOBODY)
    assert all(call.startswith("GET ") for call in tenancy.calls)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (90, "1 min"), (7300, "2 h"), (200000, "2 d")]
)
def test_age_is_told_in_the_largest_unit_that_fits(seconds, text):
    assert status.age_text(seconds) == text
