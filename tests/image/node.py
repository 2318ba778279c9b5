"""What disruptive tests share: waiting for a node that comes back, and its processes."""

import time

import httpx

BACK_WITHIN_S = 900  # under emulation on 2 cores that three other jobs wanted, one reboot took longer than 600 s


def wait_until(what, is_so, timeout_s=BACK_WITHIN_S):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(1)


def is_ready(web):
    try:
        return web.get("/readyz", timeout=15).status_code == 200
    except httpx.TransportError:
        return False


def main_pid(host, unit):
    return int(host.run(f"systemctl show -P MainPID {unit}").stdout)
