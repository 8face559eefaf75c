"""Batch normalisation with its running statistics in a state beside the parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.errors import ConfigError

EPSILON = 1e-5


def check_momentum(norm_momentum: float) -> None:
    """Raises ConfigError unless the momentum of the running statistics is in [0, 1)."""
    if not 0 <= norm_momentum < 1:
        raise ConfigError(f"norm_momentum must be in [0, 1), got {norm_momentum}")


def batch_norm(
    params: dict[str, jax.Array],
    state: dict[str, jax.Array],
    x: jax.Array,
    *,
    train: bool,
    axis_name: str | None = None,
    momentum: float = 0.9,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns x normalised per channel, and the running statistics after this batch.

    y = scale · (x - mean) / sqrt(variance + 1e-5) + bias, with the batch's statistics in
    training, the running ones in inference. running = momentum · running + (1 - momentum) · batch.

    Args:
      params: "scale" and "bias" float32[C].
      state: running "mean" and "variance" float32[C].
      x: float[N, H, W, C].
      train: whether to use, and fold in, the batch's statistics. Static.
      axis_name: mapped axis over which the batch's statistics are averaged (synchronised
        normalisation: two small all-reduces); None: each device normalises its own shard.
      momentum: weight of the old running statistics, in [0, 1).

    Returns:
      (float[N, H, W, C] in the dtype of `x`, state). Without training the state is unchanged.

    Note:
      Statistics are float32 for any dtype of `x`. The variance is the biased one, for the
      running average too, as mean of squares minus squared mean, which averages exactly over
      shards of equal size.

    Reference:
      Ioffe and Szegedy, "Batch Normalization", 2015, arXiv:1502.03167, algorithm 1. Deviation:
      a running average of the biased variance instead of the population's estimate.

    Example:
      >>> params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
      >>> state = {"mean": jnp.zeros(1), "variance": jnp.ones(1)}
      >>> x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
      >>> y, state = batch_norm(params, state, x, train=True, momentum=0.5)
      >>> y.round(3).ravel().tolist(), state["mean"].tolist()
      ([-1.0, 1.0], [1.0])
    """
    wide = x.astype(jnp.float32)
    if train:
        mean, square = wide.mean(axis=(0, 1, 2)), jnp.square(wide).mean(axis=(0, 1, 2))
        if axis_name is not None:
            mean, square = lax.pmean(mean, axis_name), lax.pmean(square, axis_name)
        variance = jnp.maximum(square - jnp.square(mean), 0)  # rounding can make it negative
        state = {
            "mean": momentum * state["mean"] + (1 - momentum) * mean,
            "variance": momentum * state["variance"] + (1 - momentum) * variance,
        }
    else:
        mean, variance = state["mean"], state["variance"]
    factor = params["scale"] * lax.rsqrt(variance + EPSILON)
    return ((wide - mean) * factor + params["bias"]).astype(x.dtype), state
