"""What shell scripts share: verified downloads that resume, and errors with a way out."""

import hashlib
import http.server
import subprocess
import threading

import pytest

from scripts.files import REPOSITORY

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FileServer(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /disk.img; the first `cuts` answers stop half-way. Keeps the Range headers it was sent."""

    def __init__(self, cuts=0, content=CONTENT):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts, self.content, self.ranges = cuts, content, []
        self.url = f"http://127.0.0.1:{self.server_port}/disk.img"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        first = self.headers.get("Range")
        self.server.ranges.append(first)
        begin = int(first.removeprefix("bytes=").rstrip("-")) if first else 0
        body = self.server.content[begin:]
        self.send_response(206 if first else 200)
        if first:
            total = len(self.server.content)
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def shell(script, *arguments):
    command = ["bash", "-euc", f". scripts/lib.sh; {script}", "test", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def fetch(server, file, sha256=SHA256):
    return shell('fetch_verified "$@"', server.url, sha256, file)


def test_a_file_with_the_right_checksum_gets_its_name(tmp_path):
    with FileServer() as server:
        assert fetch(server, tmp_path / "a" / "disk.img").returncode == 0
    assert (tmp_path / "a" / "disk.img").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["disk.img"]


def test_a_file_that_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "disk.img").write_bytes(b"there")
    with FileServer() as server:
        assert fetch(server, tmp_path / "disk.img").returncode == 0
        assert server.ranges == []


def test_a_cut_download_goes_on_where_it_stopped(tmp_path):
    with FileServer(cuts=1) as server:
        first = fetch(server, tmp_path / "disk.img")
        assert first.returncode == 1
        assert "resumes" in first.stderr
        assert not (tmp_path / "disk.img").exists()
        assert fetch(server, tmp_path / "disk.img").returncode == 0
        assert server.ranges[-1] == f"bytes={len(CONTENT) // 2}-"
    assert (tmp_path / "disk.img").read_bytes() == CONTENT


def test_a_wrong_file_is_told_and_removed(tmp_path):
    with FileServer(content=b"something else") as server:
        done = fetch(server, tmp_path / "disk.img")
    assert done.returncode == 1
    assert SHA256 in done.stderr
    assert hashlib.sha256(b"something else").hexdigest() in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_a_sentence(tmp_path):
    done = shell('fetch_verified "$@"', "http://127.0.0.1:9/disk.img", SHA256, tmp_path / "disk.img")
    assert done.returncode == 1
    assert "could not download http://127.0.0.1:9/disk.img" in done.stderr
    assert "try: " in done.stderr


@pytest.mark.parametrize("value", ["", None])
def test_require_env_names_what_is_missing(value):
    setting = f"SOME_NAME={value}; " if value is not None else ""
    done = shell(f"{setting}require_env HOME SOME_NAME")
    assert done.returncode == 1
    assert "SOME_NAME is not set" in done.stderr


def test_die_says_what_and_what_to_try():
    done = shell("die 'the disk is full' 'free some space'")
    assert (done.returncode, done.stderr) == (1, "error: the disk is full\n  try: free some space\n")
