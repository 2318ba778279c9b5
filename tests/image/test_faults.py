"""What a node does when disk, memory, network, clock, model or settings fail it, and how it comes back. Disruptive:
opt-in.

Each test leaves the node as it was. How long it took is in the report (`-rA`), and means nothing under emulation.
"""

import contextlib
import threading
import time

import httpx
import pytest

from tests.image.node import BACK_WITHIN_S, is_ready, main_pid, wait_until

pytestmark = pytest.mark.timeout(3 * BACK_WITHIN_S)

ENV = "/etc/llm/llm.env"
WITHOUT_NETWORK = """
links=$(ip -o link show up | awk -F': ' '$2 != "lo" {sub(/@.*/, "", $2); print $2}')
for link in $links; do ip link set "$link" down; done
systemctl restart nginx.service llm.service
python3 - >/run/without-network <<'END'
import json, time, urllib.request
deadline = time.monotonic() + SECONDS
while True:
    try:
        body = json.dumps({"prompt": "Hi", "max_tokens": 2}).encode()
        asked = urllib.request.Request("http://127.0.0.1/generate", body, {"Content-Type": "application/json"})
        print(urllib.request.urlopen(asked, timeout=60).status, urllib.request.urlopen("http://127.0.0.1/").status)
        break
    except OSError as error:
        if time.monotonic() > deadline:
            print("never:", error)
            break
        time.sleep(1)
END
for link in $links; do ip link set "$link" up; done
networkctl reconfigure $links || true
mv /run/without-network /run/without-network.done
"""
ASK = {"prompt": "What is Llamakiln?", "max_tokens": 16}


@pytest.fixture(autouse=True)
def _is_well(host, web):
    """Before and after: ready, and nothing failed."""
    wait_until("ready before", lambda: is_ready(web))
    yield
    wait_until("ready afterwards", lambda: is_ready(web))
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""


def run(host, command):
    done = host.run(command)
    assert done.rc == 0, f"{command}: {done.stdout[-500:]}{done.stderr[-500:]}"
    return done.stdout.strip()


def n_restarts(host):
    return int(run(host, "systemctl show -P NRestarts llm.service"))


def answers(web):
    return web.post("/generate", json=ASK).status_code == 200


def is_told(web):
    """Whoever asks gets an error in JSON from NGINX, with a time to come back."""
    reply = web.get("/readyz")
    return (reply.status_code, reply.json()["error"]["code"]) == (
        502,
        "service_down",
    ) and "Retry-After" in reply.headers


@contextlib.contextmanager
def streaming(web):
    """A stream that is under way: a list that holds its lines once it has ended."""
    lines, begun = [], threading.Event()

    def read():
        body = {**ASK, "max_tokens": 256, "stream": True}
        with contextlib.suppress(httpx.HTTPError), web.stream("POST", "/generate", json=body) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(BACK_WITHIN_S)
    yield lines
    thread.join(BACK_WITHIN_S)
    assert not thread.is_alive()


def test_stopped_process_is_ended_by_the_watchdog(host, web):
    """Nothing beats: after WatchdogSec and TimeoutAbortSec it is another process."""
    before = main_pid(host, "llm.service")
    run(host, f"kill -STOP {before}")
    wait_until("a new main process", lambda: main_pid(host, "llm.service") not in (0, before))
    wait_until("ready again", lambda: is_ready(web))
    assert "watchdog" in run(host, "journalctl -b -u llm.service --no-pager -o cat -n 200 | grep -i watchdog").lower()
    assert answers(web)


def test_out_of_memory_ends_the_service_and_it_comes_back(host, web):
    before = main_pid(host, "llm.service")
    try:
        run(host, "systemctl set-property --runtime llm.service MemoryMax=16M MemorySwapMax=0")
        wait_until("the end of the process", lambda: answers_or_gone(web) and main_pid(host, "llm.service") != before)
    finally:
        run(host, "systemctl set-property --runtime llm.service MemoryMax=infinity MemorySwapMax=infinity")
        run(host, "rm -rf /run/systemd/system.control/llm.service.d && systemctl daemon-reload")
    wait_until("ready again", lambda: is_ready(web))
    assert main_pid(host, "nginx.service") > 0 and answers(web)


def answers_or_gone(web):
    with contextlib.suppress(httpx.TransportError):
        web.post("/generate", json=ASK)
    return True


def test_full_disk_does_not_keep_it_from_serving(host, web):
    """Nothing more can be written anywhere: it answers, and a restart serves as well."""
    filler = "/var/tmp/filler"
    try:
        free = int(run(host, "df --output=avail -B1 / | tail -n 1"))
        host.run(f"fallocate -l {free} {filler} || dd if=/dev/zero of={filler} bs=1M status=none")
        assert int(run(host, "df --output=avail -B1 / | tail -n 1")) < 1 << 20
        assert answers(web)
        run(host, "systemctl restart llm.service")
        wait_until("ready with a full disk", lambda: is_ready(web))
        assert answers(web)
    finally:
        run(host, f"rm -f {filler}")


def test_read_only_root_does_not_keep_it_from_serving(host, web):
    """What a kernel does to a file system with errors."""
    try:
        run(host, "echo u >/proc/sysrq-trigger")
        wait_until("read-only", lambda: host.run("touch /var/tmp/probe").rc != 0, 60)
        assert answers(web)
        run(host, "systemctl restart llm.service nginx.service")
        wait_until("ready on a read-only root", lambda: is_ready(web))
        assert answers(web)
    finally:
        run(host, "mount -o remount,rw / && rm -f /var/tmp/probe")


def test_clock_that_jumps_breaks_no_stream_and_no_process(host, web):
    """Deadlines, waits and the watchdog count by a clock that does not jump."""
    before, restarts = main_pid(host, "llm.service"), n_restarts(host)
    keepers = "systemd-timesyncd.service chrony.service"
    active = [unit for unit in keepers.split() if host.run(f"systemctl is-active {unit}").rc == 0]
    try:
        for unit in active:
            run(host, f"systemctl stop {unit}")
        with streaming(web) as lines:
            run(host, "date -s '+3 days'")
            run(host, "date -s '-6 days'")
        assert lines[-2] == "data: [DONE]"
        assert answers(web) and is_ready(web)
        assert (main_pid(host, "llm.service"), n_restarts(host)) == (before, restarts)
    finally:
        run(host, "date -s '+3 days'")
        for unit in active:
            run(host, f"systemctl start {unit}")


def test_node_without_network_starts_all_the_same(host, web):
    """Every link but loopback goes down, both services start anew, and the page and a token come over loopback. The
    node does it by itself and brings the links back, since nobody can tell it to."""
    script = WITHOUT_NETWORK.replace("SECONDS", str(BACK_WITHIN_S))
    run(host, f"rm -f /run/without-network*; cat >/run/without-network.sh <<'SCRIPT'\n{script}\nSCRIPT")
    run(host, "systemd-run --collect --on-active=1 bash /run/without-network.sh")

    def is_over():
        try:
            return host.run("test -e /run/without-network.done").rc == 0
        except RuntimeError:  # testinfra's word for ssh's exit code 255
            return False

    wait_until("the links are back", is_over, 2 * BACK_WITHIN_S)
    assert run(host, "cat /run/without-network.done") == "200 200"
    run(host, "rm -f /run/without-network*")


def test_broken_model_is_told_and_heals_when_the_file_is_whole(host, web):
    """A bind mount stands for a file that was cut short; nothing on the image changes."""
    model = run(host, "ls /opt/llamakiln/models/*.gguf")
    try:
        run(host, f"head -c $(($(stat -c %s {model}) / 2)) {model} >/run/broken.gguf && chmod 644 /run/broken.gguf")
        run(host, f"mount --bind /run/broken.gguf {model}")
        host.run("systemctl restart --no-block llm.service")
        wait_until("an end with 70", lambda: "status=70" in host.run("systemctl status llm.service").stdout)
        assert is_told(web)
        restarts = n_restarts(host)
        wait_until("another try", lambda: n_restarts(host) > restarts)
    finally:
        run(host, f"umount {model}; rm -f /run/broken.gguf")
    wait_until("ready by itself", lambda: is_ready(web))
    assert answers(web)


def test_wrong_settings_are_all_told_and_not_tried_again(host, web):
    try:
        run(host, f"cp -p {ENV} {ENV}.kept && printf 'LLM_MAX_STREAMS=0\\nLLM_MAX_STREAM=4\\n' >>{ENV}")
        host.run("systemctl restart llm.service")
        wait_until("failed", lambda: host.run("systemctl is-failed llm.service").stdout.strip() == "failed")
        assert run(host, "systemctl show -P ExecMainStatus llm.service") == "78"
        told = run(host, "journalctl -b -u llm.service --no-pager -o cat -n 20")
        assert "LLM_MAX_STREAMS=0: must be a whole number from 1 to 64" in told and "LLM_MAX_STREAM: no such" in told
        assert is_told(web)
        time.sleep(5)  # longer than RestartSec
        assert run(host, "systemctl show -P ActiveState llm.service") == "failed"
    finally:
        run(host, f"mv {ENV}.kept {ENV} && systemctl reset-failed llm.service && systemctl start llm.service")


def test_sigterm_in_mid_stream_loses_nothing(host, web):
    with streaming(web) as lines:
        run(host, "systemctl restart --no-block llm.service")
    assert lines[-2] == "data: [DONE]"


def test_reboot_under_load_leaves_nothing_behind(host, web):
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    before = host.run(boot_id).stdout
    stop = threading.Event()

    def press():
        while not stop.is_set():
            with contextlib.suppress(httpx.HTTPError):
                web.post("/generate", json={**ASK, "max_tokens": 64})

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        host.run("systemd-run --on-active=1 systemctl reboot")

        def is_another_boot():
            try:
                return host.run(boot_id).stdout not in ("", before)
            except RuntimeError:  # testinfra's word for ssh's exit code 255
                return False

        wait_until("another boot", is_another_boot)
        wait_until("ready again", lambda: is_ready(web))
    finally:
        stop.set()
        for thread in threads:
            thread.join(BACK_WITHIN_S)
    assert answers(web)
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"
