"""Fetching from the hub of hub.py, as a person runs it; in-process only where a fault cannot be made from outside."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.files import REPOSITORY
from scripts.models import fetch as fetching
from scripts.problem import Problem
from scripts.progress import Progress
from tests.models.hub import COMMIT

REPO, FILE = "owner/tiny-GGUF", "tiny.Q4_0.gguf"
CONTENT = b"GGUF" + random.Random(7).randbytes(3_000_000)


@pytest.fixture
def row(hub, tmp_path):
    """A catalogue with the row [tiny] for a file that the hub serves; returns a function that writes a changed one."""
    hub.files[REPO, FILE] = CONTENT

    def write(content: bytes = CONTENT, **changes: object) -> Path:
        fields = {
            "repo": REPO,
            "revision": COMMIT,
            "file": FILE,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "license": "MIT",
            "template": "gguf",
            "context": 512,
            **changes,
        }
        catalog = tmp_path / "models.toml"
        catalog.write_text("[tiny]\n" + "".join(f"{k} = {v!r}\n" for k, v in fields.items()))
        return catalog

    return write


@pytest.fixture
def fetch(run_script, hub, row):
    """Run `fetch tiny` against the hub."""

    def run(*arguments: object, catalog: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
        variables = {"HF_ENDPOINT": hub.url, **variables}
        return run_script("models.fetch", "tiny", "--catalog", catalog or row(), *arguments, **variables)

    return run


def cached(tmp_path: Path, content: bytes = CONTENT) -> Path:
    return tmp_path / "cache" / "models" / hashlib.sha256(content).hexdigest() / FILE


def part_of(tmp_path: Path) -> Path:
    return cached(tmp_path).with_name(FILE + ".part")


def assert_problem(done: subprocess.CompletedProcess, *expected: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for text in expected:
        assert text in done.stderr


def test_fetched_file_lands_in_the_cache_and_its_path_is_the_last_line(fetch, hub, tmp_path):
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]) == cached(tmp_path)
    assert cached(tmp_path).read_bytes() == CONTENT
    assert cached(tmp_path).stat().st_mode & 0o777 == 0o644
    assert not part_of(tmp_path).exists()
    assert f"/{REPO}/resolve/{COMMIT}/{FILE}" in [request.path for request in hub.requests]
    assert "tiny: 3.0 MB of 3.0 MB (100 %)" in done.stderr


def test_cut_connection_is_taken_up_where_it_broke_within_one_run(fetch, hub, tmp_path):
    hub.faults.cut_after = 1_000_000
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert "trying again" in done.stderr
    first, second = hub.downloads()
    assert first.range == "" and first.n_sent == 1_000_000
    assert second.range == f"bytes={first.n_sent}-"
    assert first.n_sent + second.n_sent == len(CONTENT)
    assert cached(tmp_path).read_bytes() == CONTENT


def test_cut_download_is_kept_and_the_next_run_resumes_it(fetch, hub, tmp_path):
    hub.faults.cut_after = 2_000_000
    assert_problem(
        fetch("--tries", 1), "could not fetch", "2000000 bytes so far are kept", "run the same command again"
    )
    assert part_of(tmp_path).stat().st_size == 2_000_000
    assert not cached(tmp_path).exists()

    done = fetch()
    assert done.returncode == 0, done.stderr
    assert "going on after 2.0 MB" in done.stderr
    assert hub.downloads()[-1].range == "bytes=2000000-"
    assert sum(request.n_sent for request in hub.downloads()) == len(CONTENT)
    assert cached(tmp_path).read_bytes() == CONTENT


def test_killed_fetch_is_resumed_by_the_next_one(fetch, hub, row, tmp_path):
    hub.faults.pause_s = 0.05
    command = [sys.executable, "-m", fetching.__name__, "tiny", "--catalog", str(row())]
    environment = {"HOME": str(tmp_path), "LLAMAKILN_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}
    killed = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (part_of(tmp_path).exists() and part_of(tmp_path).stat().st_size > 200_000):
        assert time.monotonic() < deadline, "no byte arrived"
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    hub.faults.pause_s = 0
    kept = part_of(tmp_path).stat().st_size
    assert fetch().returncode == 0
    assert [request.range for request in hub.downloads() if request.range] == [f"bytes={kept}-"]
    assert cached(tmp_path).read_bytes() == CONTENT


def test_server_that_ignores_ranges_is_read_from_the_start(fetch, hub, tmp_path):
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(CONTENT[:500_000])
    hub.faults.ignores_ranges = True
    assert fetch().returncode == 0
    assert [request.n_sent for request in hub.downloads()] == [len(CONTENT)]
    assert cached(tmp_path).read_bytes() == CONTENT


def test_overlong_part_is_thrown_away(fetch, hub, tmp_path):
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(CONTENT + b"more")
    assert fetch().returncode == 0
    assert hub.downloads()[0].range == ""
    assert cached(tmp_path).read_bytes() == CONTENT


def test_unavailable_hub_is_asked_again(fetch, hub, tmp_path):
    hub.faults.n_unavailable = 1
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert "answered 503; trying again in 1 s" in done.stderr


def test_wrong_checksum_removes_the_file_and_tells_both_sums(fetch, hub, tmp_path):
    hub.faults.is_corrupt = True
    sent = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    assert_problem(
        fetch(),
        f"has sha256 {hashlib.sha256(sent).hexdigest()}, expected {hashlib.sha256(CONTENT).hexdigest()}",
        "the bad file was removed",
    )
    assert not cached(tmp_path).exists() and not part_of(tmp_path).exists()


def test_another_file_of_the_same_size_is_told_before_anything_is_downloaded(fetch, hub, tmp_path):
    hub.files[REPO, FILE] = other = CONTENT[::-1]
    assert_problem(fetch(), f"the hub's file has sha256 {hashlib.sha256(other).hexdigest()}")
    assert part_of(tmp_path).stat().st_size == 0


def test_another_file_from_a_mirror_that_announces_no_checksum_is_found_out_and_removed(fetch, hub, tmp_path):
    hub.files[REPO, FILE] = CONTENT[::-1]
    hub.faults.hides_hash = True
    assert_problem(fetch(), "has sha256", "the bad file was removed")
    assert not cached(tmp_path).exists() and not part_of(tmp_path).exists()


def test_damaged_part_is_found_out_by_the_checksum_and_the_next_run_succeeds(fetch, tmp_path):
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(bytes(1000))
    assert_problem(fetch(), "has sha256", "the bad file was removed")
    assert fetch().returncode == 0
    assert cached(tmp_path).read_bytes() == CONTENT


def test_wrong_size_is_told_before_anything_is_downloaded(fetch, hub, tmp_path):
    hub.faults.extra_bytes = 5
    assert_problem(fetch(), f"has {len(CONTENT) + 5} bytes, expected {len(CONTENT)}")
    assert not cached(tmp_path).exists()
    assert part_of(tmp_path).stat().st_size == 0


@pytest.mark.parametrize(
    ("status", "code", "token", "expected"),
    [
        (401, "", "", ("refused owner/tiny-GGUF (401)", "run again with HF_TOKEN=<your token>")),
        (401, "", "hf_mine", ("refused owner/tiny-GGUF (401)", "check that your token (HF_TOKEN) may read it")),
        (403, "GatedRepo", "hf_mine", ("(403)", "accept the licence")),
        (404, "EntryNotFound", "", (f"{REPO} has no file {FILE} at revision {COMMIT} (404)", "make lock-model")),
        (404, "RevisionNotFound", "", (f"{REPO} has no revision {COMMIT} (404)",)),
        (404, "", "", ("has no owner/tiny-GGUF, or no tiny.Q4_0.gguf in it", "(404)")),
        (418, "", "", ("answered 418",)),
    ],
)
def test_refusal_says_what_to_do_and_is_not_retried(fetch, hub, status, code, token, expected):
    hub.faults.status, hub.faults.error_code = status, code
    assert_problem(fetch(**({"HF_TOKEN": token} if token else {})), *expected)
    assert len(hub.requests) == 1


def test_gated_file_is_fetched_with_the_right_token(fetch, hub, tmp_path):
    hub.faults.needs_token = "hf_secret"
    assert_problem(fetch(), "(401)")
    assert fetch(HF_TOKEN="hf_secret").returncode == 0
    assert cached(tmp_path).read_bytes() == CONTENT


def test_token_goes_to_the_hub_only_and_only_when_set(fetch, hub, tmp_path):
    assert fetch().returncode == 0
    assert {request.token for request in hub.requests} == {""}
    hub.requests.clear()
    shutil.rmtree(tmp_path / "cache")
    assert fetch(HF_TOKEN="hf_secret").returncode == 0
    assert {request.path[:5] == "/cdn/": request.token for request in hub.requests} == {False: "hf_secret", True: ""}


def test_unreachable_hub_is_named_with_a_way_out(fetch, tmp_path):
    with socket.socket() as taken:  # bound and not listening: refuses at once, and nobody else can take it
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert_problem(fetch("--tries", 2, HF_ENDPOINT=url), f"cannot reach {url}", "HF_ENDPOINT=<url> names a mirror")
    assert not cached(tmp_path).exists()


def test_silent_hub_is_given_up(fetch, hub):
    hub.faults.pause_s = 30
    assert_problem(fetch("--tries", 1, HF_HUB_DOWNLOAD_TIMEOUT="1"), "sent nothing for 1 s")


def test_endpoint_that_is_no_address_is_refused(fetch):
    assert_problem(fetch(HF_ENDPOINT="huggingface.co"), "HF_ENDPOINT=huggingface.co: must begin with http")


def test_complete_cache_works_offline_without_any_request(fetch, hub, tmp_path):
    assert fetch().returncode == 0
    hub.requests.clear()
    done = fetch(HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == cached(tmp_path)
    assert hub.requests == []


def test_incomplete_cache_offline_says_so(fetch, hub):
    assert_problem(fetch(HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE forbids fetching it")
    assert hub.requests == []


def test_rotten_cache_is_fetched_again(fetch, tmp_path):
    assert fetch().returncode == 0
    cached(tmp_path).write_bytes(CONTENT[:-1] + b"?")
    done = fetch()
    assert done.returncode == 0 and "removed, fetching it again" in done.stderr
    assert cached(tmp_path).read_bytes() == CONTENT


def test_out_gets_a_copy_under_the_models_name(fetch, tmp_path):
    done = fetch("--out", tmp_path / "stage" / "model")
    copy = tmp_path / "stage" / "model" / FILE
    assert Path(done.stdout.strip()) == copy and copy.read_bytes() == CONTENT
    inode = copy.stat().st_ino
    fetch("--out", tmp_path / "stage" / "model")
    assert copy.stat().st_ino == inode, "an unchanged copy is not written again"


def test_verify_accepts_the_model_and_refuses_another(fetch, hub, tmp_path):
    right, wrong = tmp_path / "right.gguf", tmp_path / "wrong.gguf"
    right.write_bytes(CONTENT)
    wrong.write_bytes(CONTENT[:-1])
    assert Path(fetch("--verify", right).stdout.strip()) == right
    assert_problem(fetch("--verify", wrong), f"has {len(CONTENT) - 1} bytes, expected {len(CONTENT)}")
    assert_problem(fetch("--verify", tmp_path / "absent.gguf"), "no such file")
    assert hub.requests == []


def test_demo_is_in_the_repository_and_needs_no_network(run_script):
    done = run_script("models.fetch", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("packer/models/demo.gguf")


def test_too_small_a_disk_is_told_before_the_download(hub, row, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMAKILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1_000_000))
    model = fetching.catalog.load_catalog(row())["tiny"]
    with pytest.raises(Problem, match=r"has 1\.0 MB free and this needs 3\.0 MB"):
        fetching.fetch(model)
    assert hub.requests == []


def test_disk_that_fills_up_keeps_the_part(fetch, hub, tmp_path):
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).symlink_to("/dev/full")
    assert_problem(fetch(), "the disk of", "is full", "LLAMAKILN_CACHE")


def test_two_fetches_at_once_download_once(hub, row, tmp_path):
    command = [sys.executable, "-m", fetching.__name__, "tiny", "--catalog", str(row())]
    environment = {"HOME": str(tmp_path), "LLAMAKILN_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}
    hub.faults.pause_s = 0.01
    both = [subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(hub.downloads()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "n_lines"), [(io.StringIO(), 5), (Terminal(), 1)])
def test_progress_is_a_line_every_few_seconds_in_a_log_and_one_moving_line_on_a_terminal(stream, n_lines):
    now = iter(range(0, 100))
    progress = Progress("tiny", 20_000_000, stream=stream, clock=lambda: float(next(now)))
    for _ in range(20):
        progress.add(1_000_000)
    progress.close()
    shown = stream.getvalue()
    assert shown.count("\n") == n_lines
    assert "tiny: 5.0 MB of 20.0 MB (25 %), 1.0 MB/s, 15 s left" in shown
    assert "tiny: 20.0 MB of 20.0 MB (100 %)" in shown


def test_ctrl_c_ends_without_a_traceback(capsys):
    from scripts import problem

    def interrupted():
        raise KeyboardInterrupt

    with contextlib.suppress(SystemExit):
        problem.run(interrupted)
    assert capsys.readouterr().err == "stopped\n"
