"""`scored`: an optimiser that prunes by any score of the gradients that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.core import brief, registry
from hcjax.errors import ConfigError
from hcjax.prune.masked import held
from hcjax.prune.patterns import Structure
from hcjax.prune.schedules import check_plain, gradually
from hcjax.prune.scores import SCORES, Criterion


class ScoredState(NamedTuple):
    """The state of `scored`.

    Attributes:
      count: int32[], steps taken so far.
      masks: as of `GradualState`.
      scores: statistics of the gradients, float32 arrays like the parameters.
      inner: the state of the wrapped optimiser.
    """

    count: jax.Array
    masks: Any
    scores: Any
    inner: Any

    __repr__ = brief.record


def scored(
    tx: optax.GradientTransformation,
    sparsity: float | None,
    *,
    begin: int,
    end: int,
    score: str | Criterion | None = None,
    see: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    rate: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    decay: float | None = None,
    every: int = 100,
    initial: float = 0.0,
    scope: str | Mapping[str, float] = "global",
    structure: Structure | None = None,
    select: trees.Select | str | Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimiser so that it prunes the weights of the lowest scores, more and more.

    It wraps the optimiser, where `gradual` follows it, because it needs the gradients themselves.
    Pruned weights are exactly zero; their statistics go on, and they come back, from zero, when
    the scores of others fall below theirs.

    Args:
      tx: the optimiser.
      score: the name of a `Criterion` in `SCORES`, or one.
      see, rate: instead of `score`, the two functions of a leaf that it stands for: `(statistic,
        gradient, weight) -> statistic` at every step, which begins with 0; and `(statistic,
        weight) -> score`, by default the statistic.
      decay: of the moving average of gradients, in [0, 1); None: as `score` has it.
      sparsity, begin, end, every, initial, scope, structure, select: as of `gradual`.

    Returns:
      optax.GradientTransformationExtraArgs, whose state is a `ScoredState`. `update` needs the
      parameters.

    Raises:
      ConfigError: if an argument is not legal, or training cannot use the score of that name.

    Example:
      >>> tx = scored(optax.sgd(0.0), 0.5, score="taylor", begin=0, end=1, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> updates, state = tx.update({"w": jnp.array([[0.1, -1.0]])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 1.0]]
    """
    if (score is None) == (see is None):
        raise ConfigError("give one of score, the name of a score, and see, a function")
    check_plain(decay=decay)
    if score is not None:
        see, rate = _functions(score, decay)
    rate = rate or (lambda statistic, weight: statistic)
    tx = optax.with_extra_args_support(tx)
    start, renew = gradually(sparsity, begin=begin, end=end, every=every, initial=initial,
                              scope=scope, structure=structure, select=select)  # fmt: skip

    def init(params):
        scores = optax.tree.zeros_like(params, jnp.float32)
        return ScoredState(jnp.zeros((), jnp.int32), start(params), scores, tx.init(params))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        scores = jax.tree.map(see, state.scores, grads, params)
        updates, inner = tx.update(grads, state.inner, params, **extra)
        masks = renew(state.masks, state.count, params, jax.tree.map(rate, scores, params))
        return held(masks, updates, params), ScoredState(state.count + 1, masks, scores, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def taylor(
    tx: optax.GradientTransformation, sparsity: float | None, **schedule: Any
) -> optax.GradientTransformationExtraArgs:
    """Prunes in training by |g · w|, the change of the loss to first order; see `scores.taylor`.

    Args:
      tx, sparsity: as of `scored`.
      schedule: further keywords of `scored`, of which `begin` and `end` must be given.

    Example:
      >>> tx = taylor(optax.sgd(0.0), 0.5, begin=0, end=1, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> updates, state = tx.update({"w": jnp.array([[0.1, -1.0]])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 1.0]]
    """
    return scored(tx, sparsity, score="taylor", **_spread(schedule))


def fisher(
    tx: optax.GradientTransformation, sparsity: float | None, **schedule: Any
) -> optax.GradientTransformationExtraArgs:
    """Prunes in training by f · w², the cost of a weight to second order; see `scores.fisher`.

    Args:
      tx, sparsity: as of `scored`.
      schedule: further keywords of `scored`, of which `begin` and `end` must be given.

    Example:
      >>> tx = fisher(optax.sgd(0.0), 0.5, begin=0, end=1, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> updates, state = tx.update({"w": jnp.array([[0.1, 1.0]])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 1.0]]
    """
    return scored(tx, sparsity, score="fisher", **_spread(schedule))


def movement(
    tx: optax.GradientTransformation, sparsity: float | None, **schedule: Any
) -> optax.GradientTransformationExtraArgs:
    """Prunes in training by -Σ w · g: weights that descent moves towards zero; for fine-tuning.

    Magnitudes are those of the task that was trained before; movements are of this one.

    Args:
      tx, sparsity: as of `scored`.
      schedule: further keywords of `scored`, of which `begin` and `end` must be given.

    Reference:
      Sanh, Wolf and Rush, "Movement Pruning", 2020, arXiv:2005.07683, equation 4 and section 4.
      Deviation: pruned weights are exactly zero, where the paper trains them on behind the mask;
      their scores stay as they are, and they come back, from zero, when others fall below.

    Example:
      >>> tx = movement(optax.sgd(0.5), 0.5, begin=0, end=2, every=1, initial=0.5)
      >>> params = {"w": jnp.array([[1.0, -3.0, 0.5, 2.0]])}
      >>> grads = {"w": jnp.array([[-1.0, -1.0, -1.0, 1.0]])}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist(), state.scores["w"].tolist()
      ([[1.5, 0.0, 1.0, 0.0]], [[1.0, -3.0, 0.5, -2.0]])
    """
    return scored(tx, sparsity, score="movement", **_spread(schedule))


def in_training() -> dict[str, Criterion]:
    """Lists the scores of `SCORES` that `scored` can use, by name.

    Example:
      >>> "taylor" in in_training(), "random" in in_training()
      (True, False)
    """
    return {name: entry for name, entry in SCORES.items() if isinstance(entry, Criterion)}


def _spread(schedule: dict[str, Any]) -> dict[str, Any]:
    """Returns keywords; raises ConfigError where optax.inject_hyperparams has made one of all."""
    if "schedule" in schedule:
        raise ConfigError(
            "optax.inject_hyperparams cannot take keywords that are handed on: inject "
            "prune.scored with score=, or the optimiser inside"
        )
    return schedule


def _functions(score: str | Criterion, decay: float | None) -> tuple[Callable, Callable]:
    """Makes the functions `see` and `rate` of `scored` from a criterion."""
    if not isinstance(score, Criterion):
        score = registry.choose("score of a training", in_training(), score)
    score.check()
    decay = score.decay if decay is None else decay
    if decay is not None and not 0 <= decay < 1:
        raise ConfigError(f"decay must be in [0, 1), got {decay}")
    statistic = score.statistic
    if statistic is None:
        return lambda zero, gradient, weight: zero, lambda zero, weight: score.score(weight)

    def see(mean, gradient, weight):
        new = statistic(weight, gradient.astype(mean.dtype))
        return mean + new if decay is None else decay * mean + (1 - decay) * new

    return see, lambda mean, weight: score.score(weight, mean)
