"""Say how fast this host can run an Arm machine: print `kvm` or `tcg`, and the reason on standard error.

/dev/kvm may be there while guests hang in it (nested virtualisation does this), so nothing is believed before a real
machine has printed something under KVM. Knows QEMU's accelerators and firmware; knows nothing of images.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from select import select

from ..problem import Problem, run

QEMU = "qemu-system-aarch64"
KVM_DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 20  # UEFI prints within 2 s on a working KVM; a hanging one never does
FIRMWARE = (  # Debian's and Ubuntu's qemu-efi-aarch64; Fedora's edk2-aarch64
    Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
    Path("/usr/share/edk2/aarch64/QEMU_EFI.fd"),
)


def find_firmware() -> Path:
    """Return the UEFI firmware for QEMU's `virt` machine."""
    for path in FIRMWARE:
        if path.is_file():
            return path
    raise Problem(f"no UEFI firmware for Arm in {' or '.join(map(str, FIRMWARE))}", "apt-get install qemu-efi-aarch64")


def first_output(command: list[str], timeout_s: float = PROBE_TIMEOUT_S) -> tuple[bool, str]:
    """Run a machine until it prints its first byte: (True, "") or (False, what was seen instead)."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            readable, _, _ = select([process.stdout], [], [], timeout_s)
            if not readable:
                return False, f"printed nothing in {timeout_s:.0f} s"
            if process.stdout.read(1):
                return True, ""
            return False, process.stderr.read().decode(errors="replace").strip() or "ended without a word"
        finally:
            process.kill()


def choose_accelerator(
    host_machine: str | None = None,
    device: Path = KVM_DEVICE,
    boot: Callable[[list[str]], tuple[bool, str]] = first_output,
) -> tuple[str, str]:
    """Return ("kvm" or "tcg", the reason in words) for an Arm machine on this host."""
    host_machine = host_machine or platform.machine()
    if host_machine not in ("aarch64", "arm64"):
        return "tcg", f"the host is {host_machine}, so Arm has to be emulated"
    if not os.access(device, os.R_OK | os.W_OK):
        return "tcg", f"{device} is missing or not ours to open"
    command = [QEMU, "-machine", "virt,gic-version=host", "-accel", "kvm", "-cpu", "host", "-m", "256"]
    command += ["-bios", str(find_firmware()), "-net", "none"]
    command += ["-display", "none", "-monitor", "none", "-serial", "stdio"]
    works, seen = boot(command)
    return ("kvm", "a machine printed under KVM") if works else ("tcg", f"a machine under KVM {seen}")


def main() -> None:
    if not shutil.which(QEMU):
        raise Problem(f"{QEMU} is not installed", "apt-get install qemu-system-arm")
    accelerator, reason = choose_accelerator()
    print(reason, file=sys.stderr)
    print(accelerator)


if __name__ == "__main__":
    run(main)
