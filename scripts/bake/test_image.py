"""Test a finished image: `test_image IMAGE.qcow2`, or a node that already runs: `test_image --host TARGET`.

An image is booted from two fresh copies, one with the CPU of an A2 shape and one with that of an A1 shape. Both are
tested by tests/image, then compared, then one is killed and rebooted. Prints the boot report, and writes it with
--report: seconds from power-on to ssh, to ready and to the first token through port 80, and systemd's own figures.
Knows the order of these steps; knows nothing of what a good image is (tests/image) or of QEMU (vm.py).
"""

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from ..files import REPOSITORY
from ..problem import run
from .probe_kvm import choose_accelerator
from .vm import VM, VMError, exit_on_signals

TESTS = REPOSITORY / "tests" / "image"
BOOT_TIMEOUT_S = 900  # under emulation, on a busy host
DISK_GB = 50  # the architecture's boot volume
LOGS = REPOSITORY / "build" / "logs"


def log(line: str) -> None:
    print(line, flush=True)


# -- the boot report ---------------------------------------------------------------------------------------------------


def ask_one_token(vm: VM) -> str:
    """Ask for one streamed token through port 80 and return the data of its first event."""
    connection = http.client.HTTPConnection("127.0.0.1", vm.http_port, timeout=BOOT_TIMEOUT_S)
    try:
        body = json.dumps({"prompt": "Hello", "max_tokens": 1, "stream": True})
        connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise VMError(f"{vm.name}: POST /generate: {answer.status} {answer.read(500).decode(errors='replace')}")
        for line in answer:
            if line.startswith(b"data:"):
                return line.decode().removeprefix("data:").strip()
        raise VMError(f"{vm.name}: POST /generate: the stream held no event")
    finally:
        connection.close()


def watch_boot(vm: VM) -> dict[str, float]:
    """Wait for one machine to answer, then for its login; seconds since power-on for each.

    The first answer is what a load balancer waits for, so nothing else disturbs the machine until it is there.
    """
    try:
        seconds = {"ready_s": round(vm.wait_for_http("/readyz", BOOT_TIMEOUT_S), 1)}
        ask_one_token(vm)
    except VMError as error:
        raise VMError(f"{error.message}\n{read_journal(vm)}") from error
    seconds["first_token_s"] = round(vm.age_s(), 1)
    log(f"{vm.name}: first token through port 80 after {seconds['first_token_s']} s")
    seconds["ssh_s"] = round(vm.wait_for_ssh(BOOT_TIMEOUT_S), 1)
    wait = vm.ssh("systemctl is-system-running --wait", timeout_s=BOOT_TIMEOUT_S)
    seconds["boot_finished_s"] = round(vm.age_s(), 1)
    log(f"{vm.name}: boot finished ({wait.stdout.strip()}) after {seconds['boot_finished_s']} s")
    return seconds


def read_journal(vm: VM) -> str:
    """Return why a machine that runs does not answer, if it lets us in."""
    try:
        vm.wait_for_ssh(60)
        said = vm.ssh(
            "systemctl --failed --no-legend; sudo journalctl -b -u llm -u nginx -p info -n 40 --no-pager -o cat"
        )
    except (VMError, subprocess.TimeoutExpired):
        return "--- and no login is possible"
    return f"--- failed units, and what llm.service and nginx.service said:\n{said.stdout.strip()}"


def seconds_of(text: str) -> float:
    """Read systemd's `1min 2.345s` or `678ms` as seconds."""
    unit_s = {"h": 3600, "min": 60, "s": 1, "ms": 0.001, "us": 0.000001}
    return round(
        sum(float(number) * unit_s[unit] for number, unit in re.findall(r"([\d.]+)(h|min|ms|us|s)\b", text)), 3
    )


def read_analyze(facts: dict[str, str]) -> dict[str, object]:
    """Turn what systemd-analyze printed (tests/image/facts.sh) into numbers.

    `time`: {"kernel": s, "userspace": s, ...}; `blame`: the ten slowest units; `chain`: who llm.service waited for.
    """
    times = re.findall(r"([\w. ]+?) \((firmware|loader|kernel|initrd|userspace)\)", facts["analyze_time"])
    blame = [line.strip().rsplit(" ", 1) for line in facts["analyze_blame"].splitlines() if line.strip()]
    return {
        "time": {name: seconds_of(text) for text, name in times},
        "blame": {unit: seconds_of(text) for text, unit in blame},
        "chain": [line for line in facts["analyze_chain"].splitlines() if line and not line.startswith("The time")],
    }


def print_report(report: dict[str, dict]) -> None:
    log("\nBoot report")
    for shape, row in report.items():
        note = ", emulated: compare it with itself only" if row["accelerator"] == "tcg" else ""
        log(f"  like {shape} ({row['cpu']}{note})")
        log(f"    power-on to first token {row['first_token_s']} s, ready {row['ready_s']} s, ssh {row['ssh_s']} s")
        log("    systemd: " + ", ".join(f"{name} {value} s" for name, value in row.get("time", {}).items()))
        log("    slowest: " + ", ".join(f"{unit} {value} s" for unit, value in row.get("blame", {}).items()))
        log("    llm.service waited for:")
        for line in row.get("chain", ["unknown: its facts could not be read"]):
            log(f"      {line}")


# -- the tests ---------------------------------------------------------------------------------------------------------


def run_pytest(title: str, *arguments: str | Path) -> int:
    """Run pytest on tests/image and print what it said in one piece, because two may run at once; its exit status."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "--durations=6", *(str(part) for part in arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log(f"\n=== {title}: {time.monotonic() - started:.0f} s\n{done.stdout}")
    return done.returncode


def node_options(vm: VM) -> list[str | Path]:
    key = vm.workdir / "key"
    return ["--node", "node", "--node-ssh-config", vm.ssh_config, "--node-key", key, "--node-url", vm.url]


def choose_machines(accelerator: str, host_features: str) -> dict[str, dict[str, str]]:
    """Return how to boot each copy: shape -> cpu, accelerator and metadata of its VM.

    One is told its keys by Oracle's metadata service, as nodes are, and the other by a seed disk, as at a desk.
    An Arm host with KVM is one of the two shapes itself, and the other is emulated: KVM shows no foreign CPU.
    """
    machines = {
        "a2": {"cpu": "a2", "accelerator": "tcg", "metadata": "oracle"},
        "a1": {"cpu": "a1", "accelerator": "tcg", "metadata": "nocloud"},
    }
    if accelerator == "kvm":
        own = "a2" if {"i8mm", "bf16"} <= set(host_features.split()) else "a1"
        machines[own] |= {"cpu": "host", "accelerator": "kvm"}
    return machines


def check_image(image: Path) -> tuple[bool, dict[str, dict]]:
    """Boot two copies, test both, compare them, restart one; (whether all tests passed, the boot report)."""
    accelerator, reason = choose_accelerator()
    machines = choose_machines(accelerator, Path("/proc/cpuinfo").read_text())
    LOGS.mkdir(parents=True, exist_ok=True)
    log(f"booting two fresh copies of {image.name} ({reason}); consoles in {LOGS}/console-*.log")
    with tempfile.TemporaryDirectory(prefix="llamakiln-test-") as folder, ThreadPoolExecutor(2) as pool:
        facts = {shape: Path(folder) / f"{shape}.json" for shape in machines}
        with ExitStack() as running:  # inside the pool: machines end first, and then whoever still waits for them
            copies = {
                shape: running.enter_context(
                    VM(image, name=f"copy-{shape}", disk_gb=DISK_GB, console=LOGS / f"console-{shape}.log", **machine)
                )
                for shape, machine in machines.items()
            }
            boots = {shape: pool.submit(watch_boot, vm) for shape, vm in copies.items()}
            report = {shape: machines[shape] | boot.result() for shape, boot in boots.items()}
            runs = [
                pool.submit(
                    run_pytest,
                    *(f"first boot of {vm.name}", TESTS, *node_options(vm)),
                    *("--node-cpu", shape, "--node-fresh", "--facts-out", facts[shape]),
                )
                for shape, vm in copies.items()
            ]
            statuses = [run.result() for run in runs]
            copies["a1"].stop()
            statuses.append(run_pytest("the copies compared", TESTS, "--copies", *facts.values()))
            restart = [TESTS / "test_restart.py", *node_options(copies["a2"]), "--disruptive"]
            statuses.append(run_pytest("killed and rebooted", *restart))
            if statuses[-1]:
                log(copies["a2"].last_words())
        for shape, path in facts.items():
            report[shape] |= read_analyze(json.loads(path.read_text())) if path.exists() else {}
    return not any(statuses), report


def check_faults(image: Path) -> bool:
    """Boot one copy and take disk, memory, network and clock from it; whether all tests passed."""
    accelerator, reason = choose_accelerator()
    machine = choose_machines(accelerator, Path("/proc/cpuinfo").read_text())["a2"]
    LOGS.mkdir(parents=True, exist_ok=True)
    log(f"booting a fresh copy of {image.name} ({reason}); console in {LOGS}/console-faults.log")
    with VM(image, name="copy-faults", disk_gb=DISK_GB, console=LOGS / "console-faults.log", **machine) as vm:
        watch_boot(vm)
        broken = [TESTS / "test_sandbox.py", TESTS / "test_faults.py", *node_options(vm), "--faults"]
        status = run_pytest("broken in every way", *broken)
        if status:
            log(vm.last_words())
    return status == 0


def check_host(host: str, key: Path | None, is_disruptive: bool) -> bool:
    """Test a node that somebody else started."""
    options = ["--node", host, *(["--node-key", str(key)] if key else []), *(["--disruptive"] if is_disruptive else [])]
    return subprocess.run([sys.executable, "-m", "pytest", str(TESTS), *options], cwd=REPOSITORY).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("image", type=Path, nargs="?", help="qcow2 disk; stays unchanged")
    what.add_argument("--host", help="a running node, as ssh takes it: name, address or user@address")
    parser.add_argument("--key", type=Path, help="private key for --host")
    parser.add_argument("--disruptive", action="store_true", help="with --host: kill its service and reboot it too")
    parser.add_argument("--faults", action="store_true", help="of an image: break one copy in every way, and only that")
    parser.add_argument("--report", type=Path, metavar="OUT.json", help="write the boot report here")
    options = parser.parse_args()
    exit_on_signals()
    if options.host:
        return 0 if check_host(options.host, options.key, options.disruptive) else 1
    if options.faults:
        return 0 if check_faults(options.image) else 1
    has_passed, report = check_image(options.image)
    print_report(report)
    if options.report:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if has_passed else 1


if __name__ == "__main__":
    run(main)
