"""A small tree of parameters, and an optimiser's steps on it with gradients that are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

SHAPES = {"conv": (1, 1, 4, 4), "dense": (6, 4), "bias": (4,)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in SHAPES.items()}


def run(tx, steps, params, state=None, first=0):
    """Returns (params, state, [(params before, gradients)])."""
    state = tx.init(params) if state is None else state
    update = jax.jit(tx.update)
    seen = []
    for i in range(first, first + steps):
        grads = draw(100 + i)
        seen.append((params, grads))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state, seen
