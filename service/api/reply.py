"""Events -> JSON bodies and server-sent events, in OpenAI's shapes with llama-server's extras; error bodies.

A Reply writes one answer of any number of choices: `opening`, `progress`, `piece` and `closing` make the stream,
`whole` the one JSON body. Knows nothing of HTTP libraries, threads, queues or the model.
"""

from __future__ import annotations

import codecs
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import ServiceError
from ..request import Done, Piece, Progress, TokenLogprob

BATCH = 64  # with 20 likeliest tokens beside each, a batch takes 2 ms
MAX_CHARACTERS = 1 << 16

LEAST_LOGPROB = -9999.0  # OpenAI's word for "as good as never": JSON has no minus infinity


def error_body(error: ServiceError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def models_body(model: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": [model]}


def model_body(
    name: str, created: int, n_context: int | None, description: str, defaults: dict[str, Any]
) -> dict[str, Any]:
    """OpenAI's model object, and: tokens a sequence may have, what the file says of itself, and the sampling a request
    gets that asks for none."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "llamakiln",
        "context": n_context,
        "description": description,
        "defaults": defaults,
    }


def tokens_body(tokens: list[int], pieces: Iterable[bytes] | None) -> dict[str, Any]:
    """llama-server's /tokenize; a piece that is not whole characters is told as its bytes."""
    if pieces is None:
        return {"tokens": tokens}
    return {
        "tokens": [{"id": token, "piece": _text_or_bytes(data)} for token, data in zip(tokens, pieces, strict=True)]
    }


def sse(body: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = body if isinstance(body, str) else dump(body)
    return f"data: {text}\n\n".encode()


def dump(body: Any) -> str:
    """JSON that can be sent, whatever is in it: half of a surrogate pair, which UTF-8 has no bytes for, becomes `?`."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def pieces(body: Any) -> Iterator[str]:
    """The same JSON in pieces. One call of json's C code holds the interpreter from beginning to end, and an answer can
    have megabytes: so no call gets more than BATCH items of a list or MAX_CHARACTERS of a string."""
    if isinstance(body, dict):
        for i, (name, value) in enumerate(body.items()):
            yield f"{',' if i else '{'}{dump(name)}:"
            yield from pieces(value)
        yield "}" if body else "{}"
    elif isinstance(body, list) and len(body) > BATCH:
        for start in range(0, len(body), BATCH):
            yield f"{',' if start else '['}{dump(body[start : start + BATCH])[1:-1]}"
        yield "]"
    elif isinstance(body, list) and any(isinstance(item, (dict, list, str)) for item in body):
        for i, item in enumerate(body):
            yield "," if i else "["
            yield from pieces(item)
        yield "]"
    elif isinstance(body, str) and len(body) > MAX_CHARACTERS:
        yield '"'
        for start in range(0, len(body), MAX_CHARACTERS):
            yield dump(body[start : start + MAX_CHARACTERS])[1:-1]
        yield '"'
    else:
        yield dump(body)


def decode(parts: Iterable[bytes]) -> str:
    """Bytes of tokens -> text, a part at a time for the same reason: what is no character costs the most."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return "".join([*map(decoder.decode, parts), decoder.decode(b"", True)])


SSE_PING = b": ping\n\n"
SSE_END = sse("[DONE]")


@dataclass
class Reply:
    """prompt_lengths: tokens of each prompt. n: choices of each; choice i is of prompt i // n. fingerprint: names what
    computed the answer, so a client sees when the same seed may give another one. clock: seconds, for the time a prompt
    takes."""

    id: str
    model_name: str
    prompt_lengths: tuple[int, ...] = (0,)
    n: int = 1
    wants_usage: bool = False
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    clock: Callable[[], float] = time.monotonic
    _dones: dict[int, Done] = field(default_factory=dict)
    _started_at: float | None = None

    @property
    def n_choices(self) -> int:
        return self.n * len(self.prompt_lengths)

    @property
    def is_complete(self) -> bool:
        return len(self._dones) == self.n_choices

    def opening(self) -> list[dict[str, Any]]:
        return []

    def piece(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def progress(self, progress: Progress) -> dict[str, Any]:
        """llama-server's prompt_progress, and our place in the queue."""
        if self._started_at is None and progress.place == 0:
            self._started_at = self.clock()
        ms = 0.0 if self._started_at is None else (self.clock() - self._started_at) * 1e3
        return {
            **self.piece(Piece("", index=progress.index)),
            "prompt_progress": {
                "total": self.prompt_lengths[progress.index // self.n],
                "cache": progress.n_cached,
                "processed": progress.n_computed,
                "time_ms": round(ms),
            },
            "queue": {"place": progress.place, "wait_s": round(progress.wait_s, 3)},
        }

    def closing(self, done: Done) -> list[dict[str, Any]]:
        """A choice ended; the last one's end brings usage and timings of all."""
        self._dones[done.index] = done
        return self._close(done)

    def whole(self, pieces: Iterable[Piece], dones: Iterable[Done]) -> dict[str, Any]:
        self._dones = {done.index: done for done in dones}
        said: list[list[Piece]] = [[] for _ in range(self.n_choices)]
        for piece in pieces:
            said[piece.index].append(piece)
        return self._whole([(_join(said[index], index), self._dones[index]) for index in range(self.n_choices)])

    def usage(self) -> dict[str, Any]:
        """A prompt of several choices counts once."""
        n_prompt = sum(done.n_prompt_tokens for done in self._firsts)
        n_output = sum(done.n_output_tokens for done in self._dones.values())
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_output,
            "total_tokens": n_prompt + n_output,
            "prompt_tokens_details": {"cached_tokens": sum(done.n_cached_tokens for done in self._firsts)},
        }

    def timings(self) -> dict[str, float]:
        """llama-server's; of several choices the sum of tokens and the longest time."""
        dones = self._dones.values()
        n_cached = sum(done.n_cached_tokens for done in self._firsts)
        n_prompt = sum(done.n_prompt_tokens for done in self._firsts) - n_cached
        n_output = sum(done.n_output_tokens for done in dones)
        return {
            "cache_n": n_cached,
            **_speed("prompt", n_prompt, max(done.timings.prompt_s for done in dones)),
            **_speed("predicted", n_output, max(done.timings.output_s for done in dones)),
        }

    @property
    def _firsts(self) -> list[Done]:
        return [done for index, done in sorted(self._dones.items()) if index % self.n == 0]

    def _close(self, done: Done) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _whole(self, choices: list[tuple[Piece, Done]]) -> dict[str, Any]:
        raise NotImplementedError


class GenerateReply(Reply):
    """/generate's own, simpler shape, of one choice."""

    def piece(self, piece: Piece) -> dict[str, Any]:
        return {"text": piece.text}

    def _close(self, done: Done) -> list[dict[str, Any]]:
        return [{"text": "", **self._end(done)}]

    def _whole(self, choices: list[tuple[Piece, Done]]) -> dict[str, Any]:
        ((piece, done),) = choices
        return {"id": self.id, "model": self.model_name, "text": piece.text, **self._end(done)}

    def _end(self, done: Done) -> dict[str, Any]:
        return {"finish_reason": done.reason.value, "usage": self.usage(), "timings": self.timings()}


class ChunkedReply(Reply):
    """What OpenAI's two streams share."""

    prefix = ""
    kind = ""
    chunk_kind = ""

    def piece(self, piece: Piece) -> dict[str, Any]:
        return self._chunk([self._piece_choice(piece, None)])

    def _close(self, done: Done) -> list[dict[str, Any]]:
        chunks = [self._chunk([self._piece_choice(Piece("", index=done.index), done.reason.value)])]
        if self.is_complete:
            if self.wants_usage:
                chunks.append({**self._chunk([]), "usage": self.usage()})
            chunks[-1]["timings"] = self.timings()
        return chunks

    def _whole(self, choices: list[tuple[Piece, Done]]) -> dict[str, Any]:
        whole = [self._whole_choice(piece, done.reason.value) for piece, done in choices]
        return {**self._head(self.kind), "choices": whole, "usage": self.usage(), "timings": self.timings()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": choices} | ({"usage": None} if self.wants_usage else {})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model_name,
            "system_fingerprint": self.fingerprint,
        }

    def _piece_choice(self, piece: Piece, reason: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def _whole_choice(self, piece: Piece, reason: str) -> dict[str, Any]:
        raise NotImplementedError


class ChatReply(ChunkedReply):
    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """Each choice's role, with OpenAI's empty text. llama-server sends null there, and that breaks clients that
        join what `delta.get("content", "")` gives."""
        start = {"role": "assistant", "content": ""}
        return [self._chunk([_chat_choice(index, {"delta": start}, (), None)]) for index in range(self.n_choices)]

    def _piece_choice(self, piece: Piece, reason: str | None) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return _chat_choice(piece.index, {"delta": delta}, piece.logprobs, reason)

    def _whole_choice(self, piece: Piece, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return _chat_choice(piece.index, {"message": message}, piece.logprobs, reason)


@dataclass
class CompletionReply(ChunkedReply):
    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"
    _offsets: dict[int, _Offset] = field(default_factory=lambda: defaultdict(_Offset))

    def _piece_choice(self, piece: Piece, reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(piece) if piece.logprobs else None
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": reason}

    def _whole_choice(self, piece: Piece, reason: str) -> dict[str, Any]:
        return self._piece_choice(piece, reason)

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        """OpenAI's older shape: one list for each property. text_offset counts from the answer's beginning."""
        offset = self._offsets[piece.index]
        return {
            "tokens": [_name_token(said.data) for said in piece.logprobs],
            "token_logprobs": [_finite(said.logprob) for said in piece.logprobs],
            "top_logprobs": [
                {_name_token(data): _finite(logprob) for _, data, logprob in said.top} for said in piece.logprobs
            ],
            "text_offset": [offset.take(said.data) for said in piece.logprobs],
        }


def _join(pieces: list[Piece], index: int) -> Piece:
    logprobs = tuple(logprob for piece in pieces for logprob in piece.logprobs)
    return Piece("".join(piece.text for piece in pieces), logprobs, index)


class _Offset:
    """Where each token of an answer begins in its text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n = 0

    def take(self, data: bytes) -> int:
        start = self._n
        self._n += len(self._decoder.decode(data))
        return start


def _chat_choice(
    index: int, said: dict[str, Any], logprobs: tuple[TokenLogprob, ...], reason: str | None
) -> dict[str, Any]:
    content = {"content": [_chat_logprob(logprob) for logprob in logprobs], "refusal": None} if logprobs else None
    return {"index": index, **said, "logprobs": content, "finish_reason": reason}


def _chat_logprob(said: TokenLogprob) -> dict[str, Any]:
    top = [_name_logprob(data, logprob) for _, data, logprob in said.top]
    return {**_name_logprob(said.data, said.logprob), "top_logprobs": top}


def _name_logprob(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _name_token(data), "logprob": _finite(logprob), "bytes": list(data)}


def _name_token(data: bytes) -> str:
    """A token's text; if it is no whole characters its bytes, in OpenAI's spelling."""
    text = _text_or_bytes(data)
    return text if isinstance(text, str) else "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)


def _text_or_bytes(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _speed(name: str, n: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": n,
        f"{name}_ms": round(seconds * 1e3, 3),
        f"{name}_per_token_ms": round(seconds * 1e3 / n, 3) if n else 0.0,
        f"{name}_per_second": round(n / seconds, 3) if seconds else 0.0,
    }
