"""Optimisers and schedules by name, made of optax, with clipping, accumulation and freezing.

In: a name and plain keyword arguments. Out: one `optax.GradientTransformationExtraArgs`, whose
`update(grads, opt_state, params, value=loss)` is all that the training step calls.
Weight decay is decoupled (multiplied by the learning rate, kept out of the moments) and acts on
kernels only; for the coupled form add `losses.l2` to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.core import registry
from hcjax.errors import ConfigError
from hcjax.optim.optimizers import OPTIMIZERS, Rate
from hcjax.optim.plateau import Plateau, reduce_on_plateau
from hcjax.optim.precision import in_float32, widened
from hcjax.optim.schedules import Schedule, check, constant, cosine, one_cycle, step

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "create",
    "ema_decay",
    "in_float32",
    "learning_rate_at",
    "schedule",
    "widened",
]

SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "step": step,
    "reduce_on_plateau": reduce_on_plateau,
}


def schedule(name: str, *, learning_rate: float, steps: int, **options: Any) -> Schedule:
    """Creates the schedule of that name.

    Args:
      name: a key of `SCHEDULES`.
      learning_rate: the peak rate, > 0.
      steps: optimiser updates in the whole training; schedules without an end ignore it.
      **options: that schedule's own keywords.

    Returns:
      step -> float32[]; for "reduce_on_plateau" a `Plateau`, which can be called likewise.

    Raises:
      ConfigError: if the name or an option is unknown, or a value is out of range.

    Example:
      >>> rate = schedule("cosine", learning_rate=0.1, steps=1000, warmup_steps=100)
      >>> round(float(rate(99)), 4)
      0.1
    """
    function = registry.choose("schedule", SCHEDULES, name)
    given = {"learning_rate": learning_rate, **options}
    if "steps" in registry.legal(function):
        given["steps"] = steps
    registry.check(f"schedule '{name}'", function, given)
    return function(**given)


def create(
    name: str,
    *,
    learning_rate: Rate,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    freeze: str | Sequence[str] | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Creates the optimiser of that name, with clipping, accumulation and freezing around it.

    Args:
      name: a key of `OPTIMIZERS`.
      learning_rate: > 0, or a schedule from `schedule`.
      clip_norm: > 0; gradients of a larger global norm (over the trained parameters) are scaled
        down to it. None: no clipping.
      accumulate_steps: micro-batches whose gradients are averaged before one update, >= 1; the
        other steps' updates are 0. A schedule counts updates, not micro-batches. All
        micro-batches have equal weight: class weights are normalised within each of them.
      freeze: regular expression(s) of whole parameter paths ('conv1/.*') that are not trained:
        their updates are exactly 0, with weight decay too, and they have no moments.
      **options: that optimiser's own keywords.

    Returns:
      An optax transformation; give `value=loss` to its update (only reduce_on_plateau reads it).
      It trains bfloat16 and float16 parameters in float32, see `in_float32`.

    Raises:
      ConfigError: if the name or an option is unknown or a value is out of range; from `init`,
        if a `freeze` pattern matches no parameter, or all of them are frozen.

    Example:
      >>> tx = create("adamw", learning_rate=1e-3, clip_norm=1.0, freeze="conv1/.*")
      >>> params = {"conv1": {"kernel": jnp.ones((2, 2))}, "dense1": {"kernel": jnp.ones((2, 2))}}
      >>> updates, _ = tx.update(params, tx.init(params), params, value=1.0)
      >>> float(updates["conv1"]["kernel"].sum())
      0.0
    """
    function = registry.choose("optimizer", OPTIMIZERS, name)
    given = {"learning_rate": learning_rate, **options}
    registry.check(f"optimizer '{name}'", function, given)
    if not callable(learning_rate):
        check("learning_rate", learning_rate, learning_rate > 0, "> 0")
    weight_decay = options.get("weight_decay", 0.0)
    check("weight_decay", weight_decay, weight_decay >= 0, ">= 0")
    if clip_norm is not None:
        check("clip_norm", clip_norm, clip_norm > 0, "> 0, or None for no clipping")
    check("accumulate_steps", accumulate_steps, accumulate_steps >= 1, ">= 1")
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        function(**given),
        learning_rate.transform if isinstance(learning_rate, Plateau) else optax.identity(),
    )
    if accumulate_steps > 1:
        multi = optax.MultiSteps(tx, accumulate_steps)  # its own pair of functions drops `value`
        tx = optax.GradientTransformationExtraArgs(multi.init, multi.update)
    if freeze:
        parts = {"trained": tx, "frozen": optax.set_to_zero()}
        tx = optax.partition(parts, lambda params: _labels(params, freeze))
    return in_float32(tx)


def learning_rate_at(learning_rate: Rate, opt_state: Any, step: Any) -> jax.Array:
    """Computes the learning rate of an update, with plateau reductions, for logging.

    Args:
      learning_rate: the one given to `create`.
      opt_state: the optimiser's state.
      step: updates done so far (with accumulation: micro-batches // accumulate_steps).

    Returns:
      float32[].

    Example:
      >>> tx = create("sgd", learning_rate=0.5)
      >>> float(learning_rate_at(0.5, tx.init({"w": jnp.zeros(2)}), 0))
      0.5
    """
    rate = jnp.float32(learning_rate(step) if callable(learning_rate) else learning_rate)
    if isinstance(learning_rate, Plateau):
        kind = optax.contrib.ReduceLROnPlateauState
        states = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
        rate *= next(state.scale for state in states if isinstance(state, kind))
    return rate


def ema_decay(step: Any, decay: float) -> jax.Array:
    """Computes the decay of an exponential moving average of parameters, small at the start.

    min(decay, (1 + step) / (10 + step)): the average forgets the random initial parameters.

    Args:
      step: updates done before this one.
      decay: the final decay, in [0, 1).

    Returns:
      float32[]; the average becomes decay · average + (1 - decay) · params.

    Example:
      >>> round(float(ema_decay(0, 0.999)), 4), round(float(ema_decay(10**6, 0.999)), 4)
      (0.1, 0.999)
    """
    check("decay", decay, 0 <= decay < 1, "in [0, 1)")
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def _labels(params: Any, freeze: str | Sequence[str]) -> Any:
    """Labels each parameter "frozen" or "trained"."""
    frozen = trees.select(params, freeze)
    if all(jax.tree.leaves(frozen)):
        names = [path for path, _ in trees.paths(params)]
        shown = ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "")
        raise ConfigError(
            f"freeze={freeze!r} freezes every parameter; nothing is left to train of {shown}"
        )
    return jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)
