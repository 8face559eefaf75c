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

    Put it last in `optax.chain`: see `hold` for what must change updates after it.

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
            if isinstance(weight, optax.MaskedNode):
                return weight  # another part of `optax.partition` trains it
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

    Where the masks have an `optax.MaskedNode()`, updates stay as they are.

    Example:
      >>> held(jnp.array([True, False]), jnp.array([0.5, 0.5]), jnp.array([1.0, 2.0])).tolist()
      [0.5, -2.0]
    """

    def one(mask, update, param):
        return update if _is_left_out(mask) else jnp.where(mask, update, -param)

    return jax.tree.map(one, masks, updates, params, is_leaf=_is_left_out)


def hold(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimiser that prunes somewhere inside: what its masks call zero is zero.

    Whatever changes updates after `masked`, `gradual`, `scored` or `rigl` would move pruned
    weights: what follows it in a chain, or wraps it, e.g. `optax.contrib.sam`, `schedule_free`.
    `fit` and `make_train_step` hold their optimiser; a loop of your own needs this. Better is
    `optax.chain(optax.contrib.sam(...), gradual(...))`: a wrapper then sees no pruning.

    Args:
      tx: the optimiser, around which nothing changes the updates.

    Returns:
      The same optimiser, with the same state; `update` needs the parameters.

    Raises:
      ConfigError: from `update`, if the masks inside are of another tree than the parameters, as
        under `optax.lookahead` and `optax.flatten`.

    Note:
      `optax.contrib.schedule_free_eval_params` computes other weights than these: `prune.apply`
      makes those sparse, with the masks of `optax.tree.get(opt_state, "masks")`.

    Example:
      >>> masks, params = {"w": jnp.array([True, False])}, {"w": jnp.array([1.0, -3.0])}
      >>> tx = hold(optax.chain(masked(masks), optax.scale(-0.5)))
      >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [0.5, 0.0]
    """
    tx = optax.with_extra_args_support(tx)

    def update(grads, state, params=None, **extra):
        updates, state = tx.update(grads, state, params, **extra)
        for found in _pruning(state):
            if params is None:
                raise ValueError(optax.NO_PARAMS_MSG)
            try:
                updates = held(found.masks, updates, params)
            except ValueError as error:
                raise ConfigError(
                    f"the masks of {type(found).__name__} are of another tree than the parameters: "
                    "what wraps it, e.g. optax.lookahead or optax.flatten, changes the tree; prune "
                    f"outside of it, optax.chain(optax.lookahead(...), ...): {error}"
                ) from error
        return updates, state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _is_left_out(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _pruning(state: Any) -> list[Any]:
    """Finds the states with masks of this package in an optimiser's state, the outermost first."""

    def prunes(node):
        return isinstance(node, tuple) and "masks" in getattr(node, "_fields", ())

    found = [node for node in jax.tree.leaves(state, is_leaf=prunes) if prunes(node)]
    return found + [
        inner
        for node in found
        for name, part in node._asdict().items()
        if name != "masks"
        for inner in _pruning(part)
    ]
