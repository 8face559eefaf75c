"""`entropy`: the bits that the integers of a network's kernels take, as a differentiable loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hcjax.graph.model import Model
from hcjax.graph.ops import fixed_point


def entropy(model: Model) -> Callable[[Any], jax.Array]:
    """Returns `params -> float32[]`, the bits that the kernels' integers take in an adaptive code.

    For each kernel -Σ_k n_k · log₂ p_k with p_k = (n_k + 1) / (n + K): n_k of its n weights are the
    integer k, one of K, and each count starts at one. A weight between two integers counts for
    both, linearly by its distance; so the gradient moves it towards the more frequent neighbour.
    Gradients of scales have the factor that they have in the network: without it, a large kernel's
    would grow as if there were no other loss.

    Times a rate, it is a penalty: `fit(..., penalty=lambda params: rate * bits(params))`.

    Args:
      model: from `fake_quantize`; the scales are learned with the weights.

    Raises:
      ValueError: if no kernel of the model is rounded.

    Note:
      `pack` may take fewer bits, since its code is conditioned on neighbouring zeros.

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
        raise ValueError("no kernel of this model is rounded: give a model from fake_quantize")
    steps = {op.output: op for op in model.graph.ops if op.kind == "step"}

    def bits(params: Any) -> jax.Array:
        leaves = model.leaves(params)
        values = model.graph.constants | {n: leaves[path] for path, n in model.graph.params.items()}
        total = jnp.float32(0)
        for op in ops:
            step = steps[op.inputs[1]]
            kernel, (scale,) = values[op.inputs[0]], step.run(1, values[step.inputs[0]])
            qmax = fixed_point.limits(op.params["bits"], signed=True)[1]
            axis = op.params["axis"]
            along = [-1 if a == axis else 1 for a in range(kernel.ndim)] if axis is not None else []
            total += _bits(jnp.clip(kernel / scale.reshape(along), -qmax, qmax), qmax)
        return total

    return bits


def _bits(values: jax.Array, qmax: int) -> jax.Array:
    """Returns the bits of real numbers in [-qmax, qmax]."""
    values = values.astype(jnp.float32).reshape(-1)
    below = jax.lax.stop_gradient(jnp.floor(values))
    fraction, at = values - below, below.astype(jnp.int32) + qmax
    # one bin more, of count 0, for the upper neighbour of qmax
    counts = jnp.zeros(2 * qmax + 2).at[at].add(1 - fraction).at[at + 1].add(fraction)[:-1]
    return -(counts * jnp.log2((counts + 1) / (values.size + 2 * qmax + 1))).sum()
