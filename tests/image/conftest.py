"""What the image tests share: the node under test, its facts (read once), and its port 80 seen from outside.

Knows ssh and HTTP. Knows nothing of QEMU: scripts/bake/test_image.py boots the copies and calls pytest for each, and
`make test-image HOST=...` names a node that somebody else started. Without a node nothing here is collected.
"""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import testinfra

HERE = Path(__file__).parent
ANSWER_TIMEOUT_S = 120  # under emulation a node is 15 times slower than it will be
TEST_TIMEOUT_S = 900  # so reading its facts takes minutes on a busy host
DESELECTED = {
    "test_restart.py": "kills and reboots the node: only with --disruptive",
    "test_faults.py": "takes disk, memory, network and clock from the node: only with --faults",
    "test_sandbox.py": "tries what the unit must deny: only with --faults",
    "test_copies.py": "compares two fresh copies: only with --copies A.json B.json",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("image", "the node under test")
    group.addoption("--node", help="ssh name or user@address of a booted node")
    group.addoption("--node-ssh-config", help="ssh_config file that knows --node")
    group.addoption("--node-key", help="private key that opens --node")
    group.addoption("--node-url", help="its port 80 (default http://<address of --node>)")
    group.addoption("--node-cpu", choices=("a1", "a2"), help="the CPU it was booted with (default: whatever it shows)")
    group.addoption("--node-fresh", action="store_true", help="this is its first boot, from a fresh copy made by us")
    group.addoption("--disruptive", action="store_true", help="also kill the service and reboot the node")
    group.addoption("--faults", action="store_true", help="break the node in every way instead")
    group.addoption("--facts-out", type=Path, help="write the node's facts to this JSON file")
    group.addoption("--copies", nargs=2, type=Path, help="facts of two fresh copies to compare; needs no node")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    wanted = config.getoption("--node", None) or config.getoption("--copies", None)
    return None if wanted or collection_path.suffix != ".py" else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what this run cannot or must not do, and have it counted as deselected."""
    kept, dropped = [], []
    for item in items:
        if item.path.parent == HERE and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
        (kept if item.path.parent != HERE or is_wanted(item.path.name, config) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def is_wanted(file: str, config: pytest.Config) -> bool:
    if config.getoption("--copies", None):
        return file == "test_copies.py"
    if file in ("test_faults.py", "test_sandbox.py"):
        return config.getoption("--faults")
    if file == "test_restart.py":
        return config.getoption("--disruptive")
    return file != "test_copies.py"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--node", None) and not config.getoption("--copies", None):
        terminalreporter.write_line(
            "tests/image: not collected, no node given (make test-image HOST=..., or make image)"
        )
        return
    for file, reason in DESELECTED.items():
        if config.getoption("--node", None) and not is_wanted(file, config):
            terminalreporter.write_line(f"{file}: deselected, {reason}")


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> testinfra.host.Host:
    """The node, as root, over one shared ssh connection."""
    config = pytestconfig.getoption("--node-ssh-config")
    return testinfra.get_host(
        f"ssh://{pytestconfig.getoption('--node')}",
        ssh_config=config,
        ssh_identity_file=pytestconfig.getoption("--node-key"),
        controlpath=None if config else str(tmp_path_factory.mktemp("ssh") / "socket"),
        controlpersist=600,
        timeout=60,
        sudo=True,
    )


class Facts(dict[str, str]):
    """What facts.sh printed: name -> text."""

    def lines(self, name: str) -> list[str]:
        return [line.strip() for line in self[name].splitlines() if line.strip()]

    def found(self, kind: str) -> dict[str, float]:
        """Return the files of one kind in `found`: path -> time of change, in seconds since 1970."""
        rows = [line.split(" ", 2) for line in self.lines("found")]
        return {path: float(changed) for name, changed, path in rows if name == kind}

    def table(self, name: str) -> dict[str, str]:
        """Read KEY=value lines."""
        return dict(line.split("=", 1) for line in self.lines(name) if "=" in line)


def read_facts(host: testinfra.host.Host) -> Facts:
    """Run facts.sh on the node and cut what it printed into facts."""
    done = host.run("bash -c %s", (HERE / "facts.sh").read_text())
    assert "\n@@ end" in done.stdout, f"facts.sh broke off: {done.stdout[-500:]}{done.stderr[-2000:]}"
    blocks = done.stdout.split("\n@@ ")[1:-1]
    return Facts((name, text.strip("\n")) for name, _, text in (block.partition("\n") for block in blocks))


@pytest.fixture(scope="session")
def facts(host: testinfra.host.Host, node_url: str, pytestconfig: pytest.Config) -> Facts:
    """The node's facts, read when it had answered through port 80."""
    httpx.get(f"{node_url}/readyz", timeout=ANSWER_TIMEOUT_S)
    read = read_facts(host)
    if out := pytestconfig.getoption("--facts-out"):
        out.write_text(json.dumps(read, indent=1))
    return read


@pytest.fixture(scope="session")
def image(facts: Facts) -> dict[str, Any]:
    """What /etc/llm/image.json says was baked."""
    return json.loads(facts["image_json"])


@pytest.fixture(scope="session")
def is_fresh(pytestconfig: pytest.Config) -> bool:
    """Whether this is the first boot of a fresh copy; a node that has served for a week has logs and logins."""
    return pytestconfig.getoption("--node-fresh")


@pytest.fixture(scope="session")
def node_key(pytestconfig: pytest.Config) -> str | None:
    """The public half of the key we log in with, as `type base64`, if we know the file."""
    if not (path := pytestconfig.getoption("--node-key")):
        return None
    printed = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    return " ".join(printed.split()[:2])


@pytest.fixture(scope="session")
def node_url(pytestconfig: pytest.Config) -> str:
    """Where the node's port 80 is, seen from here."""
    if url := pytestconfig.getoption("--node-url"):
        return url
    config = pytestconfig.getoption("--node-ssh-config")
    command = ["ssh", "-G", *(["-F", config] if config else []), pytestconfig.getoption("--node")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    address = dict(line.split(" ", 1) for line in printed.splitlines())["hostname"]
    return f"http://[{address}]" if ":" in address else f"http://{address}"


@pytest.fixture(scope="session")
def web(node_url: str) -> Iterator[httpx.Client]:
    """An HTTP client outside the node; it goes to port 80 directly, whatever proxy this host is told to use."""
    with httpx.Client(base_url=node_url, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:
        yield client


def pytest_report_header(config: pytest.Config) -> str | None:
    node = config.getoption("--node", None)
    return f"node: {shlex.quote(node)}" if node else None
