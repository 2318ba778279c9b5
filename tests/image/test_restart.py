"""The service comes back by itself: after kill -9, after a crash of NGINX, and after a reboot. Disruptive: opt-in."""

import pytest

from tests.image.node import BACK_WITHIN_S, is_ready, main_pid, wait_until

pytestmark = pytest.mark.timeout(2 * BACK_WITHIN_S)


def test_service_is_back_after_kill_9(host, web):
    before = main_pid(host, "llm.service")
    assert before > 0
    assert host.run(f"kill -9 {before}").rc == 0
    wait_until("a new main process", lambda: main_pid(host, "llm.service") not in (0, before))
    wait_until("ready again", lambda: is_ready(web))
    assert web.post("/generate", json={"prompt": "Hello", "max_tokens": 4}).status_code == 200


def test_lost_service_is_told_in_json(host, web):
    """While nobody answers behind NGINX, a client gets 502 or 503 it can read, not an HTML page."""
    try:
        assert host.run("systemctl stop llm.service").rc == 0
        answer = web.post("/generate", json={"prompt": "Hello"})
        assert answer.status_code in (502, 503)
        assert answer.json()["error"]
        assert web.get("/readyz").status_code in (502, 503)
    finally:
        host.run("systemctl start llm.service")
    wait_until("ready again", lambda: is_ready(web))


def test_nginx_is_back_after_kill_9(host, web):
    before = main_pid(host, "nginx.service")
    assert host.run(f"kill -9 {before}").rc == 0
    wait_until("a new main process", lambda: main_pid(host, "nginx.service") not in (0, before))
    wait_until("ready again", lambda: is_ready(web))


def test_node_is_back_after_a_reboot(host, web):
    """Same identity, nothing failed, and it answers; cloud-init does not take it for a new instance."""
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; ls /var/lib/cloud/instances"
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    before, first_boot = host.run(identity).stdout, host.run(boot_id).stdout
    host.run("systemd-run --on-active=1 systemctl reboot")

    def is_another_boot():
        try:
            return host.run(boot_id).stdout not in ("", first_boot)
        except RuntimeError:  # testinfra's word for ssh's exit code 255
            return False

    wait_until("another boot", is_another_boot)
    wait_until("ready again", lambda: is_ready(web))
    assert web.post("/generate", json={"prompt": "Hello", "max_tokens": 4}).status_code == 200
    assert host.run(identity).stdout == before
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""
