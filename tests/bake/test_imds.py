"""imds.py as QEMU runs it: one process, one request on standard input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scripts.bake import imds

TOLD = {"id": "ocid1.instance.x", "metadata": {"ssh_authorized_keys": "ssh-ed25519 AAAA", "user_data": "I2Nsb3Vk"}}
BEARER = "Authorization: Bearer Oracle\r\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "instance.json").write_text(json.dumps(TOLD))
    (tmp_path / "vnics.json").write_text("[]")
    return tmp_path


def ask(folder, request: str) -> str:
    command = [sys.executable, imds.__file__, str(folder)]
    return subprocess.run(command, input=request, capture_output=True, text=True, check=True, timeout=20).stdout


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "body"),
    [
        ("GET /opc/v2/instance/ HTTP/1.1", BEARER, 200, json.dumps(TOLD)),
        ("GET /opc/v2/instance HTTP/1.1", BEARER, 200, json.dumps(TOLD)),
        ("GET /opc/v2/instance/metadata/user_data HTTP/1.1", BEARER, 200, "I2Nsb3Vk"),
        ("GET /opc/v2/vnics/ HTTP/1.1", BEARER, 200, "[]"),
        ("GET /opc/v2/instance/nothing HTTP/1.1", BEARER, 404, "{}"),
        ("GET /opc/v2/instance/id/deeper HTTP/1.1", BEARER, 404, "{}"),
        ("GET /opc/v2/instance/ HTTP/1.1", "", 403, "{}"),
        ("GET /opc/v2/instance/ HTTP/1.1", "Authorization: Bearer Other\r\n", 403, "{}"),
        ("GET /opc/v1/instance/ HTTP/1.1", BEARER, 404, "{}"),
        ("PUT /opc/v2/instance/ HTTP/1.1", BEARER, 405, "{}"),
    ],
)
def test_answers_as_the_metadata_service(folder, request_line, headers, status, body):
    answer = ask(folder, f"{request_line}\r\nHost: 169.254.169.254\r\n{headers}\r\n")
    head, _, told = answer.partition("\n\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert told == body
    assert f"Content-Length: {len(body)}" in head
    method, path, _ = request_line.split()
    assert (folder / "requests.log").read_text() == f"{status} {method} {path}\n"


def test_empty_connection_is_nothing(folder):
    assert ask(folder, "") == ""
