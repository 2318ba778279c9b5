"""Shared prefixes and the count of cells, with plain integers; the model's memory is FakeModel's."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.prefix import MIN_WAIT_TOKENS, CacheSequence, Match, PrefixCache, count_common
from service.engine.retention import FIRST_ROWS, FIRST_SAVED, Retention
from service.protocol import Chunk
from tests.fakes import FakeModel


def make(n_sequences: int = 4, n_cells: int = 400, **changes: bool) -> tuple[PrefixCache, FakeModel]:
    model = FakeModel(n_context=200, n_cells=n_cells, n_sequences=n_sequences, max_batch=200, **changes)
    return PrefixCache(model, n_sequences, n_cells, shares=model.shares), model


def compute(cache: PrefixCache, model: FakeModel, tokens: list[int], n: int | None = None) -> CacheSequence:
    """Open a sequence for these tokens and compute n of the gap (all by default)."""
    sequence = cache.open(list(tokens), cache.match(tokens))
    assert sequence
    advance(model, sequence, sequence.n_gap if n is None else n)
    return sequence


def advance(model: FakeModel, sequence: CacheSequence, n: int) -> None:
    if n:
        start = sequence.n_computed
        model.decode([Chunk(sequence.id, start, sequence.tokens[start : start + n])])
        sequence.n_computed += n


@pytest.mark.parametrize(
    ("a", "b", "limit", "expected"),
    [
        ([], [1], 5, 0),
        ([1, 2, 3], [1, 2, 4], 9, 2),
        ([1, 2, 3], [1, 2, 3, 4], 9, 3),
        ([1, 2, 3], [1, 2, 3], 2, 2),
        ([2], [1], 9, 0),
        ([1], [1], 0, 0),
    ],
)
def test_common_prefix_is_counted(a: list[int], b: list[int], limit: int, expected: int):
    assert count_common(a, b, limit) == expected


def test_last_token_is_always_left_to_compute():
    cache, model = make()
    cache.retire(compute(cache, model, [1, 2, 3]))
    assert cache.match([1, 2, 3]).n == 2


def test_longest_prefix_wins_busy_or_retired():
    cache, model = make()
    cache.retire(compute(cache, model, [1, 2, 3]))
    busy = compute(cache, model, [1, 2, 3, 4, 5])
    match = cache.match([1, 2, 3, 4, 5, 6])
    assert (match.source, match.n) == (busy, 5)


def test_busy_prefix_is_copied_and_costs_no_cells():
    cache, model = make()
    first = compute(cache, model, [1, 2, 3, 4])
    second = compute(cache, model, [1, 2, 3, 9])
    assert first.id != second.id and second.n_computed == 4
    assert cache.count_cells() == model.n_used_cells == 5


def test_retired_sequence_that_is_continued_is_taken_over():
    cache, model = make()
    first = compute(cache, model, [1, 2, 3])
    cache.retire(first)
    assert compute(cache, model, [1, 2, 3, 4]) is first


def test_retired_sequence_that_only_begins_alike_is_kept():
    cache, model = make()
    first = compute(cache, model, [1, 2, 3, 4])
    cache.retire(first)
    assert compute(cache, model, [1, 2, 9]) is not first
    assert cache.match([1, 2, 3, 4, 5]).n == 4


def test_least_recently_used_is_evicted_first():
    cache, model = make(n_sequences=3)
    for tokens in ([1] * 5, [2] * 5, [3] * 5):
        cache.retire(compute(cache, model, tokens))
    cache.retire(compute(cache, model, [1] * 6))  # the first was used again
    compute(cache, model, [4] * 5)
    assert cache.match([1] * 9).n == 6
    assert cache.match([2] * 9).n == 0


def test_retired_sequences_keep_no_more_than_pays_while_others_run():
    model = FakeModel(n_context=200, n_cells=400, n_sequences=8, max_batch=200)
    retention = Retention()
    cache = PrefixCache(model, 8, 400, retention=retention)
    busy = compute(cache, model, [9] * 150)
    retention.cell_price = FIRST_SAVED / FIRST_ROWS / 100  # keep 100, as long as nothing is known
    for token in (1, 2, 3):
        cache.retire(compute(cache, model, [token] * 40))
        retention.observe_start([0, 0], round(FIRST_SAVED), 0)  # nothing changes
        retention._n_saved, retention._n_rows = FIRST_SAVED, FIRST_ROWS
    assert [cache.match([token] * 99).n for token in (1, 2, 3)] == [0, 40, 40]
    cache.retire(busy)  # nobody runs: it costs nothing
    assert model.n_used_cells == 230


def test_pinned_sequence_stays():
    cache, model = make(n_sequences=2)
    system = compute(cache, model, [7] * 50)
    system.is_pinned, system.is_busy = True, False
    for i in range(5):
        cache.retire(compute(cache, model, [7] * 50 + [i] * 9))
    assert cache.match([7] * 50 + [99]).n == 50


def test_room_is_made_only_when_it_is_needed_and_possible():
    cache, model = make(n_cells=100)
    cache.retire(compute(cache, model, [1] * 60))
    compute(cache, model, [2] * 30)
    assert cache.make_room(10) and cache.match([1] * 61).n == 60
    assert cache.make_room(11) and cache.match([1] * 61).n == 0
    assert not cache.make_room(71)


def test_prefix_that_another_is_about_to_compute_is_worth_waiting_for():
    cache, model = make()
    leader = compute(cache, model, [1] * 100, n=10)
    match = cache.match([1] * 90 + [2])
    assert (match.source, match.n, match.leader, match.n_leader) == (leader, 10, leader, 90)
    advance(model, leader, 90 - 10 - MIN_WAIT_TOKENS + 1)
    assert cache.match([1] * 90 + [2]).leader is None  # the rest is computed faster than waited for


def test_all_busy_is_said():
    cache, model = make(n_sequences=1)
    compute(cache, model, [1, 2])
    assert cache.open([3], cache.match([3])) is None


def test_model_that_cannot_share_has_no_cache():
    cache, model = make(shares=False)
    cache.retire(compute(cache, model, [1, 2, 3]))
    assert cache.match([1, 2, 3, 4]) == Match(None, 0) and model.n_used_cells == 0


@pytest.mark.parametrize(
    ("shares", "n", "n_again"), [(True, 3, 0), (True, 0, 0), (True, 5, 0), (False, 3, 3), (False, 0, 0), (False, 5, 0)]
)
def test_way_back_says_what_must_be_computed_again(shares: bool, n: int, n_again: int):
    cache, model = make(shares=shares)
    sequence = compute(cache, model, [1, 2, 3, 4, 5])
    assert cache.rewind(sequence, n) == n_again
    assert sequence.n_computed == cache.count_cells() == model.n_used_cells == n - n_again
    advance(model, sequence, sequence.n_gap)
    assert [cell.token for cell in model.computed[sequence.id]] == sequence.tokens == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("shares", "n_again"), [(True, 0), (False, 3)])
def test_what_a_failed_step_left_behind_is_forgotten(shares: bool, n_again: int):
    cache, model = make(shares=shares)
    sequence = compute(cache, model, [1, 2, 3])
    model.decode([Chunk(sequence.id, 3, [8, 9])])
    assert cache.rewind(sequence, 3) == n_again
    assert sequence.n_computed == model.n_used_cells == 3 - n_again


def test_way_back_of_one_leaves_what_others_share():
    cache, model = make()
    first = compute(cache, model, [1, 2, 3, 4])
    second = compute(cache, model, [1, 2, 3, 9, 9])
    cache.rewind(first, 2)
    assert cache.count_cells() == model.n_used_cells == second.n_computed == 5


def test_last_sequence_left_gives_up_what_differs():
    cache, model = make(n_sequences=1)
    cache.retire(compute(cache, model, [1, 2, 3, 4]))
    assert compute(cache, model, [1, 2, 9]).n_begun == 2
    assert cache.count_cells() == model.n_used_cells == 3


def test_what_is_lent_goes_before_what_is_kept():
    cache, model = make(n_cells=100)
    cache.retire(compute(cache, model, [1] * 40))
    lent = cache.lend()
    assert lent
    model.decode([Chunk(lent.id, 0, [0] * 50)])
    lent.n_computed = 50
    assert cache.n_free_cells == 10 and cache.count_cells(is_evictable_free=True) == 0
    assert cache.make_room(30)
    assert (lent.n_computed, cache.match([1] * 41).n, cache.n_free_cells) == (0, 40, 60)
    cache.drop(lent)
    assert cache.n_free_sequences == 3


def test_lent_cells_are_no_prefix():
    cache, model = make()
    lent = cache.lend()
    assert lent
    model.decode([Chunk(lent.id, 0, [0] * 50)])
    lent.n_computed = 50
    assert cache.match([0] * 60) == Match(None, 0)


def test_lent_number_is_not_taken_by_a_request():
    cache, model = make(n_sequences=3)
    lent = cache.lend()
    for tokens in ([1] * 5, [2] * 5, [3] * 5):
        cache.retire(compute(cache, model, tokens))
    assert lent in cache.sequences and len(cache.sequences) == 3


def test_last_number_is_not_lent():
    cache, _ = make(n_sequences=2)
    assert cache.lend() and cache.lend() is None


class Machine(RuleBasedStateMachine):
    """Any order of opening, computing, retiring, going back and evicting: the cells are what the model says."""

    @initialize(n_sequences=st.integers(1, 5), n_cells=st.integers(40, 120), shares=st.booleans())
    def begin(self, n_sequences: int, n_cells: int, shares: bool) -> None:
        self.cache, self.model = make(n_sequences, n_cells, shares=shares)
        self.busy: list[CacheSequence] = []
        self.lent: CacheSequence | None = None

    @rule(tokens=st.lists(st.integers(1, 2), min_size=1, max_size=40))
    def open(self, tokens: list[int]) -> None:
        sequence = self.cache.open(tokens, self.cache.match(tokens))
        if sequence:
            assert sequence.n_gap >= 1
            self.busy.append(sequence)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), n=st.integers(1, 40))
    def compute(self, data: st.DataObject, n: int) -> None:
        sequence = data.draw(st.sampled_from(self.busy))
        n = min(n, sequence.n_gap)
        if n and self.cache.make_room(n):
            advance(self.model, sequence, n)

    @rule(n=st.integers(0, 40))
    def measure(self, n: int) -> None:
        self.lent = self.lent or self.cache.lend()
        if self.lent and 0 < n <= self.cache.n_free_cells:
            self.model.decode([Chunk(self.lent.id, self.lent.n_computed, [0] * n)])
            self.lent.n_computed += n
        elif self.lent and n == 0:
            self.cache.drop(self.lent)
            self.lent = None

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.busy))
        self.busy.remove(sequence)
        self.cache.retire(sequence)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), n=st.integers(0, 40))
    def rewind(self, data: st.DataObject, n: int) -> None:
        sequence = data.draw(st.sampled_from(self.busy))
        n = min(n, sequence.n_computed)
        assert self.cache.rewind(sequence, n) == n - sequence.n_computed

    @invariant()
    def count_is_true(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert self.cache.count_cells() == self.model.n_used_cells
        assert self.cache.count_cells(is_evictable_free=True) <= self.cache.count_cells() <= self.cache.n_cells
        assert self.cache.n_free_sequences + len(self.cache.sequences) == self.model.n_sequences
        for sequence in self.cache.sequences:
            computed = [cell.token for cell in self.model.computed.get(sequence.id, [])]
            expected = [0] * sequence.n_computed if sequence.is_lent else sequence.tokens[: sequence.n_computed]
            assert computed == expected


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_any_order_of_events = Machine.TestCase
