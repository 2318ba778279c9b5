"""NGINX's logs and the service's, together: nothing that a client wrote stands in any, whatever happens to the node."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from tests.runtime.door import Nginx, free_port, run_nginx
from tests.service.door import wait_until
from tests.service.test_main import ready

SECRET = "SENTINEL8461"  # a word that is a method too


def torment(nginx: Nginx) -> None:
    """The secret in every place of a request where a client may write."""
    headers = {
        "User-Agent": SECRET,
        "Authorization": f"Bearer {SECRET}",
        "Referer": f"http://{SECRET}/",
        "Cookie": SECRET,
    }
    with httpx.Client(base_url=nginx.url, headers=headers, timeout=20) as client:
        for path in (
            "/",
            "/generate",
            "/v1/completions",
            "/v1/chat/completions",
            "/tokenize",
            "/status.json",
            "/healthz",
        ):
            for full in (
                path,
                f"{path}?{SECRET}",
                f"{path}/{SECRET}",
                f"/v1/models/{SECRET}",
                f"/static/{SECRET}/{SECRET}",
            ):
                client.get(full)
                client.post(full, json={"prompt": SECRET, "messages": [{"role": "user", "content": SECRET}], SECRET: 1})
        client.post("/generate", content=SECRET.encode() * 200_000)
        client.post("/generate", json={"prompt": SECRET, "max_tokens": 2})
    for data in (
        f"{SECRET} / HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /{SECRET} HTTP/9.9\r\n\r\n",
        f"GET /a%00{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {SECRET}{'/' * 3}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET}: {'x' * 40_000}\r\n\r\n",
        f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{SECRET}",
        SECRET,
    ):
        with socket.create_connection(("127.0.0.1", nginx.port), 10) as client:
            client.sendall(data.encode())
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass


def read_logs(nginx: Nginx) -> str:
    return nginx.access_log.read_text() + nginx.error_log.read_text()


def test_no_log_of_a_node_that_serves_holds_text_of_clients(tmp_path: Path):
    with ready(tmp_path, LLM_LOG_LEVEL="debug") as process:
        process.all_tokens()
        (tmp_path / "front").mkdir()
        with run_nginx(tmp_path / "front", int(process.url.rpartition(":")[2])) as nginx:
            torment(nginx)
            wait_until(lambda: '"GET /other" 404' in read_logs(nginx))
            assert '"POST /generate" 200' in read_logs(nginx) and '"other /' in read_logs(nginx)
            assert SECRET not in read_logs(nginx)
        process.signal()
        process.exit_code()
    assert any("reason=" in line for line in process.log)
    assert [line for line in process.log if SECRET in line] == []


def test_no_log_of_a_node_whose_service_is_away_holds_text_of_clients(tmp_path: Path):
    """NGINX writes the whole request line when it cannot reach the service, at the level `error`."""
    with run_nginx(tmp_path, free_port()) as nginx:
        torment(nginx)
        wait_until(lambda: '"POST /generate" 502' in read_logs(nginx))
        assert SECRET not in read_logs(nginx)


@pytest.mark.parametrize(("path", "told"), [("/v1/chat/completions", None), ("/status", None), ("/x", "/other")])
def test_paths_of_ours_are_told(tmp_path: Path, path: str, told: str | None):
    with run_nginx(tmp_path, free_port()) as nginx:
        httpx.get(nginx.url + path)
        wait_until(lambda: f'"GET {told or path}" ' in read_logs(nginx))
