from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from pathlib import Path

import pytest

from scripts.bake import write_manifest
from scripts.problem import Problem

FACTS = {
    "version": "0.1.0",
    "model": "tinyllama-q4_0",
    "base": {"name": "debian-12", "release": "20261122", "sha256": "a" * 64, "reason": "Ubuntu's servers not reached"},
    "library_sets": [{"name": "arm64-a2", "llama_cpp_commit": "0c1e57098", "blas": False}],
    "python_lock": "service/requirements.txt",
    "tools": {"packer": "1.6.6", "qemu": "7.2.22"},
    "stages": [{"name": "base", "seconds": 12.25, "is_cached": True}, {"name": "bake", "seconds": 600}],
    "boot": {"first_token_s": 41.5},
}
QCOW2, OCI = "llamakiln-demo-0.1.0-arm64.qcow2", "llamakiln-demo-0.1.0-arm64.oci"


@pytest.fixture
def build(tmp_path) -> Path:
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / QCOW2).write_bytes(b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 8 << 30) + b"disk")
    (folder / OCI).write_bytes(b"archive")
    return folder


@pytest.fixture
def write(run_script, build, tmp_path):
    def run(facts: object = FACTS, *names: str, **variables: str):
        file = tmp_path / "facts.json"
        file.write_text(facts if isinstance(facts, str) else json.dumps(facts))
        arguments = ["--facts", file, "--out", build, *(names or (QCOW2, OCI))]
        return run_script("bake.write_manifest", *arguments, **variables)

    return run


def test_manifest_says_what_the_image_was_made_of(write, build):
    done = write()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(build / "manifest.json")
    manifest = json.loads((build / "manifest.json").read_text())
    for fact in ("version", "base", "library_sets", "tools", "stages", "boot"):
        assert manifest[fact] == FACTS[fact]
    assert manifest["schema"] == 1
    assert manifest["model"]["name"] == "tinyllama-q4_0" and manifest["model"]["bytes"] == 637699456
    assert manifest["total_seconds"] == 612.2
    disk, archive = manifest["files"]
    assert disk["name"] == QCOW2 and disk["virtual_bytes"] == 8 << 30
    assert disk["bytes"] == (build / QCOW2).stat().st_size
    assert archive == {"name": OCI, "bytes": 7, "sha256": hashlib.sha256(b"archive").hexdigest()}
    lock = Path(write_manifest.REPOSITORY, "service/requirements.txt").read_bytes()
    assert manifest["python_lock"]["sha256"] == hashlib.sha256(lock).hexdigest()


def test_sums_satisfy_sha256sum_and_betray_a_changed_file(write, build):
    write()
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=build, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.split() == [QCOW2 + ":", "OK", OCI + ":", "OK", "manifest.json:", "OK"]
    (build / OCI).write_bytes(b"another")
    assert subprocess.run(check, cwd=build, capture_output=True, check=False).returncode == 1


def test_source_date_epoch_makes_it_reproducible(write, build):
    write(SOURCE_DATE_EPOCH="1700000000")
    first = (build / "manifest.json").read_bytes()
    write(SOURCE_DATE_EPOCH="1700000000")
    assert (build / "manifest.json").read_bytes() == first
    assert json.loads(first)["created"] == "2023-11-14T22:13:20Z"
    assert "SOURCE_DATE_EPOCH=soon: must be" in write(SOURCE_DATE_EPOCH="soon").stderr


def test_git_state_tells_commit_and_dirt(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert write_manifest.git_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert write_manifest.git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "is_dirty": False}
    (tmp_path / "file").write_text("2")
    assert write_manifest.git_state(tmp_path)["is_dirty"] is True


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": None}, "version = None: must be str"),
        ({"verison": "1"}, "verison: unknown; allowed are version, model"),
        ({"base": {"name": "x", "release": "1"}}, "base.sha256: missing; must be str"),
        ({"base": "debian-12"}, "base = 'debian-12': must be dict"),
        ({"library_sets": [{"name": "a"}]}, "library_sets[0].llama_cpp_commit: missing"),
        ({"stages": [{"name": "a", "seconds": "9"}]}, "stages[0].seconds = '9': must be int or float"),
        ({"stages": [{"name": "a", "seconds": True}]}, "stages[0].seconds = True: must be int or float"),
        ({"stages": ["bake"]}, "stages[0].: must be an object, not 'bake'"),
        ({"boot": []}, "boot = []: must be dict or null"),
    ],
)
def test_wrong_fact_is_named_with_what_is_allowed(change, expected):
    with pytest.raises(Problem) as caught:
        write_manifest.check_facts({**FACTS, **change})
    assert expected in caught.value.message


def test_every_missing_fact_is_reported_at_once():
    with pytest.raises(Problem) as caught:
        write_manifest.check_facts({})
    assert caught.value.message.count("missing") == 7


def test_image_that_was_not_booted_has_no_boot_report(write, build):
    assert write({key: value for key, value in FACTS.items() if key != "boot"}).returncode == 0
    assert json.loads((build / "manifest.json").read_text())["boot"] is None


@pytest.mark.parametrize(
    ("facts", "names", "expected"),
    [
        ("{", (), "cannot read the facts"),
        ([], (), "must be an object"),
        ({**FACTS, "model": "tinylama-q4_0"}, (), "did you mean tinyllama-q4_0?"),
        ({**FACTS, "python_lock": "absent.txt"}, (), "absent.txt: no such file"),
        (FACTS, ("absent.oci",), "absent.oci: no such file"),
        (FACTS, ("../x.oci",), "must be the bare name of a file"),
    ],
)
def test_wrong_input_is_told_and_writes_nothing(write, build, facts, names, expected):
    done = write(facts, *names)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert expected in done.stderr
    assert sorted(file.name for file in build.iterdir()) == sorted([QCOW2, OCI])
