"""Auto-PGD: projected gradient ascent with momentum that chooses its own step size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.attack import balls
from hcjax.attack.objectives import margin, target_of, targeted_dlr
from hcjax.losses import cross_entropy

_MOMENTUM = 0.75  # share of the new step
_RISES = 0.75  # share of steps that must raise the loss for the step size to stay
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06  # of all steps: first period, its decrease, its least


class _Search(NamedTuple):
    """The state of a search; arrays have one entry an example.

    best: the point of the greatest loss so far, and its gradient; found: the last misclassified
    point, else the example. rises: steps since the last checkpoint that raised the loss. halved:
    whether the last checkpoint halved the step.
    """

    step: jax.Array
    point: jax.Array
    before: jax.Array
    loss: jax.Array
    gradient: jax.Array
    best: jax.Array
    best_loss: jax.Array
    best_gradient: jax.Array
    found: jax.Array
    fooled: jax.Array
    length: jax.Array
    rises: jax.Array
    at_checkpoint: jax.Array
    halved: jax.Array


def checkpoints(steps: int) -> np.ndarray:
    """Returns int[steps]: at a step that ends a period its length, else 0.

    Periods p_1 = 0.22, p_(j+1) = max(p_j - 0.03, 0.06), times the number of steps.

    Example:
      >>> np.flatnonzero(checkpoints(100)).tolist()
      [21, 40, 56, 69, 79, 86, 92, 98]
    """
    ends, period, since = np.zeros(steps, np.int32), max(int(_FIRST * steps), 1), 0
    for step in range(steps):
        since += 1
        if since == period:
            ends[step], since = period, 0
            period = max(period - max(int(_SHRINK * steps), 1), max(int(_LEAST * steps), 1))
    return ends


def apgd(
    apply: Callable,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    loss: Callable = cross_entropy,
) -> jax.Array:
    """Moves each example by Auto-PGD, until all are misclassified or for so many steps.

    z = project(x_k + η · ∇ loss), x_(k+1) = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1))).
    η starts at 2 · eps; at the end of a period, an example whose loss rose in 75 % of its steps or
    less, or whose best loss and η are those of the period before, goes on from its best point with
    half the step.

    Args:
      apply: `(params, inputs) -> logits float[N, K]`, differentiable in the inputs.
      params: of `apply`.
      inputs: float32[N, ...] in 0..1.
      labels: int[N].
      key: PRNG key of the start.
      eps: radius >= 0, where a pixel is 0..1.
      norm: "linf" or "l2". Static.
      steps: >= 1. Static.
      loss: `(logits, labels) -> float[N]`, e.g. `losses.cross_entropy` or `objectives.dlr`. Static.

    Returns:
      float32[N, ...] in 0..1, within eps of the inputs: a misclassified point where one was met,
      else that of the greatest loss.

    Raises:
      ConfigError: if eps or the norm is illegal.

    Reference:
      Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
      parameter-free attacks", 2020, arXiv:2003.01690, algorithm 1. Deviations: the start is moved
      to the ball's surface as in the authors' code, and the search ends once all examples of the
      batch are misclassified.

    Example:
      >>> net = lambda p, x: x @ p
      >>> w, x = jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.array([[0.25, 0.5]])
      >>> apgd(net, w, x, jnp.array([0]), jax.random.key(0), eps=0.5)[0, 0].item()
      0.0
    """
    balls.check(eps, norm)

    def value(x):
        logits = apply(params, x)
        each = loss(logits, labels)
        return each.sum(), (each, margin(logits, labels) > 0)

    measured = jax.grad(value, has_aux=True)
    first = balls.project(inputs + eps * _direction(key, inputs, norm), inputs, eps, norm)
    gradient, (each, fooled) = measured(first)
    ends = jnp.asarray(checkpoints(steps))
    count = len(inputs)
    search = _Search(
        step=jnp.zeros((), jnp.int32), point=first, before=first, loss=each, gradient=gradient,
        best=first, best_loss=each, best_gradient=gradient,
        found=jnp.where(balls.like(fooled, inputs), first, inputs), fooled=fooled,
        length=jnp.full(count, 2.0 * eps), rises=jnp.zeros(count, jnp.int32),
        at_checkpoint=each, halved=jnp.ones(count, bool),
    )  # fmt: skip

    def move(s: _Search) -> _Search:
        share = jnp.where(s.step > 0, _MOMENTUM, 1.0)
        point = s.point + balls.like(s.length, inputs) * balls.ascent(s.gradient, norm)
        point = balls.project(point, inputs, eps, norm)
        point = s.point + share * (point - s.point) + (1 - share) * (s.point - s.before)
        point = balls.project(point, inputs, eps, norm)
        gradient, (each, wrong) = measured(point)
        found = jnp.where(balls.like(wrong, inputs), point, s.found)
        better = each > s.best_loss
        here = balls.like(better, inputs)
        s = s._replace(
            step=s.step + 1, point=point, before=s.point, loss=each, gradient=gradient,
            best=jnp.where(here, point, s.best), best_loss=jnp.where(better, each, s.best_loss),
            best_gradient=jnp.where(here, gradient, s.best_gradient),
            found=found, fooled=s.fooled | wrong, rises=s.rises + (each > s.loss),
        )  # fmt: skip
        period = ends[s.step - 1]
        return lax.cond(period > 0, lambda s: _halve(s, period), lambda s: s, s)

    done = lax.while_loop(lambda s: (s.step < steps) & ~s.fooled.all(), move, search)
    return jnp.where(balls.like(done.fooled, inputs), done.found, done.best)


def apgd_targeted(
    apply: Callable,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    rank: int = 0,
) -> jax.Array:
    """Moves each example by `apgd` towards one other class, by the targeted DLR loss.

    Args:
      apply, params, inputs, labels, key, eps, norm, steps: as of `apgd`.
      rank: the target: the other class of that rank by the clean logits, 0 the nearest.

    Returns:
      float32[N, ...], as of `apgd`.

    Raises:
      ConfigError: as of `apgd`; or if there are fewer than 4 classes.

    Example:
      >>> net = lambda p, x: x @ p
      >>> w, x = jnp.eye(4), jnp.array([[0.5, 0.4, 0.0, 0.0]])
      >>> moved = apgd_targeted(net, w, x, jnp.array([0]), jax.random.key(0), eps=0.1)
      >>> net(w, moved).argmax().item()
      1
    """
    target = target_of(apply(params, inputs), labels, rank)

    def loss(logits, labels):
        return targeted_dlr(logits, labels, target)

    return apgd(apply, params, inputs, labels, key, eps=eps, norm=norm, steps=steps, loss=loss)


def _direction(key: jax.Array, inputs: jax.Array, norm: str) -> jax.Array:
    """Draws a direction of norm 1 for each example."""
    if norm == "l2":
        return balls.ascent(jax.random.normal(key, inputs.shape, inputs.dtype), norm)
    draw = jax.random.uniform(key, inputs.shape, inputs.dtype, -1.0, 1.0)
    return draw / balls.like(jnp.maximum(balls.size(draw, norm), 1e-12), draw)


def _halve(s: _Search, period: jax.Array) -> _Search:
    """Ends a period: halves the step of the examples that it brought too little."""
    stuck = ~s.halved & (s.at_checkpoint >= s.best_loss)
    halved = (s.rises <= _RISES * period) | stuck
    here = balls.like(halved, s.point)
    return s._replace(
        length=jnp.where(halved, s.length / 2, s.length),
        point=jnp.where(here, s.best, s.point),
        gradient=jnp.where(here, s.best_gradient, s.gradient),
        rises=jnp.zeros_like(s.rises), at_checkpoint=s.best_loss, halved=halved,
    )  # fmt: skip
