"""A small model hub on loopback that misbehaves on demand: what tests fetch from instead of huggingface.co.

Speaks the part of the protocol that huggingface_hub 2.x uses for models: GET/HEAD /OWNER/NAME/resolve/REVISION/FILE,
answered as the real hub does by a redirect with X-Repo-Commit and X-Linked-* to a CDN (here the same server under its
other name, so that a leaked token shows), byte ranges there, and /api/models/OWNER/NAME/revision/REVISION as JSON.
Knows nothing of our scripts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import re
import threading
import time
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"


@dataclasses.dataclass
class Faults:
    """What goes wrong, in the order of checking; counters fall by one each time they strike."""

    cut_after: int | None = None  # close the connection after this many bytes of an answer's body ...
    n_cuts: int = 1  # ... this many times
    n_unavailable: int = 0  # answer 503 this many times, then work
    status: int = 0  # always answer this
    error_code: str = ""  # with this X-Error-Code
    is_corrupt: bool = False  # flip a byte of what is sent
    extra_bytes: int = 0  # serve a file longer than announced to the catalogue
    ignores_ranges: bool = False  # answer 200 with everything
    hides_hash: bool = False  # no X-Linked-* headers, like a plain mirror
    needs_token: str = ""  # 401 without this token
    pause_s: float = 0.0  # wait between pieces of the body


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str
    token: str
    n_sent: int


class Hub:
    """Files by (repo, name); `requests` is everything that was asked, in order, with the body bytes sent for each."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.cards: dict[str, dict] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments):
                self.hub = hub
                super().__init__(*arguments)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def downloads(self) -> list[Request]:
        """The requests that reached the CDN."""
        return [request for request in self.requests if request.path.startswith("/cdn/")]

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        n_sent = self._route(unquote(urlsplit(self.path).path))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range", ""), token, n_sent))

    def _route(self, path: str) -> int:
        faults = self.hub.faults
        is_cdn = path.startswith("/cdn/")
        if faults.n_unavailable > 0:
            faults.n_unavailable -= 1
            return self._send(503, b"try later")
        if faults.status:
            return self._send(faults.status, b"no", {"X-Error-Code": faults.error_code} if faults.error_code else {})
        if faults.needs_token and not is_cdn and self.headers.get("Authorization") != f"Bearer {faults.needs_token}":
            return self._send(401, b"no", {"X-Error-Code": "GatedRepo"})
        if match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            return self._send_file(self.hub.files[match[1], match[2]])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._redirect(*match.groups())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._send_info(match[1], match[2] or "main")
        return self._send(404, b"no such page")

    def _redirect(self, repo: str, revision: str, name: str) -> int:
        content = self.hub.files.get((repo, name))
        if revision not in ("main", COMMIT):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"Location": f"http://localhost:{self.hub.port}/cdn/{repo}/{name}", "X-Repo-Commit": COMMIT}
        if not self.hub.faults.hides_hash:
            headers["X-Linked-Size"] = str(len(content))
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._send(302, b"", headers)

    def _send_info(self, repo: str, revision: str) -> int:
        names = [name for owner, name in self.hub.files if owner == repo]
        if not names:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for name in names:
            content = self.hub.files[repo, name]
            sibling = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if not name.endswith(".md"):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        info = {"id": repo, "sha": COMMIT, "siblings": siblings, "gated": False, **self.hub.cards.get(repo, {})}
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _send_file(self, content: bytes) -> int:
        faults = self.hub.faults
        content += bytes(faults.extra_bytes)
        if faults.is_corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not faults.ignores_ranges:
            start = int(match[1])
        if start >= len(content):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        return self._send(206 if start else 200, content[start:], ranged)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> int:
        faults = self.hub.faults
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return 0
        if status in (200, 206) and faults.cut_after is not None and faults.n_cuts > 0 and len(body) > faults.cut_after:
            faults.n_cuts -= 1
            self.close_connection = True
            body = body[: faults.cut_after]
        for start in range(0, len(body), 65536):
            self.wfile.write(body[start : start + 65536])
            time.sleep(faults.pause_s)
        return len(body)
