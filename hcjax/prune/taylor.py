"""`taylor`: pruning, while training, what costs the loss least to first order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.prune.patterns import Structure
from hcjax.prune.scored import averaged


def taylor(
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
    """Returns an optimiser that prunes the weights of least |g · w|, more and more.

    g is the moving average of the gradients as they come in; |g · w| is how much the loss changes
    if the weight goes, to first order.

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
      Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
      2017, arXiv:1611.06440, equation 7; Lee, Ajanthan and Torr, "SNIP", 2019, arXiv:1810.02340,
      for single weights, at once: see `score`. Deviation: a moving average.

    Example:
      >>> tx = taylor(optax.sgd(0.0), 0.5, begin=0, end=1, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> updates, state = tx.update({"w": jnp.array([[0.1, -1.0]])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 1.0]]
    """
    schedule = {"begin": begin, "end": end, "every": every, "initial": initial}
    schedule |= {"scope": scope, "structure": structure, "select": select}

    def rate(mean, weight):
        return jnp.abs(mean * weight)

    return averaged(tx, sparsity, of=lambda gradient: gradient, rate=rate, decay=decay, **schedule)
