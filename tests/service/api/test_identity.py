"""Who asks, what a Host may be, and how often a wrong key may be brought."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import guesses
from service.api.caller import check_host, find_address
from service.api.guesses import BURST, EVERY_S, MAX_ADDRESSES, Guesses
from service.api.keys import Keys
from service.errors import Misdirected, TooManyGuesses
from tests.fakes import FakeClock
from tests.service.door import run_service, script

KEY = "sk-0123456789abcdef"


def test_requests_carry_their_client():
    engine, door = script()
    names = []
    for address in ("203.0.113.9", "203.0.113.9", "203.0.113.7"):
        door.begin("POST", "/generate", b'{"prompt":"x","stream":true}', {"X-Real-IP": address})
        names.append(engine.requests[0].client)
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "[::1]:80", "x.localhost", "10.0.0.1"],
)
def test_own_hosts_are_taken(host: str):
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil",
        "a b",
        ":x",
    ],
)
def test_a_strangers_name_is_refused(host: str):
    """DNS rebinding: a page whose name points to 127.0.0.1 asks with its own name."""
    with pytest.raises(Misdirected):
        check_host(host)


@given(st.text(max_size=40))
def test_any_host_and_address_is_read_or_refused(text: str):
    find_address({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": text})
    find_address({"REMOTE_ADDR": text})
    try:
        check_host(text)
    except Misdirected as error:
        assert error.status == 421


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/", "/status.json", "/nope"])
def test_every_door_refuses_a_strangers_host(path: str):
    with run_service() as service:
        reply = service.door.get(path, Host="evil.example")
        assert (reply.status, reply.error["code"]) == (421, "host_not_allowed")


def test_a_service_that_listens_to_the_world_takes_any_host():
    with run_service(host="0.0.0.0") as service:
        assert service.door.get("/healthz", Host="node.example").status == 200


def test_guesses_are_limited_and_come_back_one_by_one():
    clock = FakeClock()
    limit = Guesses(clock)
    for _ in range(BURST):
        limit.check("a")
        limit.note("a")
    with pytest.raises(TooManyGuesses) as caught:
        limit.check("a")
    assert (caught.value.status, caught.value.retry_after_s) == (429, EVERY_S)
    limit.check("b")
    clock.now += EVERY_S
    limit.check("a")
    limit.note("a")
    with pytest.raises(TooManyGuesses):
        limit.check("a")


def test_addresses_that_guess_are_bounded():
    limit = Guesses(FakeClock())
    for i in range(MAX_ADDRESSES + 5):
        limit.note(str(i))
    assert len(limit._full_at) == MAX_ADDRESSES


def test_who_guessed_too_often_is_refused_even_the_right_key(monkeypatch: pytest.MonkeyPatch):
    """Otherwise a guess that fits would be told from one that does not."""
    monkeypatch.setattr(guesses, "BURST", 3)

    def ask(key: str, address: str = "203.0.113.9") -> Any:
        return service.door.get("/v1/models", Authorization=f"Bearer {key}", X_Real_IP=address)

    with run_service(keys=Keys([KEY])) as service:
        assert [service.door.get("/v1/models").status for _ in range(9)] == [401] * 9  # no key is no guess
        assert [ask(f"guess-{i:012}").status for i in range(4)] == [401, 401, 401, 429]
        reply = ask(KEY)
        assert (reply.status, reply.error["code"]) == (429, "too_many_wrong_keys")
        assert int(reply.headers["Retry-After"]) >= 1
        assert ask(KEY, "203.0.113.7").status == 200
