"""Learning-rate schedules by name: functions step -> learning rate.

`step` counts optimiser updates from 0 (with gradient accumulation: not micro-batches). Every
function here is pure and traceable; `optim.schedule` picks one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError

Schedule = Callable[[Any], jax.Array]


def constant(*, learning_rate: float, warmup_steps: int = 0) -> Schedule:
    """A constant learning rate, after a linear warm-up.

    During the warm-up the rate at `step` is learning_rate · (step + 1) / warmup_steps.

    Args:
      learning_rate: > 0.
      warmup_steps: >= 0.

    Returns:
      step -> float32[].

    Raises:
      ConfigError: if a value is out of range.

    Example:
      >>> [float(constant(learning_rate=1.0, warmup_steps=4)(step)) for step in (0, 1, 9)]
      [0.25, 0.5, 1.0]
    """
    check("learning_rate", learning_rate, learning_rate > 0, "> 0")
    check("warmup_steps", warmup_steps, warmup_steps >= 0, ">= 0")
    return lambda step: learning_rate * _warm(step, warmup_steps)


def cosine(
    *, learning_rate: float, steps: int, warmup_steps: int = 0, final_fraction: float = 0.0
) -> Schedule:
    """Half a cosine from the peak to `final_fraction` of it, after a linear warm-up.

    Args:
      learning_rate: the peak, > 0.
      steps: length of the whole schedule, warm-up included; constant afterwards.
      warmup_steps: in [0, steps).
      final_fraction: in [0, 1].

    Returns:
      step -> float32[].

    Raises:
      ConfigError: if a value is out of range.

    Reference:
      Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016,
      arXiv:1608.03983, eq. 5, one period without restarts.

    Example:
      >>> rate = cosine(learning_rate=1.0, steps=10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10)]
      [1.0, 0.5, 0.0]
    """
    check("learning_rate", learning_rate, learning_rate > 0, "> 0")
    _check_steps(steps, warmup_steps)
    check("final_fraction", final_fraction, 0 <= final_fraction <= 1, "in [0, 1]")

    def schedule(step):
        passed = jnp.clip((step - warmup_steps) / (steps - warmup_steps), 0, 1)
        fraction = final_fraction + (1 - final_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * passed))
        return learning_rate * _warm(step, warmup_steps) * fraction

    return schedule


def one_cycle(
    *,
    learning_rate: float,
    steps: int,
    warmup_fraction: float = 0.3,
    initial_divisor: float = 25.0,
    final_divisor: float = 1e4,
) -> Schedule:
    """One cycle: up from learning_rate / initial_divisor to the peak, then down to zero.

    Both parts follow half a cosine; the end is learning_rate / (initial_divisor · final_divisor).

    Args:
      learning_rate: the peak, > 0.
      steps: length of the cycle; constant afterwards.
      warmup_fraction: fraction of the steps before the peak, in (0, 1).
      initial_divisor: >= 1.
      final_divisor: >= 1.

    Returns:
      step -> float32[].

    Raises:
      ConfigError: if a value is out of range.

    Reference:
      Smith and Topin, "Super-Convergence", 2017, arXiv:1708.07120. Deviation: cosine instead of
      linear pieces, and momentum stays constant.

    Example:
      >>> rate = one_cycle(learning_rate=1.0, steps=10, initial_divisor=4.0)
      >>> [round(float(rate(step)), 4) for step in (0, 3, 10)]
      [0.25, 1.0, 0.0]
    """
    check("learning_rate", learning_rate, learning_rate > 0, "> 0")
    _check_steps(steps, 0)
    check("warmup_fraction", warmup_fraction, 0 < warmup_fraction < 1, "in (0, 1)")
    check("initial_divisor", initial_divisor, initial_divisor >= 1, ">= 1")
    check("final_divisor", final_divisor, final_divisor >= 1, ">= 1")
    top = warmup_fraction * steps
    low, end = learning_rate / initial_divisor, learning_rate / (initial_divisor * final_divisor)

    def schedule(step):
        up = _half_cosine(low, learning_rate, step / top)
        down = _half_cosine(learning_rate, end, (step - top) / (steps - top))
        return jnp.where(step < top, up, down)

    return schedule


def step(
    *,
    learning_rate: float,
    steps: int,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
    warmup_steps: int = 0,
) -> Schedule:
    """Multiplies the rate by `factor` at each milestone, after a linear warm-up.

    Args:
      learning_rate: the rate before the first milestone, > 0.
      steps: length of the training; milestones are fractions of it.
      milestones: increasing fractions in (0, 1); a milestone takes effect from the step
        round(fraction · steps) on.
      factor: in (0, 1).
      warmup_steps: in [0, steps).

    Returns:
      step -> float32[].

    Raises:
      ConfigError: if a value is out of range.

    Reference:
      He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, section
      4.2 (a tenth at 1/2 and 3/4 of training).

    Example:
      >>> rate = step(learning_rate=1.0, steps=100)
      >>> [round(float(rate(step)), 4) for step in (0, 49, 50, 75)]
      [1.0, 1.0, 0.1, 0.01]
    """
    check("learning_rate", learning_rate, learning_rate > 0, "> 0")
    _check_steps(steps, warmup_steps)
    check("factor", factor, 0 < factor < 1, "in (0, 1)")
    rising = list(milestones) == sorted(set(milestones))
    legal = rising and all(0 < fraction < 1 for fraction in milestones)
    check("milestones", tuple(milestones), legal, "increasing fractions in (0, 1)")
    bounds = [round(fraction * steps) for fraction in milestones]

    def schedule(step):
        passed = sum((jnp.asarray(step >= bound, jnp.float32) for bound in bounds), 0.0)
        return learning_rate * _warm(step, warmup_steps) * factor**passed

    return schedule


def check(name: str, value: Any, legal: bool, expected: str) -> None:
    """Raises ConfigError unless `legal`; a comparison with NaN is False and raises too."""
    if not legal:
        raise ConfigError(f"{name} must be {expected}, got {value}")


def _check_steps(steps: int, warmup_steps: int) -> None:
    check("steps", steps, steps >= 1, ">= 1")
    check("warmup_steps", warmup_steps, 0 <= warmup_steps < steps, f"in [0, steps = {steps})")


def _warm(step: Any, warmup_steps: int) -> Any:
    """Computes the warm-up's factor in (0, 1]; it is never 0, not even at the first update."""
    return jnp.minimum(1.0, (step + 1) / warmup_steps) if warmup_steps else jnp.float32(1)


def _half_cosine(start: float, end: float, passed: Any) -> jax.Array:
    """Interpolates from start to end along half a cosine; `passed` is the fraction done."""
    weight = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(passed, 0, 1)))
    return end + (start - end) * weight
