"""Adapters that turn networks of other libraries into a `Network`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError
from hcjax.models.network import Network


def linen(module: Any, input_shape: Sequence[int]) -> Network:
    """Converts a Flax Linen module to a `Network`.

    The collection "params" becomes the params; all others that `init` makes (BatchNorm's
    "batch_stats", …; Flax leaves sown "intermediates" out) become the state, which
    training updates. `key` feeds the streams "dropout" and "default".

    Args:
      module: a `flax.linen.Module` whose call takes the images first and gives logits. If it has
        an argument `train`, `training`, `is_training` or `deterministic`, that is set; otherwise
        it is called with the images alone.
      input_shape: (H, W, C) of one image.

    Returns:
      `Network(init, apply)` with logits in float32.

    Raises:
      ConfigError: if the call has further required arguments.

    Note:
      A module with BatchNorm but none of these arguments normalises in the same way in training
      and inference.

    Example:
      >>> import flax.linen as nn
      >>> network = linen(nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(10)]), (4, 4, 1))
      >>> params, state = network.init(jax.random.key(0))
      >>> network.apply(params, state, jnp.zeros((2, 4, 4, 1)))[0].shape
      (2, 10)
    """
    flag = _train_flag(module)

    def arguments(train):
        return {} if flag is None else {flag: (not train) if flag == "deterministic" else train}

    def init(key):
        params_key, dropout_key = jax.random.split(key)
        streams = {"params": params_key, "dropout": dropout_key, "default": dropout_key}
        images = jnp.zeros((1, *input_shape), jnp.float32)
        variables = dict(module.init(streams, images, **arguments(False)))
        return variables.pop("params", {}), variables

    def apply(params, state, images, *, train=False, key=None):
        variables = {"params": params, **state}
        streams = {} if key is None else {"dropout": key, "default": key}
        mutable = list(state) if train else False
        out = module.apply(variables, images, rngs=streams, mutable=mutable, **arguments(train))
        logits, changed = out if train else (out, {})
        return logits.astype(jnp.float32), {**state, **changed}

    return Network(init, apply)


def _train_flag(module: Any) -> str | None:
    """Returns the name of the argument that selects training or inference; None without one."""
    parameters = list(inspect.signature(type(module).__call__).parameters.values())[2:]
    flags = ("train", "training", "is_training", "deterministic")
    present = [p.name for p in parameters if p.name in flags]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unknown = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in variadic and p.name not in flags
    ]
    if unknown or len(present) > 1:
        raise ConfigError(
            f"{type(module).__name__}.__call__ must take images and at most one of "
            f"{', '.join(flags)}; it also needs {', '.join(unknown or present)}. Wrap it in a "
            f"module of one such argument"
        )
    return present[0] if present else None
