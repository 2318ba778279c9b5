"""Which computed sequence shares the longest prefix with a request, and what to forget when room is needed.

A sequence is a list of tokens of which the first n_computed are in the model's memory. A busy one belongs to a running
request; a retired one stays as cache until its room or its number is needed, least recently used first; a pinned one
stays until a request that is alone needs its room, and comes back with the next that computes the same; a lent one is
for measurements, and gives up its cells before anything else goes. A new request continues the sequence that shares
most with it, or starts with a copy of the shared part: in a unified cache a copy shares the cells, so it costs nothing.

A request finds only what was computed in its own namespace, and what is pinned. Of what it finds it is told what its
client would find alone: a sequence knows how much of it each client has asked for and when, and nothing of that counts
any more once something that was used later had to go.

Cells are counted without asking the model: whoever first computes from position p on owns what follows, and every other
holder of it has a beginning of it, because copies always start at position 0. So the cells in use are, for each owner,
those of the holder that reaches farthest.

Knows tokens as integers, and the three calls of Memory. Knows nothing of requests, text, threads or clocks. Called only
from the engine thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from .retention import Retention, count_common

MIN_WAIT_TOKENS = 32  # a prefix that somebody else is about to compute is waited for from this length on


class Memory(Protocol):
    """What the cache needs of the model. Sequences are numbers below n_sequences."""

    def copy(self, source: int, target: int, n: int) -> None:
        """Let the empty sequence `target` begin with the first n tokens of `source`."""

    def forget(self, sequence: int, start: int) -> bool:
        """Drop a sequence from position `start` on. False: there is something to drop, and this model cannot drop a
        part (only all, from 0 on); nothing was done."""


@dataclass(eq=False)
class CacheSequence:
    """tokens: what is computed (the first n_computed) and what is still to be. n_begun: how many it began with. spans:
    (owner, first position). client: whose request it belongs to, or belonged to last. claims: by client, how many of
    its first tokens that one's requests had, and when they ended."""

    id: int
    tokens: list[int] = field(default_factory=list)
    n_computed: int = 0
    n_begun: int = 0
    is_busy: bool = False
    is_pinned: bool = False
    is_lent: bool = False
    used_at: int = 0
    namespace: str = ""
    client: str = ""
    claims: dict[str, tuple[int, int]] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def n_gap(self) -> int:
        return len(self.tokens) - self.n_computed


@dataclass(frozen=True)
class Match:
    """source: the sequence with the longest computed common prefix, n tokens of it. leader: a busy sequence that is
    about to have a longer one, n_leader tokens, worth waiting for. n_used: longest that a busy or pinned one has.
    n_told: how many of the n are pinned, or would be there if the client were the only one."""

    source: CacheSequence | None
    n: int
    leader: CacheSequence | None = None
    n_leader: int = 0
    n_used: int = 0
    n_told: int = 0


class PrefixCache:
    """n_sequences: numbers the model knows. n_cells: tokens its memory holds. retention: how much of it retired
    sequences should hold while others run. shares: False for models that cannot keep a part of a sequence (recurrent
    ones), which then never reuse anything."""

    def __init__(
        self,
        memory: Memory,
        n_sequences: int,
        n_cells: int,
        *,
        retention: Retention | None = None,
        shares: bool = True,
    ) -> None:
        self._memory = memory
        self._n_cells = n_cells
        self._retention = retention or Retention()
        self._shares = shares
        self._free = list(range(n_sequences - 1, -1, -1))
        self._live: dict[int, CacheSequence] = {}
        self._kept: list[int] = []
        self._tick = self._evicted_at = 0
        self._n_owners = 0

    @property
    def n_cells(self) -> int:
        return self._n_cells

    @property
    def n_free_sequences(self) -> int:
        return len(self._free)

    @property
    def n_free_cells(self) -> int:
        """Cells that nobody holds, not even as cache."""
        return self._n_cells - self.count_cells()

    @property
    def sequences(self) -> list[CacheSequence]:
        return list(self._live.values())

    def count_cells(self, *, is_evictable_free: bool = False) -> int:
        """Cells in use; with is_evictable_free those that only retired and lent sequences hold count as free."""
        reach: dict[int, int] = {}
        total = 0
        for sequence in self._live.values():
            if is_evictable_free and not (sequence.is_busy or sequence.is_pinned):
                continue
            ends = [start for _, start in sequence.spans[1:]] + [sequence.n_computed]
            for (owner, start), end in zip(sequence.spans, ends, strict=True):
                size = end - start
                if size > reach.get(owner, 0):
                    total += size - reach.get(owner, 0)
                    reach[owner] = size
        return total

    def match(self, tokens: list[int], namespace: str = "", client: str = "") -> Match:
        """At least the last token is left to compute, because its logits are needed."""
        best, n_best, leader, n_leader, n_used, n_told = None, 0, None, 0, 0, 0
        limit = len(tokens) - 1
        if not self._shares:
            return Match(None, 0)
        for sequence in self._live.values():
            if sequence.namespace != namespace and not sequence.is_pinned:
                continue
            n_common = count_common(sequence.tokens, tokens, limit)
            n = min(n_common, sequence.n_computed)
            n_used = max(n_used, n if sequence.is_busy or sequence.is_pinned else 0)
            n_told = max(n_told, min(n, self._count_own(sequence, client)))
            if n > n_best or (n and n == n_best and best and best.is_busy and not sequence.is_busy):
                best, n_best = sequence, n
            if n_common > max(n, n_leader) and sequence.is_busy:
                leader, n_leader = sequence, n_common
        if n_leader - n_best < MIN_WAIT_TOKENS:
            leader, n_leader = None, 0
        return Match(best, n_best, leader, n_leader, n_used, n_told)

    def open(self, tokens: list[int], match: Match, namespace: str = "", client: str = "") -> CacheSequence | None:
        """A busy sequence for these tokens that begins with what matched; None if all sequences are busy or pinned.

        The list stays the caller's: what is appended to it is to be computed too.
        """
        sequence = self._open(tokens, match)
        if sequence:
            sequence.namespace, sequence.client = namespace, client
            sequence.n_begun = sequence.n_computed
            self._retention.observe_start(tokens, match.n, match.n_used, namespace)
            self._shrink()
        return sequence

    def lend(self) -> CacheSequence | None:
        """A sequence of nobody's, to measure with: what is computed in it is the first to go when room is needed, so
        its n_computed may have become 0. `drop` gives it back. None as long as no number is to spare."""
        if len(self._free) < 2:  # the last one is for a request
            return None
        sequence = CacheSequence(self._free.pop(), is_lent=True)
        self._live[sequence.id] = sequence
        self._continue(sequence, 0)
        return sequence

    def _open(self, tokens: list[int], match: Match) -> CacheSequence | None:
        source, n = match.source, match.n
        self._tick += 1
        if source:
            source.used_at = self._tick
        if source and not source.is_busy and not source.is_pinned and n == source.n_computed:
            self._continue(source, n)  # nothing of it is lost
            return self._occupy(source, tokens)
        if not self._free and not self._evict_oldest(keep=source):
            if source is None or source.is_busy or source.is_pinned:
                return None
            self.rewind(source, n)  # the last one left: give up what differs
            return self._occupy(source, tokens)
        return self._begin_with(source, n, tokens)

    def retire(self, sequence: CacheSequence) -> None:
        """Its request ended: what is computed stays as cache."""
        sequence.is_busy = False
        sequence.tokens = sequence.tokens[: sequence.n_computed]
        self._tick += 1
        sequence.used_at = self._tick
        sequence.claims[sequence.client] = (sequence.n_computed, self._tick)
        self._retention.observe_end(sequence.n_computed - sequence.n_begun)
        if not sequence.tokens or not self._shares:
            self.drop(sequence)
        else:
            self._pin_beginning(sequence)
        if any(other.is_busy for other in self._live.values()):  # to a machine at rest it costs nothing
            self._shrink()

    def rewind(self, sequence: CacheSequence, n: int) -> int:
        """Back to a sequence's first n computed tokens: the only way back there is. What the model holds beyond
        n_computed, of a failed step or of wrong guesses, goes too. The tokens stay, to be computed again.

        Returns how many of the first n must be computed again as well: none, or all of them if this model cannot drop a
        part.
        """
        assert n <= sequence.n_computed
        n_kept = n if self._memory.forget(sequence.id, n) else 0
        if n_kept < n:
            self._memory.forget(sequence.id, 0)
        if n_kept < sequence.n_computed:
            self._continue(sequence, n_kept)
        return n - n_kept

    def drop(self, sequence: CacheSequence) -> None:
        """Forget all of it."""
        self._memory.forget(sequence.id, 0)
        del self._live[sequence.id]
        sequence.n_computed = 0
        sequence.spans = []
        self._free.append(sequence.id)

    def keep(self, tokens: list[int]) -> None:
        """From now on a sequence of these tokens is pinned as soon as they are computed, and no other."""
        self._kept = list(tokens)
        for sequence in self.sequences:
            if sequence.is_pinned and sequence.tokens != self._kept:
                self.drop(sequence)

    def pin(self, sequence: CacheSequence) -> None:
        """All of it is computed, and nobody runs it."""
        assert sequence.n_gap == 0
        sequence.is_busy, sequence.is_pinned = False, True

    def make_room(self, n_new: int, *, is_last: bool = False) -> bool:
        """Give up what is lent, evict retired sequences, and pinned ones if nothing else is left to do (is_last), until
        n_new more tokens fit. False if they do not, even so."""
        if sum(sequence.n_computed for sequence in self._live.values()) + n_new <= self._n_cells:
            return True  # an upper bound, and cheap
        while self.count_cells() + n_new > self._n_cells:
            if not self._give_up() and not (is_last and self._unpin()):
                return False
        return True

    def empty(self) -> bool:
        """Forget all that nobody runs. Returns whether there was anything."""
        has_any = False
        while self._give_up() or self._unpin():
            has_any = True
        return has_any

    def _continue(self, sequence: CacheSequence, n: int) -> None:
        """From position n on the sequence computes for itself."""
        sequence.n_computed = n
        sequence.claims = {
            client: (min(n_claimed, n), tick)
            for client, (n_claimed, tick) in sequence.claims.items()
            if tick > self._evicted_at
        }
        self._n_owners += 1
        sequence.spans = [*((owner, start) for owner, start in sequence.spans if start < n), (self._n_owners, n)]

    def _shrink(self) -> None:
        """Give up retired sequences that cost the running ones more than they save."""
        limit = self._retention.n_kept(self._n_cells)
        while limit < self._n_cells and self.count_cells() - self.count_cells(is_evictable_free=True) > limit:
            self._give_up()

    def _begin_with(self, source: CacheSequence | None, n: int, tokens: list[int]) -> CacheSequence:
        """A new sequence whose first n tokens are those of source; there must be a free number."""
        sequence = CacheSequence(self._free.pop())
        self._live[sequence.id] = sequence
        if source and n:
            self._memory.copy(source.id, sequence.id, n)
            sequence.spans = list(source.spans)
        self._continue(sequence, n)
        return self._occupy(sequence, tokens)

    def _occupy(self, sequence: CacheSequence, tokens: list[int]) -> CacheSequence:
        sequence.tokens = tokens
        sequence.is_busy = True
        sequence.used_at = self._tick
        return sequence

    def _count_own(self, sequence: CacheSequence, client: str) -> int:
        """How many tokens of a sequence this client may be told of."""
        n_claimed, tick = sequence.claims.get(client, (0, 0))
        is_own = sequence.is_pinned or (sequence.is_busy and sequence.client == client)
        return max(sequence.n_computed if is_own else 0, n_claimed if tick > self._evicted_at else 0)

    def _pin_beginning(self, source: CacheSequence) -> None:
        """A copy costs no cells, so what is to be kept is kept as soon as somebody has computed it."""
        n = len(self._kept)
        if not n or source.n_computed < n or source.tokens[:n] != self._kept:
            return
        if any(sequence.is_pinned for sequence in self._live.values()):
            return
        if self._free or self._evict_oldest(keep=source):
            self.pin(self._begin_with(source, n, list(self._kept)))

    def _unpin(self) -> bool:
        pinned = [sequence for sequence in self._live.values() if sequence.is_pinned]
        for sequence in pinned:
            self.drop(sequence)
        return bool(pinned)

    def _give_up(self) -> bool:
        """Free some cells: lent ones, else those of the oldest retired sequence. False: there are none."""
        for sequence in self._live.values():
            if sequence.is_lent and sequence.n_computed:
                self.rewind(sequence, 0)
                return True
        return self._evict_oldest()

    def _evict_oldest(self, keep: CacheSequence | None = None) -> bool:
        retired = [s for s in self._live.values() if not (s.is_busy or s.is_pinned or s.is_lent or s is keep)]
        if not retired:
            return False
        oldest = min(retired, key=lambda sequence: sequence.used_at)
        self._evicted_at = max(self._evicted_at, oldest.used_at)
        self._retention.forget(oldest.tokens, oldest.namespace)
        self.drop(oldest)
        return True
