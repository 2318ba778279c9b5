"""The shipped NGINX configuration on loopback, changed only in ports, paths and user."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ETC = ROOT / "packer/files/etc"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Nginx:
    url: str
    port: int
    access_log: Path
    error_log: Path


def write_configuration(directory: Path, port: int, backend_port: int) -> Path:
    """Copy packer/files/etc/nginx and rewrite what only an image has. Every rewritten line must exist."""
    shutil.copytree(ETC / "nginx", directory / "nginx")
    shutil.copy("/etc/nginx/mime.types", directory / "nginx/mime.types")
    file = directory / "nginx/nginx.conf"
    text = file.read_text()
    log = "syslog:server=unix:/dev/log,tag=nginx,nohostname"
    temporary = "".join(
        f"    {name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    for old, new in {
        "user www-data;": "user root;" if os.geteuid() == 0 else "",
        "pid /run/nginx.pid;": f"pid {directory}/nginx.pid;",
        f"error_log {log} crit;": f"error_log {directory}/error.log crit;",
        f"access_log {log} llamakiln;": f"access_log {directory}/access.log llamakiln;",
        "server 127.0.0.1:8080 ": f"server 127.0.0.1:{backend_port} ",
        "listen 80 default_server;": f"listen 127.0.0.1:{port} default_server;",
        "listen [::]:80 default_server;": f"listen [::1]:{port} default_server;",
        "root /opt/llamakiln/service/static;": f"root {ROOT}/service/static;",
        "http {\n": "http {\n" + temporary,
    }.items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in nginx.conf"
        text = text.replace(old, new)
    file.write_text(text)
    return file


@contextlib.contextmanager
def run_nginx(directory: Path, backend_port: int) -> Iterator[Nginx]:
    port = free_port()
    file = write_configuration(directory, port, backend_port)
    process = subprocess.Popen(["nginx", "-c", str(file), "-g", "daemon off;"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
            time.sleep(0.02)
        yield Nginx(f"http://127.0.0.1:{port}", port, directory / "access.log", directory / "error.log")
    finally:
        process.terminate()
        process.communicate(timeout=20)
