"""`fisher`: pruning, while training, what costs the loss least to second order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.transforms.prune.masked import held
from hcjax.transforms.prune.masks import Block
from hcjax.transforms.prune.schedules import gradually


class FisherState(NamedTuple):
    """Steps taken, the masks in force, the mean squared gradients, and the optimiser's state.

    count: int32[]. masks: as in `GradualState`. squares: float32 arrays like the parameters.
    """

    count: jax.Array
    masks: Any
    squares: Any
    inner: Any


def fisher(
    tx: optax.GradientTransformation,
    sparsity: float | None,
    *,
    begin: int,
    end: int,
    every: int = 100,
    initial: float = 0.0,
    decay: float = 0.99,
    scope: str | Mapping[str, float] = "global",
    structure: tuple[int, int] | Block | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimiser that prunes the weights of least f · w², more and more.

    f, the moving average of squared gradients, stands for the curvature of the loss: f · w² / 2 is
    what it costs to take a weight out, to second order, at a minimum. The scores of all layers are
    in the same unit, so one threshold serves them all.

    Args:
      tx: the optimiser.
      decay: of the moving average, in [0, 1).
      sparsity, begin, end, every, initial, scope, structure, select: as of `gradual`.

    Returns:
      optax.GradientTransformationExtraArgs; its state holds masks, squares and the optimiser's
      state. `update` needs the parameters.

    Raises:
      ConfigError: if an argument is not legal.

    Reference:
      Theis, Korshunova, Tejani and Huszár, "Faster gaze prediction with dense networks and Fisher
      pruning", 2018, arXiv:1801.05787, equation 5. Deviations: gradients of batches, not of single
      examples; a moving average; single weights.

    Example:
      >>> tx = fisher(optax.sgd(0.0), 0.5, begin=0, end=1, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> updates, state = tx.update({"w": jnp.array([[0.1, 1.0]])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 1.0]]
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"decay must be in [0, 1), got {decay}")
    tx = optax.with_extra_args_support(tx)
    start, renew = gradually(sparsity, begin=begin, end=end, every=every, initial=initial,
                              scope=scope, structure=structure, select=select)  # fmt: skip

    def init(params):
        squares = optax.tree.zeros_like(params, jnp.float32)
        return FisherState(jnp.zeros((), jnp.int32), start(params), squares, tx.init(params))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        squares = jax.tree.map(
            lambda s, g: decay * s + (1 - decay) * jnp.square(g.astype(s.dtype)),
            state.squares,
            grads,
        )
        updates, inner = tx.update(grads, state.inner, params, **extra)
        scores = jax.tree.map(lambda s, w: s * jnp.square(w), squares, params)
        found = renew(state.masks, state.count, params, scores)
        return held(found, updates, params), FisherState(state.count + 1, found, squares, inner)

    return optax.GradientTransformationExtraArgs(init, update)
