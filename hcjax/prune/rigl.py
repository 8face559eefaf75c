"""`rigl`: sparse training from the first step to the last, with connections that move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcjax import trees
from hcjax.core import brief, registry
from hcjax.errors import ConfigError
from hcjax.prune.masked import held
from hcjax.prune.masks import Block, masks, selected, smallest, spread, unit_scores
from hcjax.prune.schedules import booleans, check_plain
from hcjax.prune.scores import magnitude, random

# where connections grow: (gradients, key) -> scores; the highest scores grow
GROWTH = {
    "gradient": lambda grads, key: jax.tree.map(magnitude, grads),
    "random": lambda grads, key: random(grads, key=key),
}


class RiglState(NamedTuple):
    """The state of `rigl`.

    Attributes:
      count: int32[], steps taken so far.
      masks: bool arrays like the parameters, bool[] for leaves that are not pruned.
      key: uint32[...], the data of a PRNG key.
      inner: the state of the wrapped optimiser.
    """

    count: jax.Array
    masks: Any
    key: jax.Array
    inner: Any

    __repr__ = brief.record


def rigl(
    tx: optax.GradientTransformation,
    *,
    sparsity: float | None,
    key: jax.Array,
    grow: str = "gradient",
    alpha: float = 0.3,
    every: int = 100,
    end: int = 25_000,
    scope: str | Mapping[str, float] = "erk",
    structure: Block | None = None,
    select: trees.Select | str | Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimiser to train a sparse network whose connections move now and then.

    It starts with a random mask. At the steps every, 2 · every, … before `end`, of the n weights of
    each leaf, the k of least magnitude are dropped and k others grow, from zero, where the gradient
    is largest:

        k = floor(a · n + 1/2),  a = alpha / 2 · (1 + cos(π · step / end))

    so that each leaf has the same number of weights at every step. The optimiser gets the gradients
    of the sparse network only; its state for weights that grow is reset to that of `tx.init`.

    Args:
      tx: the optimiser.
      sparsity: of all selected weights together, in [0, 1); None where `scope` determines it.
      key: PRNG key of the first mask, and of random growth.
      grow: "gradient": RigL. "random": SET, where connections grow anywhere.
      alpha: fraction of the weights that moves at first, in (0, 1].
      every: steps between moves, >= 1.
      end: step after which no connection moves, >= 1; three quarters of the training is usual. The
        default is the paper's.
      scope, select: as of `masks`; no select is its default.
      structure: None: single weights. `Block(size)`: whole blocks move, by their mean magnitudes.

    Returns:
      optax.GradientTransformationExtraArgs; its state holds the masks. `update` needs the
      parameters.

    Raises:
      ConfigError: if an argument is not legal.

    Note:
      The first update makes dense parameters sparse; `apply(tx.init(params).masks, params)` does so
      before. XLA computes the gradients of all weights at every step.

    Reference:
      Evci et al., "Rigging the Lottery", 2019, arXiv:1911.11134, algorithm 1. Deviations: a step
      that moves connections trains the others too; a weight that would be dropped and grow at once
      stays as it is. Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive
      Sparse Connectivity", 2018, arXiv:1707.04780, algorithm 2 (SET). Deviations: a cosine;
      zeros.

    Example:
      >>> tx = rigl(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0), every=1)
      >>> params = {"w": jnp.ones((4, 4))}
      >>> state = tx.init(params)
      >>> for step in range(3):
      ...   grads = jax.tree.map(lambda w: 0.1 * w + jnp.arange(16.0).reshape(4, 4), params)
      ...   updates, state = tx.update(grads, state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> int(state.masks["w"].sum()), bool(params["w"][~state.masks["w"]].any())
      (8, False)
    """
    growth = registry.choose("growth", GROWTH, grow)
    check_plain(alpha=alpha, every=every, end=end)
    for name, value, legal in (
        ("alpha", alpha, 0 < alpha <= 1),
        ("every", every, isinstance(every, Integral) and every >= 1),
        ("end", end, isinstance(end, Integral) and end >= 1),
    ):
        if not legal:
            raise ConfigError(
                "rigl needs 0 < alpha <= 1, and whole numbers of steps every >= 1, end >= 1; "
                f"{name} is {value!r}"
            )
    if structure is not None and not isinstance(structure, Block):
        raise ConfigError(f"rigl moves single weights or a Block, structure is {structure}")
    tx = optax.with_extra_args_support(tx)
    block = structure or Block(())
    select = trees.kernels if select is None else select

    def init(params):
        scores = random(params, key=key)
        options = {"scores": scores, "structure": structure, "select": select}
        mask = masks(params, sparsity=sparsity, scope=scope, **options)
        mask = jax.tree.map(jnp.asarray, mask)
        # a copy: a donated state must not delete the caller's key
        bits = jnp.array(jax.random.key_data(key), copy=True)
        return RiglState(jnp.zeros((), jnp.int32), mask, bits, tx.init(params))

    def move_masks(state, params, grads):
        fraction = alpha / 2 * (1 + jnp.cos(jnp.pi * state.count / end))
        own_key = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(key))
        growth_scores = growth(grads, jax.random.fold_in(own_key, state.count))

        def of_leaf(use, named, mask, score):
            path, weight = named
            if not use:
                return mask
            active, size, score = (
                unit_scores(path, x, block) for x in (mask, jnp.abs(weight), score)
            )
            new = _move_mask(active.reshape(-1) > 0, size.reshape(-1), score.reshape(-1), fraction)
            return spread(new.reshape(size.shape), weight.shape, block)

        leaves = map(
            of_leaf,
            selected(params, select),
            trees.paths(params),
            jax.tree.leaves(state.masks),
            jax.tree.leaves(growth_scores),
        )
        return jax.tree.unflatten(jax.tree.structure(params), list(leaves))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        state = state._replace(masks=booleans(state.masks))
        sparse = jax.tree.map(lambda m, g: jnp.where(m, g, 0), state.masks, grads)
        updates, inner = tx.update(sparse, state.inner, params, **extra)
        trained = held(state.masks, updates, params)

        def move():
            new_masks = move_masks(state, optax.apply_updates(params, trained), grads)
            grown = jax.tree.map(lambda new, old: new & ~old, new_masks, state.masks)
            return new_masks, _reset(inner, tx.init(params), grown, params)

        step = state.count
        due = (step > 0) & (step < end) & (step % every == 0)
        new_masks, inner = jax.lax.cond(due, move, lambda: (state.masks, inner))
        both = jax.tree.map(jnp.logical_and, new_masks, state.masks)
        return held(both, updates, params), RiglState(step + 1, new_masks, state.key, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _move_mask(
    active: jax.Array, size: jax.Array, score: jax.Array, fraction: jax.Array
) -> jax.Array:
    """Moves a fraction of a mask: drops the smallest weights, grows as many of highest score."""
    count = jnp.floor(fraction * active.sum() + 0.5).astype(jnp.int32)
    remaining = active & ~smallest(jnp.where(active, size, jnp.inf), count)
    return ~smallest(jnp.where(remaining, jnp.inf, score), active.size - active.sum())


def _reset(state: Any, fresh: Any, grown: Any, params: Any) -> Any:
    """Resets an optimiser's state to `fresh` for the weights that have grown.

    An array belongs to the parameter of its shape whose path is the end of its own path; of
    several, to that of the longest path.
    """
    named = jax.tree_util.tree_flatten_with_path(params)[0]
    new = jax.tree.leaves(grown)

    def reset(path, now, first):
        own = [
            (len(p), i)
            for i, (p, param) in enumerate(named)
            if path[len(path) - len(p) :] == p and jnp.shape(param) == jnp.shape(now)
        ]
        return jnp.where(new[max(own)[1]], first, now) if own else now

    return jax.tree_util.tree_map_with_path(reset, state, fresh)
