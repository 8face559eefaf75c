"""The schedule that depends on the training loss; its state is part of the optimiser's."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from hcjax.optim.schedules import Schedule, check, constant


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A base schedule, and the transformation that scales it when the loss stops falling.

    A call returns the base rate. `optim.create` puts `transform`, whose state is the scale, last in
    its chain. `optim.learning_rate_at` multiplies the two.
    """

    base: Schedule
    transform: optax.GradientTransformationExtraArgs

    def __call__(self, step: Any) -> jax.Array:
        return self.base(step)


def reduce_on_plateau(
    *,
    learning_rate: float,
    every_steps: int = 100,
    factor: float = 0.5,
    patience: int = 5,
    cooldown: int = 0,
    min_fraction: float = 0.0,
    tolerance: float = 1e-4,
    warmup_steps: int = 0,
) -> Plateau:
    """Multiplies the rate by `factor` whenever the training loss stops falling.

    The loss is averaged over `every_steps` updates; after `patience` averages in a row without
    a relative improvement of `tolerance` over the best one, the rate is reduced.

    Args:
      learning_rate: the first rate, > 0.
      every_steps: updates per average, >= 1; an epoch is a good choice.
      factor: in (0, 1).
      patience: averages, >= 1.
      cooldown: averages to wait after a reduction, >= 0.
      min_fraction: the rate never falls below this part of the first, in [0, 1].
      tolerance: in (0, 1].
      warmup_steps: linear warm-up, >= 0.

    Returns:
      `Plateau`; give it to `optim.create` as `learning_rate`.

    Raises:
      ConfigError: if a value is out of range.

    Note:
      It needs `tx.update(..., value=loss)`, as the training step calls it. With gradient
      accumulation it uses the loss of each update's last micro-batch.

    Example:
      >>> float(reduce_on_plateau(learning_rate=0.5)(1000))
      0.5
    """
    base = constant(learning_rate=learning_rate, warmup_steps=warmup_steps)
    check("every_steps", every_steps, every_steps >= 1, ">= 1")
    check("factor", factor, 0 < factor < 1, "in (0, 1)")
    check("patience", patience, patience >= 1, ">= 1")
    check("cooldown", cooldown, cooldown >= 0, ">= 0")
    check("min_fraction", min_fraction, 0 <= min_fraction <= 1, "in [0, 1]")
    check("tolerance", tolerance, 0 < tolerance <= 1, "in (0, 1]")
    transform = optax.contrib.reduce_on_plateau(
        factor=factor,
        patience=patience,
        rtol=tolerance,
        cooldown=cooldown,
        accumulation_size=every_steps,
        min_scale=min_fraction,
    )
    return Plateau(base, transform)
