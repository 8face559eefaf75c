"""Scores: what each weight is worth; the lowest go first. Adding one is a function and a line.

In: parameters, and for some a loss and batches. Out: a tree of float arrays like the parameters,
for `masks(params, scores=...)`. `movement`, which needs a whole training, is among the schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hcjax.core import registry
from hcjax.errors import ConfigError

Loss = Callable[[Any, Any], jax.Array]


def magnitude(params: Any) -> Any:
    """Returns |w| of each weight.

    Args:
      params: pytree of float arrays.

    Returns:
      Pytree like `params`.

    Reference:
      Han et al., "Learning both Weights and Connections", 2015, arXiv:1506.02626, section 3.

    Example:
      >>> magnitude({"w": jnp.array([1.0, -2.0])})["w"].tolist()
      [1.0, 2.0]
    """
    return jax.tree.map(jnp.abs, params)


def taylor(params: Any, *, loss_fn: Loss, batches: Iterable[Any]) -> Any:
    """Returns |g · w| of each weight: by how much, to first order, the loss changes without it.

    g is the mean of the batches' gradients. Of a trained network this is the Taylor criterion; of
    one as it was initialised it is SNIP, and `SCORES` has it under both names.

    Args:
      params: pytree of float arrays.
      loss_fn: `(params, batch) -> float[]`, the mean loss of a batch.
      batches: pytrees of arrays, at least one; each counts alike. SNIP's paper takes one.

    Returns:
      Pytree of float32 arrays like `params`.

    Raises:
      ConfigError: if there are no batches.

    Reference:
      Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
      2016, arXiv:1611.06440, equation 7. Lee et al., "SNIP", 2019, arXiv:1810.02340, equations 4
      to 6. Deviations: single weights, and not divided by their sum, which orders them alike.

    Example:
      >>> loss_fn = lambda params, x: (params["w"] * x).sum()
      >>> batches = [jnp.array([1.0, 0.0]), jnp.array([3.0, 1.0])]
      >>> taylor({"w": jnp.array([-1.0, 2.0])}, loss_fn=loss_fn, batches=batches)["w"].tolist()
      [2.0, 1.0]
    """
    gradient = jax.jit(jax.grad(loss_fn))
    mean = _mean(gradient(params, batch) for batch in batches)
    return jax.tree.map(lambda g, w: jnp.abs(g * w), mean, params)


def obd(
    params: Any, *, loss_fn: Loss, batches: Iterable[Any], key: jax.Array, samples: int = 1
) -> Any:
    """Returns h · w² / 2 of each weight: by how much the loss rises without it, at a minimum.

    h is the diagonal of the loss's Hessian H, by Hutchinson's estimate: the mean of v · (H v) over
    random signs v. It is exact from one sample where H is diagonal; elsewhere its variance is that
    of the sums of H's other entries. No curvature is left out, as a Fisher matrix leaves it.

    Args:
      params: pytree of float arrays.
      loss_fn: `(params, batch) -> float[]`, twice differentiable: the mean loss of a batch.
      batches: pytrees of arrays, at least one; each counts alike.
      key: PRNG key of the signs; batch i, sample j takes fold_in(fold_in(key, i), j).
      samples: sign vectors for each batch, >= 1.

    Returns:
      Pytree of float32 arrays like `params`. A score below 0 says that the estimate of h is: the
      loss would fall.

    Raises:
      ConfigError: if there are no batches, or `samples` is below 1.

    Reference:
      LeCun, Denker and Solla, "Optimal Brain Damage", 1990, equation 5. Deviation: they propagate
      an approximation of h backwards (Gauss-Newton); for Hutchinson's see Bekas, Kokiopoulou and
      Saad, "An estimator for the diagonal of a matrix", 2007.

    Example:
      >>> loss_fn = lambda params, x: (x * params**2).sum()
      >>> obd(jnp.array([1.0, 3.0]), loss_fn=loss_fn, batches=[2.0], key=jax.random.key(0)).tolist()
      [2.0, 18.0]
    """
    if samples < 1:
        raise ConfigError(f"samples must be >= 1, got {samples}")

    @jax.jit
    def diagonal(params, batch, key):
        signs = optax.tree.random_like(key, params, jax.random.rademacher)
        product = jax.jvp(lambda p: jax.grad(loss_fn)(p, batch), (params,), (signs,))[1]
        return jax.tree.map(jnp.multiply, signs, product)

    mean = _mean(
        diagonal(params, batch, jax.random.fold_in(jax.random.fold_in(key, i), j))
        for i, batch in enumerate(batches)
        for j in range(samples)
    )
    return jax.tree.map(lambda h, w: h * jnp.square(w) / 2, mean, params)


def random(params: Any, *, key: jax.Array) -> Any:
    """Returns a uniform random number for each weight: the baseline of every other score.

    Args:
      params: pytree of float arrays.
      key: PRNG key.

    Returns:
      Pytree of float32 arrays like `params`, in [0, 1).

    Example:
      >>> random({"w": jnp.ones((2, 3))}, key=jax.random.key(0))["w"].shape
      (2, 3)
    """
    return optax.tree.random_like(key, params, jax.random.uniform, jnp.float32)


SCORES = {
    "magnitude": magnitude,
    "obd": obd,
    "random": random,
    "snip": taylor,
    "taylor": taylor,
}


def score(name: str, params: Any, **options: Any) -> Any:
    """Returns the scores of that name.

    Args:
      name: a key of `SCORES`.
      params: pytree of float arrays.
      **options: that score's own keywords.

    Returns:
      Pytree of float arrays like `params`.

    Raises:
      ConfigError: if the name or an option is unknown, or one is missing.

    Example:
      >>> from hcjax import prune
      >>> params = {"w": jnp.array([[1.0, -4.0], [0.5, 3.0]])}
      >>> scores = score("random", params, key=jax.random.key(0))
      >>> int(prune.masks(params, sparsity=0.75, scores=scores)["w"].sum())
      1
    """
    function = registry.choose("score", SCORES, name)
    registry.check(f"score '{name}'", function, options)
    return function(params, **options)


def _mean(trees: Iterable[Any]) -> Any:
    """Returns the mean of trees, in float32."""
    total, count = None, 0
    for tree in trees:
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
        total = wide if total is None else jax.tree.map(jnp.add, total, wide)
        count += 1
    if not count:
        raise ConfigError("this score needs at least one batch, and there are none")
    return jax.tree.map(lambda x: x / count, total)
