"""Schedules: gradual pruning during training, as the last element of an optax chain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.core import brief
from hcjax.errors import ConfigError
from hcjax.prune import allocation
from hcjax.prune.masked import held
from hcjax.prune.masks import masks, selected
from hcjax.prune.patterns import NofM, Structure, checked


class GradualState(NamedTuple):
    """The state of `gradual`; `optax.tree.get(opt_state, "masks")` returns the current masks.

    Attributes:
      count: int32[], steps taken so far.
      masks: bool arrays like the parameters, bool[] for leaves that are not pruned.
    """

    count: jax.Array
    masks: Any

    __repr__ = brief.record


def cubic(
    step: int | jax.Array, *, begin: int, end: int, initial: float, final: float
) -> jax.Array:
    """Computes the sparsity at a step: s = final + (initial - final) · (1 - t)³.

    t = (step - begin) / (end - begin), clipped to [0, 1]; 1 from `end` on.

    Args:
      step: int32[], >= 0.
      begin, end: steps, begin <= end.
      initial, final: sparsities.

    Returns:
      float32[].

    Reference:
      Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878, equation 1.

    Example:
      >>> [round(float(cubic(s, begin=0, end=10, initial=0.0, final=0.8)), 3) for s in (0, 5, 10)]
      [0.0, 0.7, 0.8]
    """
    return final + (initial - final) * _left(step, begin, end)


def gradual(
    sparsity: float | None,
    *,
    begin: int,
    end: int,
    every: int = 100,
    initial: float = 0.0,
    scope: str | Mapping[str, float] = "global",
    structure: Structure | None = None,
    select: trees.Select | str | Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """Prunes by magnitude during training, with a sparsity that rises from step to step.

    Put it last in `optax.chain`, where the updates are final, or see `hold`. At the steps begin,
    begin + every, … and `end` it computes new masks from |w + update|, of the sparsity that `cubic`
    gives; at `end` the count is exactly that of `masks`. Until then a pruned weight may come back.
    Where a mask is False, the weight after the update is exactly zero.

    Args:
      sparsity: at the end, in [0, 1); None where `scope` or `structure` determines it.
      begin: first step that prunes, >= 0.
      end: last step that changes masks, > begin.
      every: steps between new masks, >= 1.
      initial: sparsity at `begin`, in [0, 1). With "erk" or a mapping as `scope` it is a fraction
        of each layer's final sparsity: all layers progress alike.
      scope, structure, select: as of `masks`; no select is its default.

    Returns:
      optax.GradientTransformation; its state holds the masks. `update` needs the parameters.

    Raises:
      ConfigError: if an argument is not legal.

    Reference:
      Zhu and Gupta, 2017, arXiv:1710.01878. Deviations: masks are exact counts, global by default.

    Example:
      >>> tx = optax.chain(optax.sgd(0.1), gradual(0.5, begin=0, end=2, every=1, initial=0.5))
      >>> params = {"w": jnp.array([[1.0, -3.0, 0.5, 2.0]])}
      >>> updates, state = tx.update({"w": jnp.zeros((1, 4))}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, -3.0, 0.0, 2.0]]
    """
    start, renew = gradually(sparsity, begin=begin, end=end, every=every, initial=initial,
                              scope=scope, structure=structure, select=select)  # fmt: skip

    def init(params):
        return GradualState(jnp.zeros((), jnp.int32), start(params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        masks = renew(state.masks, state.count, optax.apply_updates(params, updates), None)
        return held(masks, updates, params), GradualState(state.count + 1, masks)

    return optax.GradientTransformation(init, update)


def gradually(
    sparsity: float | None,
    *,
    begin: int,
    end: int,
    every: int,
    initial: float,
    scope: str | Mapping[str, float],
    structure: Structure | None,
    select: trees.Select | str | Sequence[str] | None,
) -> tuple[Callable, Callable]:
    """Makes the two functions of a pruning schedule: first masks, and new ones; see `gradual`.

    Returns:
      `params -> masks`, all True; and `(masks, step, params, scores) -> masks`, which computes new
      masks at the steps of the schedule. scores None: the magnitudes of the parameters.

    Raises:
      ConfigError: if an argument is not legal.
    """
    check_plain(begin=begin, end=end, every=every, initial=initial)
    for name, value in (("begin", begin), ("end", end), ("every", every)):
        if not isinstance(value, Integral):
            raise ConfigError(f"{name} must be a whole number of steps, got {value!r}")
    if not 0 <= begin < end:
        raise ConfigError(f"0 <= begin < end is needed, got begin={begin}, end={end}")
    if every < 1:
        raise ConfigError(f"every must be >= 1 step, got {every}")
    if not 0 <= initial < 1:
        raise ConfigError(f"initial must be in [0, 1), got {initial}")
    # not as the default: optax.inject_hyperparams takes a function for a schedule of numbers
    select = trees.kernels if select is None else select
    by_group = isinstance(checked(structure), NofM)

    def compute(params, scores, step):
        options = {"scores": scores, "structure": structure, "select": select}
        if by_group:
            return masks(params, sparsity=sparsity, scope=scope, **options)
        left = _left(step, begin, end)
        if scope == "uniform" or scope in allocation.TOGETHER:
            now = allocation.Ramp(initial, sparsity, left)
            return masks(params, sparsity=now, scope=scope, **options)
        chosen = zip(trees.paths(params), selected(params, select), strict=True)
        shapes = {path: leaf.shape for (path, leaf), use in chosen if use}
        final = allocation.layerwise(shapes, sparsity=sparsity, scope=scope)
        each = {re.escape(p): allocation.Ramp(initial * s, s, left) for p, s in final.items()}
        return masks(params, scope=each, **options)

    def arrays(params, scores, step):
        return jax.tree.map(jnp.asarray, compute(params, scores, step))

    def start(params):
        shapes = jax.eval_shape(lambda p: arrays(p, None, jnp.int32(0)), params)
        return jax.tree.map(lambda s: jnp.ones(s.shape, bool), shapes)

    def renew(old, step, params, scores):
        due = (step >= begin) & (step <= end) & (((step - begin) % every == 0) | (step == end))
        # as operands they are traced in eager code too; in a closure they would be checked now
        now = (params, scores, step)
        old = booleans(old)
        return jax.lax.cond(due, lambda old, now: arrays(*now), lambda old, now: old, old, now)

    return start, renew


def booleans(masks: Any) -> Any:
    """Returns masks as bools again, after a wrapper that mixed the numbers of two states."""
    return jax.tree.map(lambda mask: jnp.asarray(mask, bool), masks)


def check_plain(**values: Any) -> None:
    """Raises ConfigError if an argument that decides the program is an array."""
    for name, value in values.items():
        if isinstance(value, jax.Array):
            raise ConfigError(
                f"{name} must be a plain number, got {value!r:.80}: optax.inject_hyperparams makes "
                "arrays of numbers; name it in static_args=, with the other numbers of the "
                "pruning, or inject those of the optimiser alone, before it in optax.chain"
            )


def _left(step: int | jax.Array, begin: int, end: int) -> jax.Array:
    """Computes (1 - t)³ as of `cubic`, exactly 0 from `end` on."""
    t = jnp.clip((jnp.asarray(step) - begin) / max(end - begin, 1), 0.0, 1.0)
    return (1 - jnp.where(step >= end, 1.0, t)) ** 3
