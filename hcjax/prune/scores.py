"""Pruning scores: one table for pruning at once, in training, and of whole channels.

In: parameters, and for most scores gradients. Out: a tree of float arrays like the parameters; the
weights of the lowest scores are pruned. `SCORES` holds every score by name. To add one, write a
function of a weight and its gradient, and add a line: see docs/extending.md.

Most scores are a `Criterion`: a function of the weights, or of the weights and a mean over
gradients. `score`, `masks` and `shrink` take that mean over batches, `scored` over the steps of
a training. Two scores are plain functions of whole trees, and no training can use them by name:
`obd` needs products with the Hessian, and `random` a key; an optimiser is given neither.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax.core import registry
from hcjax.errors import ConfigError

Loss = Callable[[Any, Any], jax.Array]


class Criterion(NamedTuple):
    """A score of the weights and, unless `statistic` is None, of a mean over their gradients.

    All functions are of the arrays of one leaf, and elementwise or not.

    Attributes:
      score: `(weight, mean) -> float array` like the weight, or `(weight) -> float array` where
        `statistic` is None; weights of low scores are pruned first.
      statistic: `(weight, gradient) -> float array`; its mean is what `score` gets. By default the
        gradient itself. None: the score needs no gradients.
      decay: of the moving average that stands for the mean in training, in [0, 1). None: the
        statistics of all steps are added up instead.

    Example:
      >>> def saliency(weight, gradient):
      ...     return jnp.abs(weight) * jnp.sqrt(jnp.abs(gradient))
      >>> loss_fn, params = lambda w, x: (w * x).sum(), jnp.array([2.0, -1.0])
      >>> Criterion(saliency)(params, loss_fn=loss_fn, batches=[jnp.array([1.0, 9.0])]).tolist()
      [2.0, 3.0]
    """

    score: Callable[..., jax.Array]
    statistic: Callable[[jax.Array, jax.Array], jax.Array] | None = lambda weight, gradient: (
        gradient
    )
    decay: float | None = 0.99

    def check(self) -> None:
        """Raises ConfigError unless `score` takes the weight, and the mean where there is one."""
        expected = ("weight",) if self.statistic is None else ("weight", "mean")
        try:
            inspect.signature(self.score).bind(*expected)
        except TypeError as error:
            cure = "" if self.statistic is None else "; statistic=None for one of the weight alone"
            raise ConfigError(
                f"score {getattr(self.score, '__name__', self.score)} must take "
                f"({', '.join(expected)}): {error}{cure}"
            ) from error
        except ValueError:  # a function that does not say what it takes
            return

    def __call__(self, params: Any, **options: Any) -> Any:
        """Scores a tree of parameters; options as of `score` by name."""
        function = _function(self)
        registry.check(f"score {self.score.__name__}", function, options)
        return function(params, **options)


def magnitude(weight: jax.Array) -> jax.Array:
    """Scores by |w|.

    Reference:
      Han et al., "Learning both Weights and Connections", 2015, arXiv:1506.02626, section 3.

    Example:
      >>> magnitude(jnp.array([1.0, -2.0])).tolist()
      [1.0, 2.0]
    """
    return jnp.abs(weight)


def taylor(weight: jax.Array, gradient: jax.Array) -> jax.Array:
    """Scores by |g · w|: how much, to first order, the loss changes without the weight.

    g is a mean of gradients. Of a trained network this is the Taylor criterion; of a freshly
    initialised one it is SNIP, and `SCORES` has it under both names.

    Reference:
      Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
      2016, arXiv:1611.06440, equation 7. Lee et al., "SNIP", 2019, arXiv:1810.02340, equations 4
      to 6. Deviations: single weights; not divided by their sum, which orders them alike; in
      training a moving average of the gradients. SNIP's paper takes one batch.

    Example:
      >>> taylor(jnp.array([-1.0, 2.0]), jnp.array([2.0, 0.5])).tolist()
      [2.0, 1.0]
    """
    return jnp.abs(gradient * weight)


def fisher(weight: jax.Array, square: jax.Array) -> jax.Array:
    """Scores by f · w²: twice the cost of the weight, to second order, at a minimum of the loss.

    f, the mean of squared gradients, stands for the curvature of the loss. The scores of all layers
    are in the same unit, so one threshold serves them all.

    Reference:
      Theis, Korshunova, Tejani and Huszár, "Faster gaze prediction with dense networks and Fisher
      pruning", 2018, arXiv:1801.05787, equation 5. Deviations: gradients of batches, not of single
      examples; single weights; in training a moving average.

    Example:
      >>> fisher(jnp.array([3.0, 1.0]), jnp.array([0.5, 1.0])).tolist()
      [4.5, 1.0]
    """
    return square * jnp.square(weight)


def movement(weight: jax.Array, moved: jax.Array) -> jax.Array:
    """Scores by -Σ w · g, over the steps of a training: above 0 where descent moves w from zero.

    At fixed weights it is the mean of -w · g over batches: what one step of descent would do.

    Reference:
      Sanh, Wolf and Rush, "Movement Pruning", 2020, arXiv:2005.07683, equation 4.

    Example:
      >>> movement(jnp.array([1.0]), jnp.array([-3.0])).tolist()
      [-3.0]
    """
    del weight  # it is in the sum already
    return moved


def obd(
    params: Any, *, loss_fn: Loss, batches: Iterable[Any], key: jax.Array, samples: int = 1
) -> Any:
    """Scores a tree by h · w² / 2: how much the loss rises without each weight, at a minimum.

    h is the diagonal of the loss's Hessian H, by Hutchinson's estimate: the mean of v · (H v) over
    random signs v. It is exact from one sample where H is diagonal; elsewhere its variance is that
    of the sums of H's other entries. A Fisher matrix leaves curvature out; this does not.

    Args:
      params: pytree of float arrays.
      loss_fn: `(params, batch) -> float[]`, twice differentiable: the mean loss of a batch.
      batches: pytrees of arrays, at least one, of equal weight.
      key: PRNG key of the signs; batch i, sample j uses fold_in(fold_in(key, i), j).
      samples: sign vectors for each batch, >= 1.

    Returns:
      Pytree of float32 arrays like `params`. Where a score is below 0, the estimate of h is below
      0: the loss would fall.

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
        _float32(diagonal(params, batch, jax.random.fold_in(jax.random.fold_in(key, i), j)))
        for i, batch in enumerate(batches)
        for j in range(samples)
    )
    return jax.tree.map(lambda h, w: h * jnp.square(w) / 2, mean, params)


def random(params: Any, *, key: jax.Array) -> Any:
    """Scores a tree by uniform random numbers: the baseline of every other score.

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


# name -> Criterion, or a function (params, **options) -> tree of scores
SCORES: dict[str, Criterion | Callable[..., Any]] = {
    "fisher": Criterion(fisher, statistic=lambda weight, gradient: jnp.square(gradient)),
    "magnitude": Criterion(magnitude, statistic=None),
    "movement": Criterion(movement, lambda weight, gradient: -gradient * weight, decay=None),
    "obd": obd,
    "random": random,
    "snip": Criterion(taylor),
    "taylor": Criterion(taylor),
}


def score(name: str, params: Any, **options: Any) -> Any:
    """Scores parameters by the score of that name.

    Args:
      name: a key of `SCORES`.
      params: pytree of float arrays.
      **options: that score's own keywords. Those that need gradients take `loss_fn`, `(params,
        batch) -> float[]`, the mean loss of a batch, and `batches`, at least one pytree of arrays,
        of equal weight. "obd" and "random" take a `key`.

    Returns:
      Pytree of float arrays like `params`.

    Raises:
      ConfigError: if the name or an option is unknown, one is missing, or there are no batches.

    Example:
      >>> from hcjax import prune
      >>> params = {"w": jnp.array([[1.0, -4.0], [0.5, 3.0]])}
      >>> scores = score("random", params, key=jax.random.key(0))
      >>> int(prune.masks(params, sparsity=0.75, scores=scores)["w"].sum())
      1
    """
    function = _function(registry.choose("score", SCORES, name))
    registry.check(f"score '{name}'", function, options)
    return function(params, **options)


def resolved(scores: Any, params: Any, options: Mapping[str, Any]) -> Any:
    """Turns a score's name, or a criterion, and its options into a tree; a tree stays as it is.

    Raises:
      TypeError: if there are options without a name.
      ConfigError: as of `score`.
    """
    if isinstance(scores, str):
        return score(scores, params, **options)
    if isinstance(scores, Criterion):
        return scores(params, **options)
    if options:
        raise TypeError(
            f"unexpected keyword argument '{next(iter(options))}': options of a score go with its "
            "name, e.g. scores='taylor'"
        )
    return scores


def _function(entry: Criterion | Callable[..., Any]) -> Callable[..., Any]:
    """Converts an entry to a function of whole trees that takes only the keywords it needs."""
    if not isinstance(entry, Criterion):
        return entry
    entry.check()
    return partial(_of_weights if entry.statistic is None else _of_gradients, criterion=entry)


def _of_weights(params: Any, *, criterion: Criterion) -> Any:
    return jax.tree.map(criterion.score, params)


def _of_gradients(
    params: Any, *, criterion: Criterion, loss_fn: Loss, batches: Iterable[Any]
) -> Any:
    gradient = jax.jit(jax.grad(loss_fn))
    gradients = (_float32(gradient(params, batch)) for batch in batches)
    mean = _mean(jax.tree.map(criterion.statistic, params, each) for each in gradients)
    return jax.tree.map(criterion.score, params, mean)


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _mean(trees: Iterable[Any]) -> Any:
    """Computes the mean of trees."""
    total, count = None, 0
    for tree in trees:
        total = tree if total is None else jax.tree.map(jnp.add, total, tree)
        count += 1
    if not count:
        raise ConfigError("this score needs at least one batch, and there are none")
    return jax.tree.map(lambda x: x / count, total)
