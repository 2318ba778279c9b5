"""How much is kept, by what requests make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.retention import FIRST_ROWS, FIRST_SAVED, N_FORGOTTEN, Retention, count_common

PRICE = 2e-4  # of a cell, as a share of a row: 2 us / 10 ms
N_CELLS = 16384


def serve(retention: Retention, n: int, n_found: int, n_used: int = 0, n_rows: int = 130) -> None:
    for i in range(n):
        retention.observe_start([i] * 500, n_found, n_used)
        retention.observe_end(n_rows)


def test_where_kept_cells_cost_nothing_all_are_kept():
    retention = Retention()
    serve(retention, 50, n_found=0)
    assert retention.n_kept(N_CELLS) == N_CELLS


def test_what_is_never_reused_is_not_kept():
    retention = Retention(PRICE)
    assert retention.n_kept(N_CELLS) == int(FIRST_SAVED / (FIRST_ROWS * PRICE))
    serve(retention, 50, n_found=0)
    assert retention.n_kept(N_CELLS) < 10


def test_chats_that_go_on_are_kept():
    retention = Retention(PRICE)
    serve(retention, 50, n_found=300, n_rows=60)
    assert retention.n_kept(N_CELLS) == N_CELLS  # 300 / (60 x 0.0002) is more than there are


def test_as_much_is_kept_as_saves_what_it_costs():
    retention = Retention(PRICE)
    serve(retention, 200, n_found=20, n_rows=100)
    kept = retention.n_kept(N_CELLS)
    assert kept * 100 * PRICE == pytest.approx(20, rel=0.05)


def test_prefix_that_somebody_uses_saves_nothing_by_being_kept():
    retention = Retention(PRICE)
    serve(retention, 50, n_found=300, n_used=300)
    assert retention.n_kept(N_CELLS) < 10


def test_request_for_what_was_forgotten_says_that_too_little_is_kept():
    retention = Retention(PRICE)
    serve(retention, 50, n_found=0)
    for turn in range(20):
        retention.forget([7] * 300 + [turn])
        retention.observe_start([7] * 300 + [turn, 1, 2], 0, 0)
    assert retention.n_kept(N_CELLS) > 1000


def test_only_so_many_forgotten_sequences_are_remembered():
    retention = Retention(PRICE)
    retention.forget([7] * 300)
    for i in range(N_FORGOTTEN):
        retention.forget([8, i])
    before = retention.n_kept(N_CELLS)
    retention.observe_start([7] * 301, 0, 0)
    assert retention.n_kept(N_CELLS) < before


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.integers(-1, 20))
def test_common_prefix_is_the_longest(a: list[int], b: list[int], limit: int):
    n = count_common(a, b, limit)
    assert a[:n] == b[:n] and n <= max(limit, 0)
    assert n >= max(limit, 0) or n in (len(a), len(b)) or a[n] != b[n]
