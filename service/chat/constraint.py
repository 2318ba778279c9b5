"""What an answer is bound to: GBNF, a Lark grammar, any JSON object, or JSON of a schema; kept by llguidance.

`Constrainer` tells llguidance of the vocabulary once, and makes of each request's Grammar the Constraint that the
sampler asks. Whatever cannot be kept whole is refused with the library's words, never kept by half. `schema` and `gbnf`
write what the library reads, `trial` finds out whether it can. Knows nothing of HTTP, sampling or llama.cpp.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest, ConstraintFailed, Unavailable
from ..protocol import Vocabulary
from .gbnf import to_lark
from .schema import to_grammar
from .trial import HelperBusy, Trial, describe_error, make_matcher

ANY_OBJECT = {"type": "object"}
MAX_MESSAGE = 500  # characters of a refusal


@dataclass(frozen=True)
class Grammar:
    """Either gbnf, or lark, or a JSON Schema (None: any JSON object). param: where the client said so."""

    param: str
    gbnf: str | None = None
    lark: str | None = None
    schema: dict[str, Any] | None = None

    @property
    def is_json(self) -> bool:
        return self.gbnf is None and self.lark is None

    def write(self) -> str:
        """As llguidance reads it. Raises ValueError with the reason."""
        if self.gbnf is not None:
            return to_lark(self.gbnf)
        return to_grammar(self.schema or ANY_OBJECT) if self.lark is None else self.lark


class Matcher:
    """llguidance's matcher as a Constraint. One thread at a time."""

    def __init__(self, matcher: Any, ends: frozenset[int]) -> None:
        self._matcher, self._ends = matcher, ends

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_accepting())

    def accept(self, token: int) -> bool:
        if token in self._ends:
            return self.is_complete
        if not self._matcher.is_stopped() and self._matcher.try_consume_tokens([token]):
            return True
        self._check()
        return False

    def mask(self) -> bytes:
        mask: bytes = self._matcher.compute_bitmask()  # without the interpreter lock
        self._check()
        return mask

    def copy(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._ends)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintFailed(
                f"the answer's grammar cannot be followed any further: {describe_error(self._matcher)}"
            )


class Constrainer:
    """Makes constraints for one model. Learns its vocabulary in a thread of its own; whoever comes before that is done
    waits. check: raises ValueError for a grammar that cannot be made in its limits."""

    def __init__(self, vocabulary: Vocabulary, check: Callable[[str, bool], None] | None = None) -> None:
        self._vocabulary = vocabulary
        self._trial = Trial()
        self._check = check or self._trial.check
        self._tokenizer: Any = None
        self._ends: frozenset[int] = frozenset()
        self._fault: Exception | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._learn, name="constrainer", daemon=True)
        self._thread.start()

    def make(self, grammar: Grammar) -> Matcher:
        """Any thread but the engine's. Raises BadRequest with the reason, Unavailable if others keep it from trying."""
        try:
            text = grammar.write()
            self._check(text, grammar.is_json)
            self._thread.join()
            if self._fault:
                raise self._fault
            if not self._tokenizer:
                raise Unavailable("this node is shutting down; ask again", retry_after_s=5)
            return Matcher(make_matcher(self._tokenizer, text, grammar.is_json), self._ends)
        except HelperBusy as error:
            raise Unavailable("too many grammars are being checked; ask again", retry_after_s=5) from error
        except (ValueError, RecursionError) as error:
            reason = "nests too deeply" if isinstance(error, RecursionError) else str(error)
            message = f"{grammar.param}: {reason}"[:MAX_MESSAGE]
            raise BadRequest(message, param=grammar.param, code="invalid_grammar") from error

    def close(self) -> None:
        """End the helper, and learn no more."""
        self._is_closed = True
        self._trial.close()

    def _learn(self) -> None:
        try:
            import llguidance
            import numpy  # noqa: F401 (the sampler's, which would import it in the engine's thread: 0.1 s)

            tokens = self._read_tokens()
            if tokens is not None:
                known = _Known(self._vocabulary, tokens, self._ends)
                # Two calls: each holds the interpreter lock, 0.17 s for 152,000 tokens (AMD EPYC, November 2026).
                plain = llguidance.LLTokenizer(known, eos_token=known.ends, slices=[])
                self._tokenizer = plain.with_slices(plain.general_slices())
        except Exception as error:
            self._fault = error

    def _read_tokens(self) -> list[bytes] | None:
        """The bytes of every token; None if nobody needs them any more."""
        tokens, ends = [], []
        for token in range(self._vocabulary.n_vocab):
            if self._is_closed:
                return None
            tokens.append(self._vocabulary.token_bytes(token))
            if self._vocabulary.is_end(token):
                ends.append(token)
        self._ends = frozenset(ends)
        return tokens


class _Known:
    """A vocabulary as llguidance.LLTokenizer reads it (its TokenizerWrapper)."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, tokens: list[bytes], ends: frozenset[int]) -> None:
        self._vocabulary = vocabulary
        # One more than there are, if none of them ends an answer: the library wants one.
        self.ends = sorted(ends) or [len(tokens)]
        self.tokens = [*tokens, b""] if not ends else tokens
        for token in self.ends:
            self.tokens[token] = b"<end>"
        self.eos_token_id = self.ends[0]
        self.special_token_ids = self.ends

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)
