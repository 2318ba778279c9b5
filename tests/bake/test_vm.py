"""vm.py and what it uses, with a QEMU that is a shell script: what is asked of it, and that it never outlives us."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.bake import probe_kvm, qemu, vm
from scripts.bake.probe_kvm import choose_accelerator, first_output
from scripts.bake.qemu import free_ports, qemu_command
from scripts.bake.vm import VM, VMError
from scripts.files import REPOSITORY
from scripts.problem import Problem

RUNS_ON = 'echo booting >>"${1#file:}"\nexec sleep 60'  # writes its pid below, prints to the serial console, stays up


@pytest.fixture
def fake_qemu(tmp_path, monkeypatch):
    """Put a qemu-system-aarch64 of our own on the path; call the fixture with the lines it shall run.

    Its first argument is the serial port. Returns the file in which it leaves its process id.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    pid_file = tmp_path / "qemu.pid"
    firmware = tmp_path / "QEMU_EFI.fd"
    firmware.touch()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(probe_kvm, "FIRMWARE", (firmware,))
    qemu_img = tools / "qemu-img"
    qemu_img.write_text('#!/bin/sh\n[ "$1" = info ] && echo \'{"virtual-size": 3221225472}\'\nexit 0\n')
    qemu_img.chmod(0o755)

    def write(lines: str) -> Path:
        qemu = tools / probe_kvm.QEMU
        find_serial = 'for each; do case $each in file:*) serial=$each ;; esac; done; set -- "$serial"'
        qemu.write_text(f"#!/bin/sh\n{find_serial}\necho $$ >{shlex.quote(str(pid_file))}\n{lines}\n")
        qemu.chmod(0o755)
        return pid_file

    return write


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "node.qcow2"
    path.write_bytes(b"QFI\xfb")
    return path


def wait_for_text(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} stays empty"
        time.sleep(0.02)
    return path.read_text()


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


CONSTANT = {"metadata": "nocloud", "console": Path("/w/console.log")}


def command(**changes) -> list[str]:
    options = {"cpu": "a2", "accelerator": "tcg", "cores": 2, "memory_mb": 2048, "ssh_port": 2201, "http_port": 8001}
    return qemu_command(Path("/w"), Path("/f/QEMU_EFI.fd"), **CONSTANT | options | changes)


def test_ports_are_forwarded_from_loopback_only():
    netdev = next(part for part in command() if part.startswith("user,"))
    assert netdev == "user,id=net,hostfwd=tcp:127.0.0.1:2201-:22,hostfwd=tcp:127.0.0.1:8001-:80"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cpu": "a2"}, ["-cpu", "max,sve=off,pauth-impdef=on"]),
        ({"cpu": "a1"}, ["-cpu", "neoverse-n1"]),
        ({"accelerator": "tcg"}, ["-machine", "virt", "-accel", "tcg,thread=multi,tb-size=1024"]),
        ({"cpu": "host", "accelerator": "kvm"}, ["-machine", "virt,gic-version=host", "-accel", "kvm", "-cpu", "host"]),
        ({"cores": 4, "memory_mb": 8192}, ["-smp", "4", "-m", "8192"]),
    ],
)
def test_machine_is_the_one_asked_for(changes, expected):
    words = command(**changes)
    start = words.index(expected[0])
    assert words[start : start + len(expected)] == expected


def test_oracle_s_metadata_are_where_cloud_init_asks():
    """The asset tag makes it ask, at Oracle's address, which lies in the machine's own network."""
    words = command(metadata="oracle")
    assert "type=3,asset=OracleCloud.com" in words
    netdev = next(part for part in words if part.startswith("user,"))
    assert "net=169.254.0.0/16,guestfwd=tcp:169.254.169.254:80-cmd:" in netdev
    assert netdev.endswith("imds.py /w/seed")
    assert not any("CIDATA" in word for word in words)


def test_console_outlives_the_machine_where_it_is_asked_to(fake_qemu, image, tmp_path):
    fake_qemu(RUNS_ON)
    with VM(image, console=tmp_path / "kept.log") as machine:
        wait_for_text(machine.console)
    assert (tmp_path / "kept.log").read_text() == "booting\n"


def test_free_ports_differ():
    assert len(set(free_ports(5))) == 5


@pytest.mark.parametrize("machine", ["x86_64", "riscv64"])
def test_foreign_host_emulates_without_a_probe(machine):
    def never(_command):
        raise AssertionError("must not boot anything")

    assert choose_accelerator(machine, boot=never)[0] == "tcg"


def test_arm_host_without_kvm_device_emulates(tmp_path):
    accelerator, reason = choose_accelerator("aarch64", device=tmp_path / "kvm")
    assert accelerator == "tcg"
    assert "kvm is missing" in reason


@pytest.mark.parametrize(
    ("lines", "accelerator", "reason"),
    [
        ("echo UEFI firmware", "kvm", "a machine printed under KVM"),
        ("echo 'kvm_arm_vcpu_init failed' >&2; exit 1", "tcg", "kvm_arm_vcpu_init failed"),
        ("exec sleep 60", "tcg", "printed nothing in 0 s"),
    ],
)
def test_kvm_is_believed_only_after_a_machine_printed(fake_qemu, tmp_path, lines, accelerator, reason):
    """The device is there and ours in all three cases; a hanging guest is what nested virtualisation shows."""
    pid_file = fake_qemu(lines)
    timeout_s = 0.4 if "sleep" in lines else 10
    chosen, why = choose_accelerator("aarch64", device=tmp_path, boot=lambda words: first_output(words, timeout_s))
    assert chosen == accelerator
    assert reason in why
    assert has_ended(int(wait_for_text(pid_file)))


def test_missing_firmware_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(probe_kvm, "FIRMWARE", (Path("/nowhere/QEMU_EFI.fd"),))
    with pytest.raises(Problem, match="no UEFI firmware") as caught:
        probe_kvm.find_firmware()
    assert caught.value.way_out == "apt-get install qemu-efi-aarch64"


def test_machine_ends_with_its_block(fake_qemu, image):
    pid_file = fake_qemu(RUNS_ON)
    with VM(image) as machine:
        pid = int(wait_for_text(pid_file))
        assert not has_ended(pid)
        workdir = machine.workdir
    assert has_ended(pid)
    assert not workdir.exists()


def test_machine_ends_when_its_block_fails(fake_qemu, image):
    pid_file = fake_qemu(RUNS_ON)
    with pytest.raises(ZeroDivisionError), VM(image):
        pid = int(wait_for_text(pid_file))
        1 / 0  # noqa: B018
    assert has_ended(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_machine_ends_when_the_script_is_told_to(fake_qemu, image, number):
    pid_file = fake_qemu(RUNS_ON)
    command = [sys.executable, "-m", vm.__name__, str(image), "--accelerator", "tcg"]
    running = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        pid = int(wait_for_text(pid_file))
        running.send_signal(number)
        assert running.wait(20) in (130, 128 + number)
        assert has_ended(pid)
    finally:
        running.kill()


def test_seed_gives_this_run_s_key_to_the_default_user(fake_qemu, image):
    fake_qemu(RUNS_ON)
    with VM(image, name="copy-a2") as machine:
        meta_data = json.loads((machine.workdir / "seed" / "meta-data").read_text())
        assert meta_data["public-keys"] == [(machine.workdir / "key.pub").read_text().strip()]
        assert meta_data["local-hostname"] == "copy-a2"
        assert (machine.workdir / "seed" / "user-data").read_text().startswith("#cloud-config\n")


def test_two_copies_are_two_instances(fake_qemu, image):
    fake_qemu(RUNS_ON)
    with VM(image) as one, VM(image) as other:
        assert one.ssh_port != other.ssh_port
        assert (one.workdir / "key.pub").read_text() != (other.workdir / "key.pub").read_text()
        assert (one.workdir / "seed" / "meta-data").read_text() != (other.workdir / "seed" / "meta-data").read_text()


def test_ended_machine_shows_its_console(fake_qemu, image):
    fake_qemu('echo "Kernel panic - not syncing" >>"${1#file:}"; echo "qemu: out of memory" >&2; exit 1')
    with pytest.raises(VMError, match=r"QEMU ended(.|\n)*qemu: out of memory(.|\n)*Kernel panic"), VM(image) as machine:
        wait_for_text(machine.console)
        machine.process.wait(10)
        machine.wait_for("ssh", lambda: False, timeout_s=30)


def test_late_machine_shows_its_console(fake_qemu, image):
    fake_qemu(RUNS_ON)
    with pytest.raises(VMError, match=r"no 200 from /readyz within 0 s(.|\n)*booting"), VM(image) as machine:
        wait_for_text(machine.console)
        machine.wait_for_http(timeout_s=0)


def test_copy_smaller_than_the_image_is_refused(fake_qemu, image):
    fake_qemu(RUNS_ON)
    with pytest.raises(VMError, match=r"disk_gb=2: node.qcow2 is larger, 3.0 GiB"), VM(image, disk_gb=2):
        pass


def test_missing_image_is_named(tmp_path, fake_qemu):
    fake_qemu(RUNS_ON)
    with pytest.raises(VMError, match=r"nothing\.qcow2: no such image"), VM(tmp_path / "nothing.qcow2"):
        pass


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed; `make image` installs it")
def test_copy_leaves_the_image_unchanged(image, tmp_path, monkeypatch):
    """With the real qemu-img: the copy is an overlay of the size asked for."""
    monkeypatch.setattr(vm, "find_firmware", lambda: tmp_path)
    monkeypatch.setattr(qemu, "QEMU", "true")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)
    before = image.read_bytes()
    with VM(image, disk_gb=3) as machine:
        shown = json.loads(vm.run_tool("qemu-img", "info", "--output=json", machine.workdir / "disk.qcow2"))
    assert shown["virtual-size"] == 3 << 30
    assert shown["full-backing-filename"] == str(image)
    assert image.read_bytes() == before
