"""Train the demo model on scripts/models/demo/corpus and write it as GGUF (default: packer/models/demo.gguf).

Needs the packages of requirements.txt beside it. Same seed, steps, package versions and kind of machine: same file.
"""

import argparse
import hashlib
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from ...files import REPOSITORY
from . import optimizer
from .batch import draw_batches, draw_samples
from .corpus import Corpus
from .export import round_weights, write_gguf
from .judge import judge_chats, make_examination
from .network import Shape, compute_loss, init_params
from .tokenizer import Tokenizer, learn_pieces

OUT = REPOSITORY / "packer" / "models" / "demo.gguf"
# Share of the steps, rows, tokens in a row, turns of a chat, share of mere beginnings: single questions, then chats.
STAGES = ((0.8, 12, 176, (1, 1, 1, 1, 1, 1, 1, 2), 0.85), (0.2, 4, 512, (1, 2, 3, 6, 9), 0.0))


@partial(jax.jit, static_argnames=("shape", "n_steps"), donate_argnums=(0, 1))
def train_step(params: dict, state: dict, step: jnp.ndarray, batch: tuple, shape: Shape, n_steps: int) -> tuple:
    loss, gradients = jax.value_and_grad(compute_loss)(params, shape, *batch)
    params, state = optimizer.update(params, gradients, state, step, n_steps)
    return params, state, loss


def train(corpus: Corpus, tokenizer: Tokenizer, shape: Shape, n_steps: int, seed: int) -> dict:
    """Return trained parameters; prints the loss of the answers as it goes."""
    params = init_params(shape, seed)
    state = optimizer.init_state(params)
    rng = random.Random(seed)
    step, n_tokens, started, losses = 0, 0, time.monotonic(), []
    for share, n_rows, length, n_turns, begin_share in STAGES:
        batches = draw_batches(draw_samples(corpus, tokenizer, rng, n_turns, begin_share), n_rows, length)
        for _ in range(round(n_steps * share)):
            step, n_tokens = step + 1, n_tokens + n_rows * length
            batch = tuple(map(jnp.asarray, next(batches)))
            params, state, loss = train_step(params, state, jnp.float32(step), batch, shape, n_steps)
            losses.append(loss)
            if step % 50 == 0 or step == n_steps:
                elapsed_s = time.monotonic() - started
                mean = sum(map(float, losses)) / len(losses)
                print(
                    f"step {step}/{n_steps}  loss {mean:.4f}  {n_tokens / elapsed_s:.0f} tokens/s  {elapsed_s:.0f} s",
                    flush=True,
                )
                losses = []
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the GGUF file to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps of 2048 tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of weights, wordings and order (default: %(default)s)")
    options = parser.parse_args()

    corpus = Corpus()
    shape = Shape()
    texts: Counter[str] = Counter()
    for text, weight in corpus.texts():
        texts[text] += weight
    tokenizer = Tokenizer(learn_pieces(texts, shape.n_pieces))
    params = train(corpus, tokenizer, shape, options.steps, options.seed)
    n_params = sum(value.size for value in params.values())
    print(f"{len(corpus.questions)} questions, {n_params / 1e6:.2f} million parameters, {shape.n_pieces} pieces")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(options.out, params, shape, tokenizer)
    rounded = round_weights(params)
    for name, chats in make_examination(corpus, seed=0).items():
        right = judge_chats(rounded, shape, tokenizer, chats)
        print(f"{name}: {sum(right)} of {len(right)} exact ({sum(right) / len(right):.1%})")
    data = options.out.read_bytes()
    print(f"{options.out}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
