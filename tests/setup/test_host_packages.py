"""Missing packages: listed first, installed as root or with sudo, else the exact command is told."""

import os
import subprocess

import pytest

from scripts.files import REPOSITORY


@pytest.fixture
def install(tmp_path):
    """Run the script on a machine where dpkg knows no package; `stubs` are more commands: name -> shell text."""

    def run(target, **stubs):
        folder = tmp_path / "bin"
        folder.mkdir()
        defaults = {
            "dpkg-query": "exit 1",
            "apt_get": f'echo "apt-get $*" >>{tmp_path}/apt; exit 0',
            "arch_test": "exit 0",
        }
        for name, text in (defaults | stubs).items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        done = subprocess.run(
            ["bash", REPOSITORY / "scripts" / "setup" / "host_packages.sh", target],
            env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        asked = tmp_path / "apt"
        return done, asked.read_text() if asked.exists() else ""

    return run


def test_as_root_it_lists_and_installs(install):
    done, asked = install("image", id="echo 0")
    assert done.returncode == 0, done.stderr
    assert "packages that are missing here:" in done.stderr
    for package in ("qemu-system-arm", "mtools"):
        assert package in done.stderr.splitlines()[0]
        assert package in asked


def test_without_root_or_sudo_the_exact_command_is_told(install):
    done, asked = install("image", id="echo 1000", sudo="exit 1")
    assert done.returncode == 1
    assert "try: sudo sh -c 'apt-get update && apt-get install -y" in done.stderr
    assert asked == ""


def test_with_sudo_that_asks_nothing_it_installs(install):
    done, asked = install("image", id="echo 1000", sudo='case $1 in -n) exit 0 ;; *) exec "$@" ;; esac')
    assert done.returncode == 0, done.stderr
    assert "qemu-system-arm" in asked


@pytest.mark.parametrize(
    ("apt", "message"),
    [
        ('case "$*" in *update*) exit 100 ;; esac', "apt-get update failed"),
        ('case "$*" in *install*) exit 100 ;; esac', "apt-get could not install them"),
    ],
)
def test_apt_that_fails_is_told_with_the_command(install, apt, message):
    done, _ = install("image", id="echo 0", apt_get=apt)
    assert done.returncode == 1
    assert message in done.stderr
    assert "try: sudo" in done.stderr


def test_a_distribution_without_packer_is_no_reason_to_stop_here(install):
    """make_image.py says where Packer comes from then."""
    done, asked = install("image", id="echo 0", **{"apt-cache": "exit 100"})
    assert done.returncode == 0, done.stderr
    assert "qemu-system-arm" in asked
    assert " packer" not in asked


def test_nothing_missing_nothing_done(install):
    done, asked = install("image", id="echo 1000", sudo="exit 1", **{"dpkg-query": "echo installed"})
    assert (done.returncode, asked) == (0, "")


def test_an_unknown_target_is_a_usage_error(install):
    done, _ = install("dance")
    assert done.returncode == 1
    assert "usage:" in done.stderr
