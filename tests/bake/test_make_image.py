"""`make image` stops early, says why, and keeps its cache in bounds. The bake itself is proven by baking."""

import os
import shutil
from types import SimpleNamespace

import pytest

from scripts.bake import make_image
from scripts.problem import Problem


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMAKILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(make_image, "BUILD", tmp_path / "build")


def test_a_full_disk_is_told_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(Problem) as caught:
        make_image.check_machine()
    assert "1.00 GB free" in caught.value.message
    assert "8.00 GB" in caught.value.message
    assert "LLAMAKILN_CACHE" in caught.value.way_out


def test_a_missing_tool_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(Problem) as caught:
        make_image.check_machine()
    assert "qemu-system-aarch64" in caught.value.message
    assert "setup/host_packages.sh" in caught.value.way_out


def test_a_packer_without_the_qemu_builder_is_refused(monkeypatch, tmp_path):
    packer = tmp_path / "packer"
    packer.write_text("#!/bin/sh\necho 'Error: Unknown source type qemu' >&2\nexit 1\n")
    packer.chmod(0o755)
    monkeypatch.setenv("PACKER", str(packer))
    with pytest.raises(Problem) as caught:
        make_image.find_packer()
    assert "Unknown source type qemu" in caught.value.message
    assert "plugins install" in caught.value.way_out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "tinylama"), ("MODEL=tinylama", "tinyllama")),
        (("--base", "ubuntu-2204"), ("BASE=ubuntu-2204", "ubuntu-22.04")),
    ],
)
def test_unknown_names_are_told_with_the_likeliest(run_script, arguments, words):
    done = run_script("bake.make_image", *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_only_the_newest_bakes_are_kept(tmp_path):
    baked = tmp_path / "cache" / "baked"
    for age, name in enumerate(("newest", "newer", "old", "oldest")):
        (baked / name).mkdir(parents=True)
        os.utime(baked / name, (1000 - age, 1000 - age))
    make_image.forget_old_bakes(baked / "newest")
    assert sorted(path.name for path in baked.iterdir()) == ["newer", "newest"]


def test_the_bake_logs_in_with_a_key_of_its_own(tmp_path):
    key = make_image.write_seed(tmp_path / "seed")
    public = key.with_name(key.name + ".pub").read_text().strip()
    assert public in (tmp_path / "seed" / "user-data").read_text()
    assert make_image.write_seed(tmp_path / "seed").read_bytes() != b""
    assert public not in (tmp_path / "seed" / "user-data").read_text(), "a new key for every bake"
