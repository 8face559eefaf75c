"""FAB-T: the fast adaptive boundary attack towards one class, which looks for the nearest error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.attack import balls
from hcjax.attack.objectives import at, target_of

_BIAS = 0.1  # at most that share of the way back to the example
_OVERSHOOT, _BACKWARD = 1.05, 0.9  # eta and beta of the paper
_BISECTIONS = 10  # of the last search; the paper's 3 find the boundary less exactly


def fab_targeted(
    apply: Callable,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array | None = None,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    rank: int = 0,
) -> jax.Array:
    """Moves each example to the nearest boundary of one other class that it finds.

    Each step projects the point and the example onto the linearised boundary z_target = z_y within
    0..1, goes 1.05 times as far, and mixes both by how near they are; from an error it steps back
    to 0.9 of the way.

    Args:
      apply: `(params, inputs) -> logits float[N, K]`, differentiable in the inputs.
      params: of `apply`.
      inputs: float32[N, ...] in 0..1.
      labels: int[N].
      key: not used: the search starts at the example.
      eps: >= 0, where a pixel is 0..1. Points further away are given up; inf gives the nearest
        error that was found, wherever it is.
      norm: "linf" or "l2". Static.
      steps: >= 1. Static.
      rank: the target: the other class of that rank by the clean logits, 0 the nearest.

    Returns:
      float32[N, ...] in 0..1: the nearest error, or the example where there is none within eps.

    Raises:
      ConfigError: if the norm is illegal.

    Reference:
      Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary
      Attack", 2020, arXiv:1907.02044, algorithm 1, for one target as in AutoAttack. Deviations: no
      restarts, and 10 instead of 3 bisections at the end, between the example and the best error.

    Example:
      >>> net = lambda p, x: x @ p + jnp.array([0.0, 0.2])
      >>> w, x = jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.array([[0.25, 0.5]])
      >>> found = fab_targeted(net, w, x, jnp.array([0]), eps=1.0)  # errs where x_0 < 0.1
      >>> f"{found[0, 0]:.3f}, {found[0, 1]:.3f}"
      '0.100, 0.500'
    """
    balls.check(0.0, norm)
    target = target_of(apply(params, inputs), labels, rank)

    def difference(x):
        logits = apply(params, x)
        each = (at(logits, target) - at(logits, labels)).astype(jnp.float32)
        return each.sum(), each

    def errs(x):
        return apply(params, x).argmax(-1) != labels

    measured = jax.grad(difference, has_aux=True)

    def move(_, search):
        point, best, distance = search
        gradient, each = measured(point)
        # the boundary: gradient · z = bias
        bias = (gradient * point).reshape(len(point), -1).sum(-1) - each
        step = to_hyperplane(point, gradient, bias, norm)
        whole = to_hyperplane(inputs, gradient, bias, norm)
        near, far = (jnp.maximum(balls.size(d, norm), 1e-8) for d in (step, whole))
        share = balls.like(jnp.minimum(near / (near + far), _BIAS), point)
        point = (1 - share) * (point + _OVERSHOOT * step) + share * (inputs + _OVERSHOOT * whole)
        point = jnp.clip(point, 0.0, 1.0)
        wrong, length = errs(point), balls.size(point - inputs, norm)
        better = wrong & (length < distance)
        best = jnp.where(balls.like(better, point), point, best)
        distance = jnp.where(better, length, distance)
        back = inputs + _BACKWARD * (point - inputs)
        return jnp.where(balls.like(wrong, point), back, point), best, distance

    nothing = jnp.where(errs(inputs), 0.0, jnp.full(len(inputs), jnp.inf))
    _, best, _ = lax.fori_loop(0, steps, move, (inputs, inputs, nothing))

    def bisect(_, shares):
        right, wrong = shares
        middle = (right + wrong) / 2
        bad = errs(inputs + balls.like(middle, inputs) * (best - inputs))
        return jnp.where(bad, right, middle), jnp.where(bad, middle, wrong)

    ones = jnp.ones(len(inputs))
    _, share = lax.fori_loop(0, _BISECTIONS, bisect, (0 * ones, ones))
    found = inputs + balls.like(share, inputs) * (best - inputs)
    found = jnp.where(balls.like(errs(found), inputs), found, best)
    within = balls.size(found - inputs, norm) <= eps
    return jnp.where(balls.like(within, inputs), found, inputs)


def to_hyperplane(points: jax.Array, normal: jax.Array, bias: jax.Array, norm: str) -> jax.Array:
    """Finds the shortest way of each point to a hyperplane that stays within 0..1.

    min |d| with normal · (x + d) = bias and 0 <= x + d <= 1; where that cannot be reached, the way
    to the corner nearest to it.

    The entry i of d has the sign s_i that leads there, and at most the room u_i: it is
    s_i min(t, u_i) for L∞ and s_i min(t |w_i|, u_i) for L2. Its product with the normal w is
    Σ a_i min(t, r_i), with a = |w|, r = u or a = w², r = u / |w|: piecewise linear in t, and solved
    by sorting r.

    Args:
      points: float32[N, ...] in 0..1. normal: of the same shape. bias: float32[N].
      norm: "linf" or "l2".

    Returns:
      float32[N, ...], d.

    Example:
      >>> x, w = jnp.array([[0.25, 0.875]]), jnp.array([[1.0, 1.0]])
      >>> to_hyperplane(x, w, jnp.array([1.5]), "linf").tolist()  # the second may go 0.125
      [[0.25, 0.125]]
    """
    x, w = points.reshape(len(points), -1), normal.reshape(len(points), -1)
    missing = bias - (w * x).sum(-1)
    w = w * jnp.where(missing < 0, -1.0, 1.0)[:, None]
    missing = jnp.abs(missing)
    size, sign = jnp.abs(w), jnp.sign(w)
    room = jnp.where(w > 0, 1 - x, x)
    if norm == "linf":
        weight, reach = size, room
    else:
        weight = jnp.square(size)
        reach = jnp.where(size > 0, room / jnp.maximum(size, 1e-30), 0.0)
    reach = jnp.where(size > 0, reach, 0.0)  # what the hyperplane does not depend on stays
    order = jnp.argsort(reach, -1)
    r, a = (jnp.take_along_axis(v, order, -1) for v in (reach, weight))
    spent = jnp.cumsum(a * r, -1)  # by the entries that are at their limit when t = r_k
    slope = jnp.maximum(a.sum(-1, keepdims=True) - jnp.cumsum(a, -1), 0.0)  # of the others
    reached = spent + slope * r  # the product at t = r_k, rising in k
    k = (reached < missing[:, None]).sum(-1)  # limits that t exceeds
    last = jnp.maximum(k - 1, 0)
    first = k == 0
    before = jnp.where(first, 0.0, at(spent, last))
    rising = jnp.where(first, a.sum(-1), at(slope, last))
    t = (missing - before) / jnp.maximum(rising, 1e-30)
    t = jnp.where(k == x.shape[-1], jnp.inf, t)[:, None]
    way = jnp.minimum(t, reach) if norm == "linf" else jnp.minimum(t, reach) * size
    return (sign * way).reshape(points.shape)
