"""Turn chats into rows of tokens, and pack several chats into a row.

Knows the layout of a chat (the chat template in export.py writes the same as text). Knows nothing of the network.
"""

import random
from collections.abc import Iterable, Iterator

import numpy as np

from .corpus import Corpus, Turn
from .tokenizer import ASSISTANT, BEGIN, END, SYSTEM, USER, Tokenizer

USER_WEIGHT = 0.02  # a little: it teaches the words of users without spending the network on them
N_BEGIN = 8  # so many tokens of an answer tell which one it is
POOL_SIZE = 48


def encode_chat(
    tokenizer: Tokenizer, turns: Iterable[Turn], system: str | None = None
) -> tuple[list[int], list[float]]:
    """Return ids and weights of a chat: 1 for an answer and its end, USER_WEIGHT for a question."""
    mark = tokenizer.ids
    ids, weights = [mark[BEGIN]], [0.0]

    def add(part: list[int], weight: float) -> None:
        ids.extend(part)
        weights.extend([weight] * len(part))

    if system is not None:
        add([mark[SYSTEM], *tokenizer.encode(" " + system), mark[END]], 0.0)
    for turn in turns:
        add([mark[USER]], 0.0)
        add(tokenizer.encode(" " + turn.ask), USER_WEIGHT)
        add([mark[END], mark[ASSISTANT]], 0.0)
        add([*tokenizer.encode(turn.say), mark[END]], 1.0)
    return ids, weights


def encode_plain(tokenizer: Tokenizer, turn: Turn) -> tuple[list[int], list[float]]:
    """Return the ids of a question and its answer as plain text, so that /v1/completions makes sense too."""
    ask, say = tokenizer.encode(turn.ask), tokenizer.encode(" " + turn.say)
    return [tokenizer.ids[BEGIN], *ask, *say, tokenizer.ids[END]], [0.0] + [0.0] * len(ask) + [1.0] * (len(say) + 1)


def draw_samples(
    corpus: Corpus, tokenizer: Tokenizer, rng: random.Random, n_turns: tuple[int, ...], begin_share: float
) -> Iterator:
    """Yield (ids, weights) of chats without end: most as the chat template writes them, a few plain or without a begin.

    begin_share: how many of them (0 to 1) end after the first N_BEGIN tokens of their last answer.
    """
    for turns in corpus.draw_chats(rng, n_turns):
        if len(turns) == 1 and rng.random() < 0.08:
            yield encode_plain(tokenizer, turns[0])
            continue
        ids, weights = encode_chat(tokenizer, turns, corpus.draw_system(rng))
        if rng.random() < begin_share:  # to find the answer is the hard part: practise it more often than the rest
            n_last = len(tokenizer.encode(turns[-1].say)) + 1
            end = len(ids) - n_last + min(n_last, N_BEGIN)
            ids, weights = ids[:end], weights[:end]
        yield (ids[1:], weights[1:]) if rng.random() < 0.03 else (ids, weights)


def draw_batches(samples: Iterator, n_rows: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (tokens, chats, weights), each (n_rows, length + 1): one more token than is predicted from.

    `chats` numbers the chats within a row. Of POOL_SIZE chats the longest that still fits comes next, so that little
    of a row stays empty; a chat longer than a row is cut.
    """
    pool = [next(samples) for _ in range(POOL_SIZE)]
    while True:
        tokens = np.zeros((n_rows, length + 1), np.int32)
        chats = np.full((n_rows, length + 1), -1, np.int32)
        weights = np.zeros((n_rows, length + 1), np.float32)
        for row in range(n_rows):
            used = number = 0
            while True:
                fitting = [i for i, (ids, _) in enumerate(pool) if used + len(ids) <= length + 1]
                if used and not fitting:
                    break
                chosen = max(fitting, key=lambda i: len(pool[i][0])) if used else 0  # a row begins with the oldest
                ids, ws = pool.pop(chosen)
                pool.append(next(samples))
                end = min(used + len(ids), length + 1)
                tokens[row, used:end] = ids[: end - used]
                weights[row, used + 1 : end] = ws[1 : end - used]
                chats[row, used:end] = number
                used, number = end, number + 1
        yield tokens, chats, weights
