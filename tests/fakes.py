"""A model without weights, for every test that is not about llama.cpp.

FakeModel's tokens are bytes, so text and tokens are easy to compare. It answers by a plain function of what was
computed for the sequence, and it checks what a real model could only answer wrongly: positions without gaps, logits
asked for, one thread. Nothing sleeps: a test that wants to stand between two steps gives a `gate`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.chat.constraint import Grammar
from service.errors import BadRequest, ModelError, NoRoom
from service.protocol import Chunk, Vocabulary
from service.request import Constraint, SamplingParams, TokenLogprob

BOS, EOS, ANSWER = 256, 257, 258  # ANSWER ends the prompt of a chat, as <|assistant|> does in real templates
N_TOKENS = 259
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def echo(prompt: str) -> str:
    """The default answer: the last message said back."""
    return "You said: " + prompt.strip().split("]")[-1]


@dataclass(eq=False)
class Cell:
    token: int


class FakeModel:
    """answer: prompt text -> the answer's text. gate: called before each decode that will sample, so a test can hold
    it. shares: False for one that cannot drop a part of a sequence, as recurrent models. Cells are counted one by one,
    shared ones once, so a count that `prefix` gets wrong is found out."""

    description = "fake"
    bos_text = "<s>"
    eos_text = "</s>"
    adds_bos = True
    n_vocab = N_TOKENS

    def __init__(
        self,
        answer: Callable[[str], str | bytes] = echo,
        *,
        n_context: int = 512,
        n_cells: int = 4096,
        n_sequences: int = 16,
        max_batch: int = 16,
        shares: bool = True,
        gate: Callable[[], object] = lambda: None,
        chat_template: str | None = TEMPLATE,
    ) -> None:
        self.answer = answer
        self.n_context = n_context
        self.n_cells = n_cells
        self.has_flash_attention = True
        self.n_sequences = n_sequences
        self.max_batch = max_batch
        self.shares = shares
        self.gate = gate
        self.chat_template = chat_template
        self.sampling_defaults: dict[str, float | int] = {}
        self.fault: Exception | None = None  # raised by the next decode
        self.leaves_part = False  # whether a decode that fails has computed its first row
        self.poison: int | None = None  # a token that no decode can compute
        self.on_restore: Callable[[], object] = lambda: None
        self.is_closed = False
        self.n_open_samplers = 0
        self.computed: dict[int, list[Cell]] = {}
        self.batches: list[int] = []
        self.seeds: list[int] = []
        self._logits: dict[int, list[int]] = {}
        self._owner: int | None = None

    @property
    def n_used_cells(self) -> int:
        return len({id(cell) for cells in self.computed.values() for cell in cells})

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        head = [BOS] if add_special else []
        if parse_special and text.endswith("<answer>"):
            return [*head, *text.removesuffix("<answer>").encode(), ANSWER]
        return [*head, *text.encode()]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token == EOS

    def decode(self, chunks: Sequence[Chunk]) -> None:
        self._check_thread()
        n_rows = sum(len(chunk.tokens) for chunk in chunks)
        assert 0 < n_rows <= self.max_batch, f"a step of {n_rows} rows"
        assert len({chunk.sequence for chunk in chunks}) == len(chunks), "a sequence twice in one step"
        if any(chunk.n_logits and any(chunk.tokens) for chunk in chunks):  # a measurement computes zeros, and passes
            self.gate()
        if self.fault:
            fault, self.fault = self.fault, None
            if self.leaves_part and self.n_used_cells < self.n_cells:
                self.computed.setdefault(chunks[0].sequence, []).append(Cell(chunks[0].tokens[0]))
            raise fault
        if any(self.poison in chunk.tokens for chunk in chunks):
            raise ModelError("poison")
        if self.n_used_cells + n_rows > self.n_cells:
            raise NoRoom("the cache is full")
        self._logits = {}
        self.batches.append(n_rows)
        row = 0
        for chunk in chunks:
            assert 0 <= chunk.sequence < self.n_sequences
            cells = self.computed.setdefault(chunk.sequence, [])
            assert chunk.start == len(cells), f"position {chunk.start} after {len(cells)} tokens"
            assert len(cells) + len(chunk.tokens) <= self.n_context, "beyond the context"
            for i, token in enumerate(chunk.tokens):
                cells.append(Cell(token))
                if i >= len(chunk.tokens) - chunk.n_logits:
                    self._logits[row] = [cell.token for cell in cells]
                row += 1

    def copy(self, source: int, target: int, n: int) -> None:
        self._check_thread()
        assert not self.computed.get(target), "the target of a copy is not empty"
        assert 0 < n <= len(self.computed[source]), f"a copy of {n} of {len(self.computed[source])} tokens"
        self.computed[target] = self.computed[source][:n]

    def forget(self, sequence: int, start: int) -> bool:
        self._check_thread()
        cells = self.computed.setdefault(sequence, [])
        if 0 < start < len(cells) and not self.shares:
            return False
        del cells[start:]
        return True

    def logprob(self, index: int, token: int, n_top: int) -> TokenLogprob:
        """The chosen token is certain; the others follow it in the alphabet."""
        top = tuple((token + i, self.token_bytes(token + i), -float(i)) for i in range(n_top))
        return TokenLogprob(token, self.token_bytes(token), 0.0, top)

    def save(self, sequence: int) -> memoryview:
        return memoryview(json.dumps([cell.token for cell in self.computed[sequence]]).encode())

    def restore(self, sequence: int, data: memoryview) -> bool:
        assert not self.computed.get(sequence), "the target of a restore is not empty"
        self.on_restore()
        self.computed[sequence] = [Cell(token) for token in json.loads(bytes(data))]
        return True

    def make_sampler(self, params: SamplingParams, seed: int, prompt: Sequence[int]) -> FakeSampler:
        self._check_thread()
        self.seeds.append(seed)
        self.n_open_samplers += 1
        return FakeSampler(self, params.constraint)

    def next_token(self, index: int) -> int:
        tokens = self._logits[index]
        if ANSWER in tokens:
            end = len(tokens) - tokens[::-1].index(ANSWER)
            prompt, said = tokens[: end - 1], tokens[end:]
        else:  # a raw completion: the alphabet goes on
            return (tokens[-1] + 1 - 97) % 26 + 97 if 97 <= tokens[-1] < 123 else 97
        answer = self.answer(bytes(token for token in prompt if token < 256).decode())
        data = answer.encode() if isinstance(answer, str) else answer
        return data[len(said)] if len(said) < len(data) else EOS

    def close(self) -> None:
        self.is_closed = True

    def _check_thread(self) -> None:
        assert not self.is_closed, "used after close"
        self._owner = self._owner or threading.get_ident()
        assert self._owner == threading.get_ident(), "two threads own the model"


class FakeSampler:
    """Takes what the model says, or the first token that the constraint allows instead."""

    def __init__(self, model: FakeModel, constraint: Constraint | None) -> None:
        self._model, self._constraint = model, constraint
        self._is_open = True

    def sample(self, index: int) -> int:
        assert self._is_open, "sampled after close"
        token, constraint = self._model.next_token(index), self._constraint
        if constraint and not constraint.accept(token):
            token = next(i for i, is_allowed in enumerate(bits(constraint.mask())) if is_allowed)
            assert constraint.accept(token), "in the mask and refused"
        return token

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._model.n_open_samplers -= 1


def bits(mask: bytes) -> list[bool]:
    """Of a constraint's mask, one for each token."""
    return [bool(byte >> i & 1) for byte in mask for i in range(8)]


@dataclass(frozen=True)
class FakeConstraint:
    """Remembers what was asked for, and lets everything through."""

    grammar: Grammar
    is_complete: bool = True

    def accept(self, token: int) -> bool:
        return True

    def mask(self) -> bytes:
        return b"\xff" * (N_TOKENS // 8 + 1)

    def copy(self) -> FakeConstraint:
        return self


class FakeConstrainer:
    """Takes every schema, and every text that may be a grammar."""

    def __init__(self, vocabulary: Vocabulary | None = None) -> None: ...

    def make(self, grammar: Grammar) -> FakeConstraint:
        if grammar.gbnf is not None and not re.search(r"root\s*::=", grammar.gbnf):
            raise BadRequest("there is no rule named root", param=grammar.param, code="invalid_grammar")
        return FakeConstraint(grammar)

    def close(self) -> None: ...


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Lets a fake model through one sampled token at a time: `open(n)` n tokens, `open_for_ever()` all."""

    def __init__(self) -> None:
        self._passes = threading.Semaphore(0)
        self._is_open = False
        self.arrived = threading.Semaphore(0)

    def __call__(self) -> None:
        self.arrived.release()
        if not self._is_open:
            assert self._passes.acquire(timeout=60), "nobody opened the gate"

    def open(self, n: int = 1) -> None:
        self._passes.release(n)

    def open_for_ever(self) -> None:
        self._is_open = True
        self._passes.release(1000)
