"""`fisher`: pruning, while training, what costs the loss least to second order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.prune.patterns import Structure
from hcjax.prune.scored import averaged


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
    structure: Structure | None = None,
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
      optax.GradientTransformationExtraArgs; its state holds masks, the averages (`scores`) and
      the optimiser's state. `update` needs the parameters.

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
    schedule = {"begin": begin, "end": end, "every": every, "initial": initial}
    schedule |= {"scope": scope, "structure": structure, "select": select}

    def rate(square, weight):
        return square * jnp.square(weight)

    return averaged(tx, sparsity, of=jnp.square, rate=rate, decay=decay, **schedule)
