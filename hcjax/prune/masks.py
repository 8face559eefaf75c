"""Masks: a tree of bools with the structure of the parameters, True for weights that are kept.

In: parameters, and a score for each weight. Out: for each pruned leaf a bool array of its shape,
for each other leaf the scalar True. Counts are exact: of equal scores, the one of the lowest index
is pruned first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.prune import allocation
from hcjax.prune.patterns import Block, Structure, checked, n_of_m, spread, unit_scores
from hcjax.prune.scores import magnitude, resolved


def masks(
    params: Any,
    *,
    sparsity: float | jax.Array | allocation.Ramp | None = None,
    scores: Any = None,
    scope: str | Mapping[str, float | allocation.Ramp] = "global",
    structure: Structure | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
    **options: Any,
) -> Any:
    """Makes the masks that prune a fraction of the weights, those of the lowest scores.

    Of n weights (or blocks), floor(sparsity · n + 1/2) are pruned: of all leaves together, or of
    each leaf, depending on `scope`.

    Args:
      params: pytree of arrays; the selected ones hold floats.
      sparsity: fraction of weights to prune, in [0, 1). It may be traced where `scope` is "global",
        "lamp" or "uniform"; its count is then rounded to float32, which an `allocation.Ramp`
        avoids. None where `structure` or `scope` determines it.
      scores: pytree of float arrays of the structure of `params`, without NaN; or the name of a
        score in `SCORES`, or a `Criterion`. None: the magnitudes of the weights.
      scope: the sparsity allocation. "global": one threshold for all leaves. "lamp": the same, with
        scores normalised in each leaf (`allocation.lamp`). "uniform": the same sparsity in each
        leaf. "erk": Erdős–Rényi-kernel densities (`allocation.erk`). Or a mapping from patterns of
        whole paths to sparsities: the first match counts; leaves without a match are not pruned.
      structure: the sparsity pattern. None: single weights. (n, m): n of every m consecutive input
        channels are kept, e.g. (2, 4); sparsity must then be None. `NofM(n, m, axis)`: where input
        channels are not the second last axis. `Block(size)`: whole blocks, by their mean score.
      select: which leaves to prune: a predicate of path and leaf, or patterns of whole paths. The
        default selects kernels (`trees.kernels`), not biases or normalisation scales.
      **options: of the named score, e.g. `loss_fn` and `batches`; see `score`.

    Returns:
      Pytree of the structure of `params`: bool arrays (True: kept) for pruned leaves, the scalar
      True for the others.

    Raises:
      ConfigError: if an argument is out of range, a pattern does not divide a leaf, or nothing is
        selected; the message names the leaf.

    Note:
      A global threshold can prune a small layer of low scores completely; `scope="lamp"`,
      "uniform" and "erk" cannot, apart from rounding.

    Reference:
      Han et al., "Learning both Weights and Connections", 2015, arXiv:1506.02626 (magnitude).
      N:M: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378.

    Example:
      >>> w = {"dense": {"kernel": jnp.array([[1.0, -4.0], [0.5, 3.0]]), "bias": jnp.zeros(2)}}
      >>> half = masks(w, sparsity=0.5)
      >>> half["dense"]["kernel"].tolist(), bool(half["dense"]["bias"])
      ([[False, True], [False, True]], True)
    """
    structure = checked(structure)
    named = trees.paths(params)
    chosen = selected(params, select)
    if not any(chosen):
        raise ConfigError("nothing is pruned: no parameter is selected")
    scores = resolved(scores, params, options)
    if scores is not None:
        check_alike("scores", scores, params)
    score_leaves = [leaf for _, leaf in named] if scores is None else jax.tree.leaves(scores)
    work = []
    for (path, leaf), score, use in zip(named, score_leaves, chosen, strict=True):
        if use:
            _check(path, leaf, score)
            work.append((path, magnitude(leaf) if scores is None else score))
    if isinstance(structure, Block):
        blocks = [unit_scores(path, score, structure) for path, score in work]
        paths, shapes = [path for path, _ in work], [score.shape for _, score in work]
        pruned = _pruned(paths, shapes, blocks, sparsity, scope)
        arrays = [spread(~p, shape, structure) for p, shape in zip(pruned, shapes, strict=True)]
    else:
        if sparsity is not None or scope != "global":
            raise ConfigError(f"{structure} says the sparsity: give neither sparsity nor scope")
        arrays = [n_of_m(path, score, structure) for path, score in work]
    arrays = iter(arrays)
    leaves = [next(arrays) if use else np.bool_(True) for use in chosen]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def apply(masks: Any, params: Any) -> Any:
    """Sets parameters to exactly zero where their mask is False.

    Args:
      masks: from `masks`, of the structure of `params`.
      params: pytree of arrays.

    Returns:
      Pytree like `params`. Infinities and NaNs become zero too where their mask is False.

    Example:
      >>> apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, jnp.inf])})["w"].tolist()
      [1.0, 0.0]
    """
    return jax.tree.map(lambda m, p: jnp.where(m, p, jnp.zeros_like(p)), masks, params)


def nonzero(params: Any, *, select: trees.Select | str | Sequence[str] = trees.kernels) -> Any:
    """Makes the masks of parameters that are pruned already: True where a weight is not zero.

    Args:
      params: pytree of arrays.
      select: as of `masks`; leaves that are not selected get the scalar True.

    Returns:
      Pytree of the structure of `params`, as from `masks`.

    Example:
      >>> nonzero({"w": jnp.array([[0.0, 2.0]]), "b": jnp.zeros(1)})["w"].tolist()
      [[False, True]]
    """
    named, chosen = trees.paths(params), selected(params, select)
    leaves = [
        leaf != 0 if use else np.bool_(True) for (_, leaf), use in zip(named, chosen, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def selected(params: Any, select: trees.Select | str | Sequence[str]) -> list[bool]:
    """Lists which leaves are pruned, in `jax.tree.leaves`' order; `select` as of `masks`."""
    for path, leaf in trees.paths(params):
        if not hasattr(leaf, "shape"):
            raise ConfigError(
                f"params must be a tree of arrays, and {path} is a {type(leaf).__name__}: make it "
                "an array, or leave it out"
            )
    pick = trees.mask if callable(select) else trees.select
    return jax.tree.leaves(pick(params, select))


def check_alike(name: str, tree: Any, params: Any) -> None:
    """Raises ConfigError unless a tree has the structure of the parameters."""
    if jax.tree.structure(tree) != jax.tree.structure(params):
        raise ConfigError(
            f"{name} must be a tree of the structure of params, {_shown(params)}, got "
            f"{_shown(tree)}; make it of the same tree"
        )


def _shown(tree: Any) -> str:
    """Describes a tree for error messages: its type and the paths of its leaves."""
    paths = [path for path, _ in trees.paths(tree)]
    more = ", …" if len(paths) > 8 else ""
    return f"{type(tree).__name__} of {len(paths)} leaves [{', '.join(paths[:8])}{more}]"


def _check(path: str, leaf: Any, score: Any) -> None:
    """Raises ConfigError unless a leaf can be pruned by its score."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise ConfigError(
            f"{path} holds {leaf.dtype}, and only floats are pruned: prune before int8 or share "
            "makes integers of them, or leave it out with select="
        )
    if jnp.shape(score) != leaf.shape:
        raise ConfigError(f"scores of {path} must be {leaf.shape}, got {jnp.shape(score)}")
    if not isinstance(score, jax.core.Tracer):
        with jax.ensure_compile_time_eval():  # inside jit too, constants are checked at once
            if jnp.isnan(score).any():
                raise ConfigError(
                    f"scores of {path} must be numbers, and some are NaN, which nothing is lower "
                    "than: find out where they come from"
                )


def smallest(scores: jax.Array, count: int | jax.Array) -> jax.Array:
    """Marks the `count` lowest scores; of equal ones, those of the lowest index.

    Args:
      scores: float[n], not NaN.
      count: in [0, n]; may be traced.

    Returns:
      bool[n] with `count` True.

    Example:
      >>> smallest(jnp.array([2.0, 1.0, 1.0, 1.0]), 2).tolist()
      [False, True, True, False]
    """
    if scores.size == 0:
        return jnp.zeros(0, bool)
    limit = jnp.sort(scores)[jnp.maximum(count - 1, 0)]
    lower, equal = scores < limit, scores == limit
    first = jnp.cumsum(equal) <= count - lower.sum()
    return jnp.where(count > 0, lower | (equal & first), False)


def _pruned(paths, shapes, units, sparsity, scope) -> list[jax.Array]:
    """Marks the blocks of each leaf that are pruned."""
    if scope in allocation.TOGETHER:
        units = [allocation.lamp(u) for u in units] if scope == "lamp" else units
        everything = jnp.concatenate([u.reshape(-1) for u in units])
        count = allocation.count(sparsity, everything.size)
        ends = np.cumsum([u.size for u in units])[:-1]
        parts = jnp.split(smallest(everything, count), ends)
        return [part.reshape(u.shape) for part, u in zip(parts, units, strict=True)]
    each = allocation.layerwise(
        dict(zip(paths, shapes, strict=True)), sparsity=sparsity, scope=scope
    )
    return [
        smallest(u.reshape(-1), allocation.count(each[path], u.size)).reshape(u.shape)
        for path, u in zip(paths, units, strict=True)
    ]
