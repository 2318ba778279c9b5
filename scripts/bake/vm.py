"""Boot a disk image as an Arm machine in QEMU: `vm IMAGE.qcow2`, or `with VM(image, cpu="a2") as vm`.

The image itself is never written: each machine gets a fresh overlay, an ssh key of its own, metadata for cloud-init
(seed.py), and two ports on loopback that lead to its ports 22 and 80 (access.py). The machine ends with the `with`
block, whatever happens in it.
Knows when a machine begins, is there and ends; qemu.py knows its command line. Knows nothing of what is on the image:
tests/image asks about that.
"""

import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..problem import Problem, run
from .access import Access
from .probe_kvm import choose_accelerator, find_firmware
from .qemu import ACCELERATORS, CPUS, METADATA, free_ports, qemu_command
from .seed import write_seed

LOGIN_USERS = ("ubuntu", "debian")  # cloud-init's default user, by distribution
SERIAL_TAIL_LINES = 40
TERMINAL_CODES = r"\x1b\[[0-9;=?]*[A-Za-z]"  # UEFI paints its console
PROGRESS_EVERY_S = 15
POLL_S = 1.0


class VMError(Problem):
    """The machine did not do what was asked in time, or ended; the message carries the console's last lines."""


def run_tool(*command: str | Path) -> str:
    """Run a host tool to its end and return what it printed; VMError with its own words when it fails."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except FileNotFoundError:
        raise VMError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise VMError(f"{shlex.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class VM(Access):
    """One machine: power on with `with`, then wait for it, talk to it over ssh, pull the plug by leaving the block."""

    def __init__(
        self,
        image: Path,
        *,
        cpu: str = "a2",
        accelerator: str = "tcg",
        cores: int = 2,
        memory_mb: int = 2048,
        disk_gb: int | None = None,
        metadata: str = "nocloud",
        name: str | None = None,
        console: Path | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        """image: qcow2 file, opened read-only; disk_gb: the copy's size in GiB when larger than the image's own.

        console: where the serial console is written to, if it shall outlive the machine.
        """
        self.image, self.cpu, self.accelerator, self.cores, self.memory_mb = image, cpu, accelerator, cores, memory_mb
        self.disk_gb, self.metadata, self.name, self.say = disk_gb, metadata, name or f"llamakiln-{cpu}", say
        self.process: subprocess.Popen | None = None
        self.powered_on_at = 0.0
        # ssh's control socket lives in here too, and a socket's path holds 107 bytes: so never under a deep folder
        super().__init__(Path(tempfile.mkdtemp(prefix="llamakiln-vm-")), *free_ports(2))
        self.console = console or self.workdir / "console.log"

    # -- power ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "VM":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Make the fresh copy, the key and the seed, and power on."""
        firmware = find_firmware()
        self._copy_disk()
        run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "llamakiln-vm", "-f", self.workdir / "key")
        key = (self.workdir / "key.pub").read_text().strip()
        write_seed(self.workdir / "seed", self.metadata, self.name, self.cpu, key)
        command = qemu_command(
            self.workdir,
            firmware,
            cpu=self.cpu,
            accelerator=self.accelerator,
            cores=self.cores,
            memory_mb=self.memory_mb,
            ssh_port=self.ssh_port,
            http_port=self.http_port,
            metadata=self.metadata,
            console=self.console,
        )
        with open(self.workdir / "qemu.log", "wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end QEMU after we have said what was on its console.
            # A signal between QEMU's start and this assignment would leave a machine that nobody ends: it has to wait.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, held),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
        self.powered_on_at = time.monotonic()
        self.say(f"{self.name}: on, {self.accelerator} {CPUS[self.cpu]}, ssh 127.0.0.1:{self.ssh_port}, {self.url}")

    def stop(self) -> None:
        """Pull the plug and forget the copy. Safe to call twice."""
        if (self.workdir / "ssh_config").exists():
            subprocess.run([*self.ssh_command(), "-O", "exit"], capture_output=True)
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.workdir, ignore_errors=True)

    def _copy_disk(self) -> None:
        image = self.image.resolve()
        if not image.is_file():
            raise VMError(f"{image}: no such image")
        size = json.loads(run_tool("qemu-img", "info", "--output=json", image))["virtual-size"]
        if self.disk_gb and self.disk_gb << 30 < size:
            raise VMError(f"disk_gb={self.disk_gb}: {image.name} is larger, {size / (1 << 30):.1f} GiB")
        copy = [self.workdir / "disk.qcow2", *([f"{self.disk_gb}G"] if self.disk_gb else [])]
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, *copy)

    # -- waiting for it ------------------------------------------------------------------------------------------------

    def age_s(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self.powered_on_at

    def wait_for(self, what: str, is_there: Callable[[], bool], timeout_s: float) -> float:
        """Ask again and again until is_there() holds; return the machine's age then, VMError when time is up."""
        deadline = time.monotonic() + timeout_s
        progress_at = time.monotonic() + PROGRESS_EVERY_S
        while not is_there():
            if self.process is None or self.process.poll() is not None:
                raise VMError(f"{self.name}: QEMU ended while we waited for {what}\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise VMError(f"{self.name}: no {what} within {timeout_s:.0f} s\n{self.last_words()}")
            if time.monotonic() > progress_at:
                progress_at += PROGRESS_EVERY_S
                self.say(f"{self.name}: waiting for {what}, {self.age_s():.0f} s after power-on")
            time.sleep(POLL_S)
        age_s = self.age_s()
        self.say(f"{self.name}: {what} after {age_s:.1f} s")
        return age_s

    def wait_for_ssh(self, timeout_s: float = 300, users: Sequence[str] = LOGIN_USERS) -> float:
        """Wait until one of `users` can log in; from then on `self.user` is that one."""

        def can_log_in() -> bool:
            if not self.has_banner():  # QEMU itself takes every connection, and ssh would wait long for nobody
                return False
            for self.user in users:
                try:
                    if self.ssh("true", timeout_s=60).returncode == 0:
                        return True
                except subprocess.TimeoutExpired:
                    pass
            self.user = None
            return False

        age_s = self.wait_for("ssh", can_log_in, timeout_s)
        with open(self.ssh_config, "a") as config:
            config.write(f"  User {self.user}\n")
        return age_s

    def wait_for_http(self, path: str = "/readyz", timeout_s: float = 300) -> float:
        """Wait until GET path answers 200 through port 80."""
        return self.wait_for(f"200 from {path}", lambda: self.http_status(path) == 200, timeout_s)

    def last_words(self) -> str:
        """Return the end of QEMU's own messages and of the serial console."""
        lines = []
        for path, label in ((self.workdir / "qemu.log", "QEMU said"), (self.console, "end of the serial console")):
            text = path.read_text(errors="replace") if path.exists() else ""
            clean = [line.rstrip() for line in re.sub(TERMINAL_CODES, "", text).splitlines()]
            tail = [line for line in clean if line][-SERIAL_TAIL_LINES:]
            if tail:
                lines += [f"--- {label}:", *tail]
        return "\n".join(lines) or "--- nothing on its console"


def exit_on_signals() -> None:
    """Turn signals into SystemExit, so that `with VM(...)` ends the machine then too.

    SIGINT as well: a shell starts its background jobs with that signal ignored, and Python then leaves it so.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="qcow2 disk, stays unchanged")
    parser.add_argument("--cpu", choices=CPUS, default="a2", help="which shape's CPU to show (default a2)")
    parser.add_argument("--accelerator", choices=("auto", *ACCELERATORS), default="auto")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=2048)
    parser.add_argument("--disk-gb", type=int, help="grow the copy to this size")
    parser.add_argument("--metadata", choices=METADATA, default="nocloud", help="whom cloud-init shall ask")
    parser.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds to wait for ssh (default 300)")
    parser.add_argument("--exec", metavar="COMMAND", help="run this on the machine and end; default: wait for Ctrl-C")
    options = parser.parse_args()
    exit_on_signals()
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = "tcg" if options.cpu == "a1" else choose_accelerator()[0]
    cpu = "host" if accelerator == "kvm" else options.cpu
    sizes = {"cores": options.cores, "memory_mb": options.memory_mb, "disk_gb": options.disk_gb}
    with VM(options.image, cpu=cpu, accelerator=accelerator, metadata=options.metadata, **sizes) as vm:
        vm.wait_for_ssh(options.timeout)
        if options.exec:
            return subprocess.run(vm.ssh_command(options.exec), stdin=subprocess.DEVNULL).returncode
        print(f"log in:  {shlex.join(vm.ssh_command())}\npage:    {vm.url}\nconsole: {vm.console}")
        print("Ctrl-C ends the machine and forgets its disk.", flush=True)
        vm.process.wait()
        raise VMError(f"{vm.name}: QEMU ended\n{vm.last_words()}")


if __name__ == "__main__":
    run(main)
