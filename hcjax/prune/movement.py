"""`movement`: scores that add up while training, from gradients as they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optax

from hcjax import trees
from hcjax.prune.patterns import Structure
from hcjax.prune.scored import scored


def movement(
    tx: optax.GradientTransformation,
    sparsity: float | None,
    *,
    begin: int,
    end: int,
    every: int = 100,
    initial: float = 0.0,
    scope: str | Mapping[str, float] = "global",
    structure: Structure | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimiser that prunes, more and more, what training moves towards zero.

    The score of a weight is -Σ w · g over all steps, with g the gradients as they come in: above 0
    where descent moves it away from zero. Hence this wraps the optimiser, where `gradual` follows
    it; the rest is as there.

    Args:
      tx: the optimiser.
      sparsity, begin, end, every, initial, scope, structure, select: as of `gradual`.

    Returns:
      optax.GradientTransformationExtraArgs; its state holds scores, masks and the optimiser's
      state. `update` needs the parameters.

    Raises:
      ConfigError: if an argument is not legal.

    Note:
      Made for fine-tuning, where magnitudes are the task's that was trained before.

    Reference:
      Sanh, Wolf and Rush, "Movement Pruning", 2020, arXiv:2005.07683, equation 4 and section 4.
      Deviation: weights that went are exactly zero, where the paper trains them on behind the mask;
      their scores stay as they are, and they come back, from zero, when others fall below.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = movement(optax.sgd(0.5), 0.5, begin=0, end=2, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[1.0, -3.0, 0.5, 2.0]])}
      >>> grads = {"w": jnp.array([[-1.0, -1.0, -1.0, 1.0]])}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist(), state.scores["w"].tolist()
      ([[1.5, 0.0, 1.0, 0.0]], [[1.0, -3.0, 0.5, -2.0]])
    """
    schedule = {"begin": begin, "end": end, "every": every, "initial": initial}
    schedule |= {"scope": scope, "structure": structure, "select": select}

    def see(score, gradient, weight):
        return score - gradient.astype(score.dtype) * weight

    return scored(tx, sparsity, see=see, **schedule)
