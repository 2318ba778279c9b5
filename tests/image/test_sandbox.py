"""What the unit denies is denied: a probe runs in llm.service's own unit file, with another program in it.

Where something is allowed that should be, the probe would tell a sandbox that is so tight that nothing works.
"""

import json
import textwrap

import pytest

PROBE = textwrap.dedent(
    """
    import ctypes, json, mmap, os, socket, sys

    if os.getuid() == 0 or "llm-probe.service" not in open("/proc/self/cgroup").read():
        sys.exit("this probe tries what must be denied: it runs in llm-probe.service on a test node and nowhere else")
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}


    def try_it(name, work):
        try:
            work()
            found[name] = "allowed"
        except BaseException as error:
            found[name] = type(error).__name__


    def call(result):
        if result == -1:
            raise OSError(ctypes.get_errno(), "denied")


    def connect(address, kind=socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, kind) as sock:
            sock.settimeout(3)
            sock.connect(address)
            sock.send(b"x")


    def listen():
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            connect(sock.getsockname())


    def write(folder):
        path = folder + "/sandbox-probe"
        with open(path, "w") as file:
            file.write("x")
        os.remove(path)


    try_it("connect loopback", listen)
    # NGINX listens at the node's own address, so only the filter can deny it; nothing leaves the node either way
    try_it("connect own address", lambda: connect((sys.argv[1], 80)))
    try_it("send to own address", lambda: connect((sys.argv[1], 53), socket.SOCK_DGRAM))
    # Whether it may be read, and not what it says
    for path in ("/root", "/etc/ssh/ssh_host_ed25519_key", "/proc/1/environ"):
        try_it("read " + path, lambda: call(-1 + os.access(path, os.R_OK)))
    try_it("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    try_it("netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    try_it("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    try_it("low port", lambda: socket.socket().bind(("127.0.0.1", 81)))
    try_it("write state", lambda: write("/var/lib/llm"))
    try_it("write private tmp", lambda: write("/tmp"))
    for folder in ("/", "/etc", "/etc/llm", "/opt/llamakiln", "/opt/llamakiln/models", "/usr", "/var/lib", "/var/log",
                   "/run", "/home", "/root", "/boot", "/sys/kernel", "/proc/sys/kernel", "/dev"):
        try_it("write " + folder, lambda: write(folder))
    try_it("become root", lambda: os.setuid(0))
    try_it("namespace", lambda: call(libc.unshare(0x10000000)))
    try_it("mount", lambda: call(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
    try_it("trace", lambda: call(libc.ptrace(0, 0, 0, 0)))
    try_it("set clock", lambda: __import__("time").clock_settime(0, 0))
    try_it("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
    try_it("set affinity", lambda: os.sched_setaffinity(0, {0}))
    try_it("lower own priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, 10))
    try_it("raise own priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
    try_it("writable code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))
    try_it("host name", lambda: socket.sethostname("x"))
    print("found " + json.dumps(found))
    """
)
ALLOWED = {"connect loopback", "write state", "write private tmp", "lower own priority"}


@pytest.fixture(scope="module")
def found(host):
    """What the probe could do: name -> `allowed` or the error."""
    unit = "/run/systemd/system/llm-probe.service"
    change = (
        "s#^ExecStart=.*#ExecStart=/opt/llamakiln/venv/bin/python /opt/llamakiln/probe.py ADDRESS#; "
        "s#^Type=.*#Type=oneshot#; /^Restart/d; /^WatchdogSec/d; /^NotifyAccess/d; /^OOMPolicy/d"
    )
    address = host.run("hostname -I").stdout.split()[0]
    change = change.replace("ADDRESS", address)
    try:
        assert host.run(f"cat >/opt/llamakiln/probe.py <<'PROBE'\n{PROBE}\nPROBE").rc == 0
        assert (
            host.run(f"mkdir -p /run/systemd/system && sed '{change}' /etc/systemd/system/llm.service >{unit}").rc == 0
        )
        assert host.run("systemctl daemon-reload && systemctl start llm-probe.service").rc == 0
        log = host.run("journalctl -b -u llm-probe.service --no-pager -o cat").stdout
        return json.loads(next(line for line in log.splitlines() if line.startswith("found "))[6:])
    finally:
        host.run(
            f"rm -f {unit} /opt/llamakiln/probe.py; systemctl reset-failed llm-probe.service; systemctl daemon-reload"
        )


def test_what_it_needs_is_allowed(found):
    assert {name: found[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "allowed")


def test_nothing_else_is(found):
    """No network but loopback, no writes but its own, no privilege, no look at others."""
    assert [name for name, outcome in found.items() if outcome == "allowed" and name not in ALLOWED] == []
    assert len(found) > 30
