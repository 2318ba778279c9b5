"""Muon for the matrices, Adam for the embedding and the norms, and their common schedule.

Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers") replaces the momentum of a matrix by the nearest
matrix with equal singular values, found with a few Newton-Schulz steps.
"""

import jax.numpy as jnp

PEAK_RATE_MUON = 0.02
PEAK_RATE_ADAM = 4e-3
WARMUP_STEPS = 40
MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.99)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the coefficients of the paper


def init_state(params: dict) -> dict:
    """Return zero moments; "second" is only used where Adam is."""
    zeros = {name: jnp.zeros_like(value) for name, value in params.items()}
    second = {name: jnp.zeros_like(value) for name, value in params.items() if value.ndim != 3}
    return {"first": zeros, "second": second}


def schedule_rate(step: jnp.ndarray, n_steps: int) -> jnp.ndarray:
    """Return the share of the peak rate at a step from 1: linear warm-up, flat, the last 60 % linear to zero."""
    cooling = (n_steps + 1 - step) / (0.6 * n_steps)
    return jnp.minimum(1.0, jnp.minimum(step / WARMUP_STEPS, cooling))


def orthogonalise(matrices: jnp.ndarray) -> jnp.ndarray:
    """Return matrices (layers, rows, columns) with all singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.swapaxes(1, 2) if is_tall else matrices
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)
    for _ in range(5):
        product = x @ x.swapaxes(1, 2)
        x = a * x + (b * product + c * product @ product) @ x
    return x.swapaxes(1, 2) if is_tall else x


def update(params: dict, gradients: dict, state: dict, step: jnp.ndarray, n_steps: int) -> tuple[dict, dict]:
    """Return parameters and state after one step."""
    share = schedule_rate(step, n_steps)
    beta1, beta2 = ADAM_BETAS
    new_params, first, second = {}, {}, {}
    for name, gradient in gradients.items():
        value = params[name]
        if value.ndim == 3:
            first[name] = MOMENTUM * state["first"][name] + gradient
            direction = orthogonalise(gradient + MOMENTUM * first[name])
            scale = max(1.0, value.shape[2] / value.shape[1]) ** 0.5
            new_params[name] = value - share * PEAK_RATE_MUON * scale * direction
        else:
            first[name] = beta1 * state["first"][name] + (1 - beta1) * gradient
            second[name] = beta2 * state["second"][name] + (1 - beta2) * gradient**2
            mean = first[name] / (1 - beta1**step)
            spread = jnp.sqrt(second[name] / (1 - beta2**step)) + 1e-8
            new_params[name] = value - share * PEAK_RATE_ADAM * mean / spread
    return new_params, {"first": first, "second": second}
