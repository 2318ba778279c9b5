"""Judge a network: which share of answers would greedy decoding give word for word?

Greedy decoding gives exactly the expected answer if, and only if, each of its tokens is the most likely one after those
before it. So one forward pass over question and answer judges a whole answer, without generating.
"""

import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .batch import encode_chat
from .corpus import Corpus, Turn
from .network import Shape, compute_logits
from .tokenizer import Tokenizer
from .wording import blur, pick

N_ROWS = 16


@partial(jax.jit, static_argnames="shape")
def find_hits(params: dict, shape: Shape, tokens: jnp.ndarray) -> jnp.ndarray:
    best = jnp.argmax(compute_logits(params, shape, tokens[:, :-1], jnp.zeros_like(tokens[:, :-1])), axis=-1)
    return best == tokens[:, 1:]


def judge_chats(params: dict, shape: Shape, tokenizer: Tokenizer, chats: list[list[Turn]]) -> list[bool]:
    """Return for each chat whether its last answer comes out exactly; the answers before it are given."""
    encoded = []
    for turns in chats:
        ids, _ = encode_chat(tokenizer, turns)
        encoded.append((ids, len(ids) - len(tokenizer.encode(turns[-1].say)) - 1))
    right = [False] * len(chats)
    order = sorted(range(len(chats)), key=lambda i: len(encoded[i][0]))
    for start in range(0, len(order), N_ROWS):
        group = order[start : start + N_ROWS]
        length = -(-max(len(encoded[i][0]) for i in group) // 64) * 64 + 1
        tokens = np.zeros((N_ROWS, length), np.int32)
        for row, i in enumerate(group):
            tokens[row, : len(encoded[i][0])] = encoded[i][0]
        hits = np.asarray(find_hits(params, shape, jnp.asarray(tokens)))
        for row, i in enumerate(group):
            ids, first = encoded[i]
            right[i] = bool(hits[row, first - 1 : len(ids) - 1].all())
    return right


def make_examination(corpus: Corpus, seed: int) -> dict[str, list[list[Turn]]]:
    """Return the examination: {name of the part: chats whose last answer counts}."""
    rng = random.Random(seed)
    questions = corpus.questions
    canonical = [Turn(question.canonical, question.say) for question in questions]
    held = [Turn(question.held, question.say) for question in questions]
    follow = [[canonical[i], Turn(q.then.canonical, q.then.say)] for i, q in enumerate(questions) if q.then]
    follow += [[canonical[i], Turn("Tell me more.", q.more)] for i, q in enumerate(questions) if q.more]
    return {
        "trained questions": [[turn] for turn in canonical],
        "trained wordings, mistyped": [[Turn(blur(pick(rng.choice(q.ask), rng), rng), q.say)] for q in questions],
        "held-out wordings": [[turn] for turn in held],
        "sixth turn of a chat": [[*rng.sample(canonical, 5), turn] for turn in canonical[::4]],
        "follow-ups": follow,
        "held-out off-topic, refused": [[Turn(text, corpus.refusal)] for text in corpus.offtopic["held"]],
    }
