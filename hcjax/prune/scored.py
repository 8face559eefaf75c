"""`scored`: an optimiser that prunes by what it has seen of the gradients, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax.errors import ConfigError
from hcjax.prune.masked import held
from hcjax.prune.schedules import gradually


class ScoredState(NamedTuple):
    """Steps taken so far, masks, what was seen so far, and the state of the optimiser inside.

    count: int32[]. masks: as of `GradualState`. scores: float32 arrays like the parameters.
    """

    count: jax.Array
    masks: Any
    scores: Any
    inner: Any


def scored(
    tx: optax.GradientTransformation,
    sparsity: float | None,
    *,
    see: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    rate: Callable[[jax.Array, jax.Array], jax.Array] = lambda score, weight: score,
    **schedule: Any,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimiser that prunes the weights of the lowest rates, more and more.

    Args:
      tx: the optimiser.
      see: `(score, gradient, weight) -> score`, of a leaf, at every step; the first score is 0.
      rate: `(score, weight) -> float array`, what masks are taken of.
      sparsity, schedule: as of `gradual`; of its keywords all but `sparsity` must be given.

    Returns:
      optax.GradientTransformationExtraArgs, whose state is a `ScoredState`. `update` needs the
      parameters.

    Raises:
      ConfigError: if an argument is not legal.

    Example:
      >>> see = lambda score, gradient, weight: score + jnp.abs(gradient)
      >>> schedule = {"begin": 0, "end": 1, "every": 1, "initial": 0.5}
      >>> schedule |= {"scope": "global", "structure": None, "select": "w"}
      >>> tx = scored(optax.sgd(0.0), 0.5, see=see, **schedule)
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> updates, state = tx.update({"w": jnp.array([[0.1, -1.0]])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 1.0]]
    """
    tx = optax.with_extra_args_support(tx)
    start, renew = gradually(sparsity, **schedule)

    def init(params):
        scores = optax.tree.zeros_like(params, jnp.float32)
        return ScoredState(jnp.zeros((), jnp.int32), start(params), scores, tx.init(params))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        scores = jax.tree.map(see, state.scores, grads, params)
        updates, inner = tx.update(grads, state.inner, params, **extra)
        found = renew(state.masks, state.count, params, jax.tree.map(rate, scores, params))
        return held(found, updates, params), ScoredState(state.count + 1, found, scores, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged(
    tx: optax.GradientTransformation,
    sparsity: float | None,
    *,
    of: Callable[[jax.Array], jax.Array],
    rate: Callable[[jax.Array, jax.Array], jax.Array],
    decay: float,
    **schedule: Any,
) -> optax.GradientTransformationExtraArgs:
    """Returns `scored` by the moving average of a function of the gradients.

    Args:
      tx: the optimiser.
      of: `gradient -> float array`, what is averaged.
      rate: `(average, weight) -> float array`, what masks are taken of.
      decay: of the average, in [0, 1).
      sparsity, schedule: as of `scored`.

    Raises:
      ConfigError: if an argument is not legal.
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"decay must be in [0, 1), got {decay}")

    def see(mean, gradient, weight):
        del weight
        return decay * mean + (1 - decay) * of(gradient.astype(mean.dtype))

    return scored(tx, sparsity, see=see, rate=rate, **schedule)
