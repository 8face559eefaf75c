"""`Network`: the pair of pure functions that every model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError


class Network(NamedTuple):
    """A network as a pair of pure functions, its only interface.

    init(key) -> (params, state)
      params: nested dictionaries of float32 arrays, {"conv1": {"kernel", "bias"}, …}, trained.
      state: BatchNorm's running statistics, {} for a network without it; never trained.

    apply(params, state, images, *, train=False, key=None) -> (logits, state)
      images: float[N, H, W, C], normalised. logits: float32[N, K]. In training the new state is
      returned, in inference the old one. `key` is needed in training by a network with dropout.

    Example:
      >>> from hcjax import models
      >>> network = models.create("lenet5")
      >>> params, state = network.init(jax.random.key(0))
      >>> logits, state = network.apply(params, state, jnp.zeros((2, 28, 28, 1)))
      >>> logits.shape, state
      ((2, 10), {})
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


def inference(apply: Callable, state: Any) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the two-argument inference form of a network, as `trace` and others take it.

    Args:
      apply: a `Network`'s apply.
      state: the running statistics to use, {} for a network without BatchNorm. They become
        constants of the returned function.

    Returns:
      f(params, images float[N, H, W, C]) -> logits float32[N, K], deterministic.

    Example:
      >>> from hcjax import models
      >>> network = models.create("seed_cnn_tiny")
      >>> params, state = network.init(jax.random.key(0))
      >>> inference(network.apply, state)(params, jnp.zeros((1, 28, 28, 1))).shape
      (1, 10)
    """

    def predict(params: Any, images: jax.Array) -> jax.Array:
        return apply(params, state, images, train=False, key=None)[0]

    return predict


def check_dtype(dtype: str) -> jnp.dtype:
    """Checks and returns a compute dtype: float32, or bfloat16 (parameters stay float32)."""
    if str(dtype) not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {dtype!r}")
    return jnp.dtype(dtype)
