"""Attacks of a fixed step: the fast gradient sign method, and projected gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.attack import balls
from hcjax.losses import cross_entropy


def fgsm(
    apply: Callable,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array | None = None,
    *,
    eps: float,
    norm: str = "linf",
    loss: Callable = cross_entropy,
) -> jax.Array:
    """Moves each example by one step of length eps along the gradient of its loss.

    x' = clip(x + eps · sign(∇ loss), 0, 1), or for L2 eps · ∇ loss / |∇ loss|.

    Args:
      apply: `(params, inputs) -> logits float[N, K]`, differentiable in the inputs.
      params: of `apply`.
      inputs: float32[N, ...] in 0..1.
      labels: int[N], or what the loss takes.
      key: not used; all attacks take one.
      eps: radius >= 0, where a pixel is 0..1.
      norm: "linf" or "l2". Static.
      loss: `(logits, labels) -> float[N]`. Static.

    Returns:
      float32[N, ...] in 0..1, within eps of the inputs.

    Raises:
      ConfigError: if eps or the norm is illegal.

    Reference:
      Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", 2014,
      arXiv:1412.6572, section 4.

    Example:
      >>> net = lambda p, x: x @ p
      >>> w, x = jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.array([[0.5, 0.5]])
      >>> fgsm(net, w, x, jnp.array([0]), eps=0.25).tolist()
      [[0.25, 0.5]]
    """
    balls.check(eps, norm)
    gradient = jax.grad(lambda x: loss(apply(params, x), labels).sum())(inputs)
    return balls.project(inputs + eps * balls.ascent(gradient, norm), inputs, eps, norm)


def pgd(
    apply: Callable,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 40,
    step_size: float | None = None,
    start: bool = True,
    loss: Callable = cross_entropy,
) -> jax.Array:
    """Moves each example by projected steps along the gradient of its loss.

    x' <- project(x' + step_size · sign(∇ loss)), `steps` times.

    Args:
      apply, params, inputs, labels, eps, norm, loss: as of `fgsm`.
      key: PRNG key of the start.
      steps: >= 1. Static.
      step_size: > 0; None for 2.5 · eps / steps.
      start: begin at a random point of the ball, else at the example. Static.

    Returns:
      float32[N, ...] in 0..1, within eps of the inputs: the last point, as in training.

    Raises:
      ConfigError: if eps or the norm is illegal.

    Reference:
      Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2017,
      arXiv:1706.06083, section 2.1; the default step size from its code's successors.

    Example:
      >>> net = lambda p, x: x @ p
      >>> w, x = jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.array([[0.5, 0.5]])
      >>> pgd(net, w, x, jnp.array([0]), jax.random.key(0), eps=0.25)[0, 0].item()
      0.25
    """
    balls.check(eps, norm)
    length = 2.5 * eps / steps if step_size is None else step_size
    gradient = jax.grad(lambda x: loss(apply(params, x), labels).sum())

    def move(_, x):
        return balls.project(x + length * balls.ascent(gradient(x), norm), inputs, eps, norm)

    first = balls.draw(key, inputs, eps, norm) if start else inputs
    return lax.fori_loop(0, steps, move, jnp.asarray(first))
