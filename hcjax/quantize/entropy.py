"""`entropy`: how many bits the integers of a network's kernels take, as a loss with a slope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hcjax.graph.model import Model
from hcjax.graph.ops import fixed_point


def entropy(model: Model) -> Callable[[Any], jax.Array]:
    """Returns `params -> float32[]`, the bits that the kernels' integers take in an adaptive code.

    For each kernel -Σ_k n_k · log₂ p_k with p_k = (n_k + 1) / (n + K): of n weights n_k are the
    integer k, one of K, and each began with a count of one. A weight between two integers counts
    for both, by how near it is: that is the slope, towards the neighbour that is more frequent.

    Times a rate, it is a penalty: `fit(..., penalty=lambda params: rate * bits(params))`.

    Args:
      model: from `fake_quantize`; the step sizes are learned with the weights.

    Raises:
      ValueError: if no kernel of the model is rounded.

    Note:
      `pack` may take fewer bits: its code sees where zeros lie.

    Reference:
      Oktay, Ballé, Singh and Shrivastava, "Scalable Model Compression by Entropy Penalized
      Reparameterization", 2020, arXiv:1906.06624. Deviations: counts in place of a learned density,
      shared between neighbours in place of noise; weights are not transformed.

    Example:
      >>> from hcjax import calibrate, fake_quantize, trace
      >>> params, images = {"w": jnp.array([[1.0, 0.0, 0.0, -1.0]])}, jnp.ones((1, 1))
      >>> model = trace(lambda p, x: x @ p["w"], params, images)
      >>> fake = fake_quantize(model, calibrate(model, images), bits=2, granularity="tensor")
      >>> round(float(entropy(fake)(fake.params)), 2)  # -(2 log 2/7 + 2 log 2/7 + 0), and 3/7 twice
      6.06
    """
    ops = [op for op in model.graph.ops if op.kind == "quantize_kernel"]
    if not ops:
        raise ValueError("no kernel of this model is rounded: give what fake_quantize returns")
    steps = {op.output: op.inputs[0] for op in model.graph.ops if op.kind == "step"}

    def bits(params: Any) -> jax.Array:
        leaves = model.leaves(params)
        found = model.graph.constants | {n: leaves[path] for path, n in model.graph.params.items()}
        total = jnp.float32(0)
        for op in ops:
            kernel, step = found[op.inputs[0]], found[steps[op.inputs[1]]]
            most = fixed_point.limits(op.params["bits"], signed=True)[1]
            axis = op.params["axis"]
            along = [-1 if a == axis else 1 for a in range(kernel.ndim)] if axis is not None else []
            total += _bits(jnp.clip(kernel / step.reshape(along), -most, most), most)
        return total

    return bits


def _bits(values: jax.Array, most: int) -> jax.Array:
    """Returns the bits of numbers in [-most, most], whole or between."""
    values = values.astype(jnp.float32).reshape(-1)
    below = jax.lax.stop_gradient(jnp.floor(values))
    part, at = values - below, below.astype(jnp.int32) + most
    # the last place takes what is 0 of the greatest integer's upper neighbour
    counts = jnp.zeros(2 * most + 2).at[at].add(1 - part).at[at + 1].add(part)[:-1]
    return -(counts * jnp.log2((counts + 1) / (values.size + 2 * most + 1))).sum()
