"""`masked`: keeps pruned weights at exactly zero while the others are trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax.core import brief
from hcjax.errors import ConfigError


class MaskedState(NamedTuple):
    """The state of `masked`: bool arrays like the parameters."""

    masks: Any

    __repr__ = brief.record


def masked(masks: Any) -> optax.GradientTransformation:
    """Keeps pruned weights at exactly zero during training, with constant masks.

    Put it last in `optax.chain`.

    Args:
      masks: from `masks`, of the structure of the trained parameters.

    Returns:
      optax.GradientTransformation; its state holds the masks. `update` needs the parameters.

    Raises:
      ConfigError: from `init`, if the masks do not have the structure and shapes of the parameters.

    Example:
      >>> tx = optax.chain(optax.sgd(0.5), masked({"w": jnp.array([True, False])}))
      >>> params = {"w": jnp.array([1.0, -3.0])}
      >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [0.5, 0.0]
    """

    def init(params):
        def check(mask, weight):
            if jnp.shape(mask) not in ((), weight.shape):
                raise ConfigError(f"a mask has shape {jnp.shape(mask)}, its weight {weight.shape}")
            return jnp.array(
                mask, bool, copy=True
            )  # a donated state must not delete the caller's masks

        try:
            return MaskedState(jax.tree.map(check, masks, params))
        except ValueError as error:
            raise ConfigError(f"masks must be like the parameters: {error}") from error

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        return held(state.masks, updates, params), state

    return optax.GradientTransformation(init, update)


def held(masks: Any, updates: Any, params: Any) -> Any:
    """Replaces updates by -p where a mask is False, so that the weight becomes exactly zero.

    Example:
      >>> held(jnp.array([True, False]), jnp.array([0.5, 0.5]), jnp.array([1.0, 2.0])).tolist()
      [0.5, -2.0]
    """
    return jax.tree.map(lambda m, u, p: jnp.where(m, u, -p), masks, updates, params)
