"""Whose turn it is, with requests that nobody computes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.fairness import OUTPUT_WORTH, Fairness, find_yielding
from service.request import Request, SamplingParams


def make(client: str, n_prompt: int = 10, n_output: int | None = None) -> Request:
    """n_output: tokens it has so far; None: it waits."""
    request = Request("r", [0] * n_prompt, SamplingParams(max_tokens=9), client=client)
    if n_output is not None:
        request.started_at, request.n_output_tokens = 1.0, n_output
    return request


def names(requests: Sequence[Request]) -> str:
    return "".join(request.client for request in requests)


def test_one_client_is_first_come_first_served():
    waiting = [make("a", n) for n in (50, 1, 20)]
    assert Fairness().order(waiting, []) == waiting


def test_clients_take_turns_whoever_filled_the_queue_first():
    assert names(Fairness().order([make(client) for client in "aaaaaabc"], [])) == "abcaaaaa"


def test_a_turn_is_work_and_not_a_request():
    waiting = [make("a", 100), make("a", 100), *(make("b", 10) for _ in range(5))]
    assert names(Fairness().order(waiting, [])) == "abbbbba"


def test_who_is_being_served_waits_for_others():
    waiting, running = [make("a"), make("b")], [make("a", n_output=5)]
    assert names(Fairness().order(waiting, running)) == "ba"


def test_a_token_of_an_answer_counts_more_than_one_of_a_prompt():
    waiting = [make("a"), make("b")]
    running = [make("a", n_prompt=10, n_output=10), make("b", n_prompt=int(10 + 10 * OUTPUT_WORTH) - 1, n_output=0)]
    assert names(Fairness().order(waiting, running)) == "ba"


def test_what_was_reused_is_not_counted():
    cached = make("a", n_prompt=100, n_output=0)
    cached.n_reused_tokens = 99
    assert names(Fairness().order([make("b"), make("a")], [cached, make("b", n_prompt=50, n_output=0)])) == "ab"


def test_what_ended_still_counts_while_others_are_here():
    fairness, other = Fairness(), make("b", n_output=1)
    fairness.arrive("a", [other])
    fairness.settle(make("a", n_output=500))
    assert names(fairness.order([make("a"), make("b")], [other])) == "ba"


def test_a_newcomer_starts_with_the_least_of_those_who_are_here():
    fairness = Fairness()
    veteran = make("a", n_prompt=1000, n_output=100)
    fairness.arrive("b", [veteran])
    waiting = [make("a"), *(make("b", 500) for _ in range(3))]
    assert names(fairness.order(waiting, [veteran])) == "abbb"  # not all of b first for having come late


def test_nobody_pays_for_what_was_done_while_the_node_was_his_alone():
    fairness = Fairness()
    fairness.settle(make("a", n_output=10_000))
    fairness.arrive("a", [])
    fairness.arrive("b", [make("a")])
    assert names(fairness.order([make("a"), make("b")], [])) == "ab"


def test_only_those_who_were_served_more_than_who_is_here_are_remembered():
    fairness, here = Fairness(), make("z", n_output=50)
    for i in range(1000):
        fairness.arrive(f"c{i}", [here])
        fairness.settle(make(f"c{i}", n_output=0))
    here.n_output_tokens = 10_000
    fairness.arrive("last", [here])
    assert set(fairness._settled) <= {"last", "z"}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 50)), max_size=30))
def test_all_are_kept_and_each_client_in_its_own_order(asked: list[tuple[str, int]]):
    waiting = [make(client, n) for client, n in asked]
    ordered = Fairness().order(waiting, [])
    assert sorted(map(id, ordered)) == sorted(map(id, waiting))
    for client in "abcd":
        assert [r for r in ordered if r.client == client] == [r for r in waiting if r.client == client]


@given(st.lists(st.integers(1, 40), min_size=12, max_size=40))
def test_a_polite_client_waits_for_one_request_of_each_other(lengths: list[int]):
    """However much another one has in the queue, one request of a client comes within the first of each."""
    greedy, polite = [make("g", n) for n in lengths], [make(client, 40) for client in "abc"]
    assert set(names(Fairness().order([*greedy, *polite], [make("g", n_output=1)])[:3])) == set("abc")


@pytest.mark.parametrize(
    ("running", "client", "yielding"),
    [
        ("gggg", "a", 3),  # the youngest
        ("gbgb", "a", 2),
        ("gggg", "g", None),
        ("gga", "a", None),  # something of it runs already
        ("gbcd", "a", None),  # all have one
        ("", "a", None),
    ],
)
def test_who_has_most_makes_way_for_who_has_nothing(running: str, client: str, yielding: int | None):
    runs = [make(one, n_output=1) for one in running]
    assert find_yielding(runs, client) is (None if yielding is None else runs[yielding])
