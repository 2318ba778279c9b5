"""Which kind of attention is faster on this machine with this model: measured.

Flash attention reads only a sequence's own cells, but is slow for a stream whose heads share no key; plain attention is
one matrix product over all cells in use, whoever's they are. The mix is a few chats at once: prompts in the steps that
running answers allow, then the answers. Knows the model's calls for it, and wants every sequence empty. Knows nothing
of requests or of the prefix cache; belongs to the engine thread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from ..protocol import Chunk, Model

STREAMS, PROMPT, OUTPUT = 4, 256, 64  # chats, and tokens of each; the answer's price is taken from a few steps
FILL_ROWS = 32  # rows per step: a newcomer waits for one
N_STEPS = 9
SLOW_S = 1.0  # on a machine that takes longer for one such step nothing is compared: it would take minutes
WORTH = 0.95  # a change must bring the mix to this share of the time, or it is noise
TOO_SLOW = float("inf")


def choose(model: Model, is_wanted: Callable[[], bool], clock: Callable[[], float]) -> bool | None:
    """Measure both kinds and leave the model with the faster one. Returns whether that is flash attention; None if
    somebody wanted something meanwhile (is_wanted), and the model is as it was."""
    before = model.has_flash_attention
    fits = model.n_context >= PROMPT + N_STEPS and model.n_cells >= STREAMS * (PROMPT + N_STEPS)
    if not fits or model.max_batch < FILL_ROWS or model.n_sequences < STREAMS:
        return before
    first_s = _time_mix(model, is_wanted, clock)
    if first_s is None:
        return None
    if first_s == TOO_SLOW:
        return before
    model.set_flash_attention(not before)
    second_s = _time_mix(model, is_wanted, clock)
    if second_s is None or second_s > first_s * WORTH:
        model.set_flash_attention(before)
    return None if second_s is None else model.has_flash_attention


def _time_mix(model: Model, is_wanted: Callable[[], bool], clock: Callable[[], float]) -> float | None:
    """Seconds of the mix; None if it was cut short, TOO_SLOW if it would take too long."""
    prompt = [
        [Chunk(sequence, start, [0] * FILL_ROWS)]
        for start in range(0, PROMPT, FILL_ROWS)
        for sequence in range(STREAMS)
    ]
    answer = [[Chunk(sequence, PROMPT + i, [0], 1) for sequence in range(STREAMS)] for i in range(N_STEPS)]
    times_s = []
    try:
        for step in (*prompt, *answer):
            if is_wanted():
                return None
            started = clock()
            model.decode(step)
            times_s.append(clock() - started)
            if times_s[-1] > SLOW_S:
                return TOO_SLOW
    finally:
        for sequence in range(STREAMS):
            model.forget(sequence, 0)
    return sum(times_s[: len(prompt)]) + OUTPUT * statistics.median(times_s[len(prompt) :])
