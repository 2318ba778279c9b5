"""The Llama network in JAX: parameters, forward pass and loss.

Computes what llama.cpp computes for `general.architecture = "llama"`: RMS norm, rotary positions on neighbouring pairs,
grouped-query attention, SwiGLU, tied output. Knows nothing of text or files.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

NORM_EPSILON = 1e-5
ROPE_BASE = 10000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; every width is a multiple of 32, the block length of Q8_0."""

    n_pieces: int = 2048
    n_layers: int = 4
    width: int = 192
    n_heads: int = 6
    n_kv_heads: int = 2
    ffn_width: int = 512

    @property
    def head_width(self) -> int:
        return self.width // self.n_heads


def init_params(shape: Shape, seed: int) -> dict:
    """Return random weights as {name: array}; layers are stacked on axis 0, matrices are (in, out)."""
    rng = np.random.default_rng(seed)
    kv_width = shape.head_width * shape.n_kv_heads
    residual = 1 / np.sqrt(2 * shape.n_layers)  # GPT-2 (2019), section 2.3: scale what is added to the residual stream

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jnp.ndarray:
        return jnp.asarray(rng.normal(0, scale / np.sqrt(rows), (shape.n_layers, rows, columns)), jnp.float32)

    return {
        "embed": jnp.asarray(rng.normal(0, 0.05, (shape.n_pieces, shape.width)), jnp.float32),
        "attn_norm": jnp.ones((shape.n_layers, shape.width)),
        "attn_q": matrix(shape.width, shape.width),
        "attn_k": matrix(shape.width, kv_width),
        "attn_v": matrix(shape.width, kv_width),
        "attn_output": matrix(shape.width, shape.width, residual),
        "ffn_norm": jnp.ones((shape.n_layers, shape.width)),
        "ffn_gate": matrix(shape.width, shape.ffn_width),
        "ffn_up": matrix(shape.width, shape.ffn_width),
        "ffn_down": matrix(shape.ffn_width, shape.width, residual),
        "output_norm": jnp.ones(shape.width),
    }


def normalise(x: jnp.ndarray, weight: jnp.ndarray) -> jnp.ndarray:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + NORM_EPSILON) * weight


def rotate(x: jnp.ndarray) -> jnp.ndarray:
    """Apply rotary positions to x of shape (batch, length, heads, head_width)."""
    length, head_width = x.shape[1], x.shape[3]
    frequency = ROPE_BASE ** (-np.arange(0, head_width, 2) / head_width)
    angle = np.arange(length)[:, None] * frequency[None, :]
    cos, sin = jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def compute_logits(params: dict, shape: Shape, tokens: jnp.ndarray, chats: jnp.ndarray) -> jnp.ndarray:
    """Return logits (batch, length, n_pieces).

    tokens and chats have shape (batch, length). A token sees only earlier tokens of its own chat, so several chats can
    share a row: rotary positions are relative, the place in the row does not matter.
    """
    batch, length = tokens.shape
    n_kv, head_width = shape.n_kv_heads, shape.head_width
    group = shape.n_heads // n_kv
    visible = jnp.tril(jnp.ones((length, length), bool))[None] & (chats[:, :, None] == chats[:, None, :])
    bias = jnp.where(visible, 0.0, -1e9)[:, None, None]

    def attend(h: jnp.ndarray, layer: dict) -> jnp.ndarray:
        """Query heads that share a key head make one long product: that is what XLA does best on a CPU."""
        q = rotate((h @ layer["attn_q"]).reshape(batch, length, shape.n_heads, head_width)) / np.sqrt(head_width)
        k = rotate((h @ layer["attn_k"]).reshape(batch, length, n_kv, head_width))
        v = (h @ layer["attn_v"]).reshape(batch, length, n_kv, head_width)
        q = q.reshape(batch, length, n_kv, group, head_width).transpose(0, 2, 3, 1, 4)
        scores = q.reshape(batch, n_kv, group * length, head_width) @ k.transpose(0, 2, 3, 1)
        weights = jax.nn.softmax(scores.reshape(batch, n_kv, group, length, length) + bias, axis=-1)
        mixed = weights.reshape(batch, n_kv, group * length, length) @ v.transpose(0, 2, 1, 3)
        return mixed.reshape(batch, n_kv, group, length, head_width).transpose(0, 3, 1, 2, 4).reshape(batch, length, -1)

    def run_layer(x: jnp.ndarray, layer: dict) -> jnp.ndarray:
        x = x + attend(normalise(x, layer["attn_norm"]), layer) @ layer["attn_output"]
        h = normalise(x, layer["ffn_norm"])
        return x + (jax.nn.silu(h @ layer["ffn_gate"]) * (h @ layer["ffn_up"])) @ layer["ffn_down"]

    x = params["embed"][tokens]
    layers = {name: value for name, value in params.items() if name not in ("embed", "output_norm")}
    for i in range(shape.n_layers):  # unrolled: XLA runs it faster on a CPU than scan
        x = run_layer(x, {name: value[i] for name, value in layers.items()})
    return normalise(x, params["output_norm"]) @ params["embed"].T


def compute_loss(
    params: dict, shape: Shape, tokens: jnp.ndarray, chats: jnp.ndarray, weights: jnp.ndarray
) -> jnp.ndarray:
    """Return the weighted mean cross entropy (nats) of tokens given those before; all (batch, length)."""
    logits = compute_logits(params, shape, tokens[:, :-1], chats[:, :-1])
    picked = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    return jnp.sum(losses * weights[:, 1:]) / jnp.sum(weights[:, 1:])
