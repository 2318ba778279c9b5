"""A model without weights, for every test that is not about llama.cpp.

FakeModel's tokens are bytes, so text and tokens are easy to compare. It answers by a plain function of what was
computed for the sequence, and it checks what a real model could only answer wrongly: positions without gaps, logits
asked for, one thread. Nothing sleeps: a test that wants to stand between two steps gives a `gate`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from service.errors import ModelError
from service.model import Entry
from service.request import SamplingParams

BOS, EOS, ANSWER = 256, 257, 258  # ANSWER ends the prompt of a chat, as <|assistant|> does in real templates
N_TOKENS = 259
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def echo(prompt: str) -> str:
    """The default answer: the last message said back."""
    return "You said: " + prompt.strip().split("]")[-1]


class FakeModel:
    """answer: prompt text -> the answer's text. gate: called before each decode that will sample, so a test can hold
    it."""

    description = "fake"
    n_vocab = N_TOKENS
    sampling_defaults: ClassVar[dict[str, float]] = {}
    bos_text = "<s>"
    eos_text = "</s>"
    adds_bos = True

    def __init__(
        self,
        answer: Callable[[str], str | bytes] = echo,
        *,
        n_context: int = 512,
        max_batch: int = 16,
        gate: Callable[[], object] = lambda: None,
        chat_template: str | None = TEMPLATE,
    ) -> None:
        self.answer = answer
        self.n_context = n_context
        self.max_batch = max_batch
        self.gate = gate
        self.chat_template = chat_template
        self.fault: Exception | None = None  # raised by the next decode
        self.is_closed = False
        self.n_open_samplers = 0
        self.computed: dict[int, list[int]] = {}
        self.batches: list[int] = []
        self.seeds: list[int] = []
        self._logits: dict[int, int] = {}
        self._owner: int | None = None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        head = [BOS] if add_special else []
        if parse_special and text.endswith("<answer>"):
            return [*head, *text.removesuffix("<answer>").encode(), ANSWER]
        return [*head, *text.encode()]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token == EOS

    def check_grammar(self, gbnf: str) -> None:
        if "root" not in gbnf:
            raise ValueError("there is no rule named root")

    def json_grammar(self, schema: dict[str, Any] | None) -> str:
        if schema and schema.get("type") == "hiccup":
            raise ValueError("type hiccup is not known")
        return "root ::= " + ("object" if schema is None else "schema")

    def decode(self, batch: Sequence[Entry]) -> None:
        self._check_thread()
        assert 0 < len(batch) <= self.max_batch, f"a batch of {len(batch)}"
        if any(entry.wants_logits for entry in batch):
            self.gate()
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        self._logits = {}
        self.batches.append(len(batch))
        for i, entry in enumerate(batch):
            computed = self.computed.setdefault(entry.sequence, [])
            assert entry.position == len(computed), f"position {entry.position} after {len(computed)} tokens"
            if entry.position >= self.n_context:
                raise ModelError("no room")
            computed.append(entry.token)
            if entry.wants_logits:
                self._logits[i] = entry.sequence

    def forget(self, sequence: int) -> None:
        self._check_thread()
        self.computed.pop(sequence, None)

    def make_sampler(self, params: SamplingParams, seed: int) -> FakeSampler:
        self._check_thread()
        self.seeds.append(seed)
        self.n_open_samplers += 1
        return FakeSampler(self)

    def next_token(self, index: int) -> int:
        tokens = self.computed[self._logits[index]]
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
    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self._is_open = True

    def sample(self, index: int) -> int:
        assert self._is_open, "sampled after close"
        return self._model.next_token(index)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._model.n_open_samplers -= 1


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
