"""Losses between the logits of a student and its teacher: pure functions, one value per example.

Gradients never reach the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.core import registry
from hcjax.errors import ConfigError
from hcjax.losses import Robust


def kl(
    student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 4.0
) -> jax.Array:
    """Computes T² · KL(softmax(t / T) ‖ softmax(s / T)) of each example.

    Args:
      student_logits: float[N, ..., K]; of logits for every pixel, or step, the mean counts.
      teacher_logits: of the same shape.
      temperature: T > 0. The factor T² keeps the gradients' size independent of T.

    Returns:
      float32[N], in nats, >= 0 up to rounding.

    Raises:
      ValueError: if the shapes differ or T is not positive.

    Reference:
      Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
      arXiv:1503.02531, section 2.

    Example:
      >>> kl(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]])).tolist()
      [0.0]
    """
    student, teacher = _logits(student_logits, teacher_logits, temperature)
    target = jax.nn.log_softmax(teacher / temperature)
    each = _divergence(target, jax.nn.log_softmax(student / temperature))
    return temperature**2 * (each.reshape(len(each), -1).mean(-1) if each.ndim > 1 else each)


def squared(student: Any, teacher: Any) -> jax.Array:
    """Computes the mean squared difference of each example's outputs: of any kind of network.

    Args:
      student, teacher: trees of arrays [N, ...] of the same shapes; of several the means are added.

    Returns:
      float32[N], in the squared unit of the outputs.

    Raises:
      ValueError: if the trees or shapes differ.

    Example:
      >>> squared(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2))).tolist()
      [5.0]
    """

    def one(s, t):
        s, t = alike(s, t)
        return jnp.square(s - t).reshape(len(s), -1).mean(-1)

    return sum(jax.tree.leaves(jax.tree.map(one, student, teacher)))


def taught(
    loss: Callable, *, weight: float = 0.9, temperature: float = 4.0, by: str = "kl"
) -> Callable[[jax.Array, tuple], jax.Array]:
    """Mixes a loss with a teacher's: (1 - w) · loss(s, target) + w · by(s, t), of logits s and t.

    Give it to `fit` together with `teacher=`; it is called with the pair (target, teacher logits).

    Args:
      loss: `(logits float32[N, K], target) -> float32[N]`; of one on perturbed inputs, e.g.
        `losses.trades`, the loss inside is mixed.
      weight: w in [0, 1].
      temperature: T > 0 of `by`.
      by: "kl"; "decoupled", which takes the most probable class of mixed labels as the label; or
        "squared", for outputs that are no logits.

    Raises:
      ConfigError: if weight is out of range, or `by` is unknown. When the loss is called: if there
        is no teacher, or the teacher returns more than logits.

    Example:
      >>> mixed = taught(lambda logits, target: jnp.ones(len(logits)), weight=0.25)
      >>> s = jnp.array([[1.0, 0.0]])
      >>> mixed(s, (jnp.array([0]), s)).tolist()
      [0.75]
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight must be in [0, 1], got {weight}")
    distance = registry.choose("by", TEACH, by)
    if isinstance(loss, Robust):  # the student is taught at the perturbed inputs
        inner = taught(loss.loss, weight=weight, temperature=temperature, by=by)
        return loss._replace(loss=inner)

    def mixed(logits, target):
        target, teacher_logits = with_teachers("taught", target)
        if by != "squared" and not hasattr(teacher_logits, "shape"):
            name = type(teacher_logits).__name__
            raise ConfigError(
                f"taught reads a teacher's logits, and this one returns a {name}"
                ": of logits with activations see `guided`"
            )
        own = loss(logits, target).astype(jnp.float32)
        return (1 - weight) * own + weight * distance(logits, teacher_logits, target, temperature)

    return mixed


def with_teachers(name: str, target: Any) -> tuple:
    """Splits (target, teacher's output); raises ConfigError if there is no teacher."""
    if not isinstance(target, tuple | list) or len(target) != 2:
        raise ConfigError(
            f"{name} is a loss of (target, what a teacher returned), and got a target alone: give "
            "fit teacher=, or the loss inside"
        )
    return target


def ensemble(teachers: Sequence[Callable]) -> Callable[[jax.Array], jax.Array]:
    """Combines teachers into one: the logarithm of the mean of their probabilities.

    Args:
      teachers: each `images -> logits float[N, K]`, at least one, with the same classes.

    Returns:
      `images -> float32[N, K]`, log-probabilities. Of one teacher: its logits minus their
      log-sum-exp, which leaves their softmax as it is.

    Raises:
      ValueError: if there is no teacher.

    Reference:
      Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 1: "the arithmetic or geometric mean
      of their individual predictive distributions"; here the arithmetic.

    Example:
      >>> sure, other = jnp.log(jnp.array([[0.8, 0.2]])), jnp.log(jnp.array([[0.4, 0.6]]))
      >>> jnp.exp(ensemble([lambda x: sure, lambda x: other])(None)).round(6).tolist()
      [[0.6000000238418579, 0.4000000059604645]]
    """
    if not teachers:
        raise ValueError("an ensemble needs at least one teacher")

    def combined(images):
        each = [jax.nn.log_softmax(t(images).astype(jnp.float32)) for t in teachers]
        return jax.nn.logsumexp(jnp.stack(each), 0) - jnp.log(len(each))

    return combined


def decoupled(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> jax.Array:
    """Computes T² (α · KL(target class vs. rest) + β · KL(within the rest)) of each example.

    `kl` weights the second term by 1 minus the teacher's probability of the target; here by β.

    Args:
      student_logits, teacher_logits: float[N, K], K >= 2.
      labels: int[N], in [0, K).
      temperature: T > 0.
      alpha: weight of the target class's probability, >= 0.
      beta: weight of the other classes' distribution, >= 0.

    Returns:
      float32[N], in nats.

    Raises:
      ValueError: if the shapes differ or T is not positive.

    Reference:
      Zhao et al., "Decoupled Knowledge Distillation", 2022, arXiv:2203.08679, equation 7.

    Example:
      >>> s = jnp.array([[1.0, 0.0, 2.0]])
      >>> decoupled(s, s, jnp.array([2])).tolist()
      [0.0]
    """
    student, teacher = _logits(student_logits, teacher_logits, temperature)
    target = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)

    def split(logits):
        """Computes (log p of the target and the rest [N, 2], log p within the rest [N, K])."""
        log_p = jax.nn.log_softmax(logits / temperature)
        rest = jnp.where(target, -jnp.inf, log_p)
        total = jax.nn.logsumexp(rest, -1, keepdims=True)
        own = jnp.where(target, log_p, 0.0).sum(-1, keepdims=True)
        norm = jnp.where(total > -jnp.inf, total, 0.0)  # the rest may have probability 0
        # 0 for the target in both distributions adds nothing to their divergence
        return jnp.concatenate([own, total], -1), jnp.where(target, 0.0, log_p - norm)

    (pair, others), (pair_t, others_t) = split(student), split(teacher)
    return temperature**2 * (
        alpha * _divergence(pair_t, pair) + beta * _divergence(others_t, others)
    )


# name -> (student's logits, teacher's, target, temperature) -> float32[N]
TEACH: dict[str, Callable] = {
    "kl": lambda s, t, target, temperature: kl(s, t, temperature=temperature),
    "decoupled": lambda s, t, target, temperature: decoupled(
        s, t, target.argmax(-1) if target.ndim > 1 else target, temperature=temperature
    ),
    "squared": lambda s, t, target, temperature: squared(s, t),
}


def _divergence(target: jax.Array, log_p: jax.Array) -> jax.Array:
    """Computes KL(target ‖ p) over the last axis, of two arrays of log-probabilities.

    A class of target probability 0 adds nothing: p log p tends to 0.
    """
    p = jnp.exp(target)
    return jnp.where(p > 0, p * (target - log_p), 0.0).sum(-1)


def _logits(student: jax.Array, teacher: jax.Array, temperature: float) -> tuple:
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    return alike(student, teacher)


def alike(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Casts both to float32, the teacher without gradient; raises ValueError if shapes differ."""
    if student.shape != teacher.shape:
        raise ValueError(f"shapes must be equal, got {student.shape} and {teacher.shape}")
    return student.astype(jnp.float32), lax.stop_gradient(teacher.astype(jnp.float32))
