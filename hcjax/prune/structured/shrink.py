"""`shrink`: whole channels taken out of a network, so that what is left is smaller and faster.

The channels are rated, ranked, and cut from the bottom of the ranking until what is left is as
small as was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph.coupling.channels import Group, channels
from hcjax.graph.coupling.remove import without
from hcjax.graph.model import Model
from hcjax.graph.ops.table import preserves_values
from hcjax.prune.scores import resolved
from hcjax.prune.structured import ranking

_SHIFTS = ("convert_element_type", "add")  # a variance + epsilon is a variance still


def shrink(
    model: Model,
    *,
    keep: float | None = None,
    macs: float | None = None,
    scores: Any = None,
    scope: str = "global",
    round_to: int = 1,
    least: int | None = None,
    select: trees.Select | str | Sequence[str] | None = None,
    **options: Any,
) -> Model:
    """Returns the network without its least important channels: smaller arrays, fewer products.

    What `channels` says to belong together is cut together. The logits are those of the whole
    network with all slices of the cut channels set to zero, those that read them included.

    Args:
      model: from `trace` or `fold`, in float.
      keep: fraction of the channels that stay, in (0, 1]; never fewer, and as few more as `least`
        and `round_to` allow.
      macs: instead: fraction of the products that stay, in (0, 1]; never more, and as few less as
        whole channels allow.
      scores: pytree of float arrays like `model.params`; a channel's score is the sum over its
        slices. Or a score of `prune.SCORES` by name, or a `prune.Criterion`: the same, running
        statistics left out. None: the sum of squares of its slices, running statistics left
        out, relative to what is left of its group without the lower ones (`ranking.relative`), so
        that layers of different scale compare, and one whose channels are alike is not cut on.
      scope: "global": one ranking of all channels. "uniform": each group loses the same fraction,
        its lowest scores.
      round_to: what a group keeps is a multiple of it, or all: 4, 8 or 16 for what runs fast.
      least: channels that each group keeps, >= 1; None: `round_to`.
      select: which channels may be cut, by the kernels that make them: a predicate of path and
        leaf, or patterns of whole paths. None: all.
      **options: of the named score, e.g. `loss_fn` and `batches`; see `prune.score`.

    Returns:
      Model, to be trained, folded, calibrated, quantized and packed as any other; its `cut` says
      what is left of each array, for `cut` of optimiser state and training-mode networks.

    Raises:
      ConfigError: if an argument is not legal, nothing may be cut, or the MACs cannot be reached;
        it says what could.
      TypeError: if the model is quantized, or no Model.

    Reference:
      Li et al., "Pruning Filters for Efficient ConvNets", 2016, arXiv:1608.08710. Scores: the
      magnitude of Fang et al., "DepGraph", 2023, arXiv:2301.12900, section 3.3, p = 2. Deviations:
      all slices count, biases too, and are summed, not averaged, over the arrays of a group; the
      mean that normalises them is of the channels not lower, as when one goes after the other.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"a": jnp.array([[1.0, 5.0, 2.0, 4.0]]), "b": jnp.ones((4, 3))}
      >>> model = trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 1)))
      >>> small = shrink(model, keep=0.5)
      >>> small.params["a"].tolist(), small.params["b"].shape, small.cut[0].kept
      ([[5.0, 4.0]], (2, 3), (1, 3))
    """
    least = round_to if least is None else least
    _check(keep, macs, scope, round_to, least)
    found = channels(model)
    groups = _selected(model, found.groups, select)
    if not groups:
        raise ConfigError(f"there is nothing that may be cut: {_reasons(found.kept)}")
    rated = _scores(model, groups, scores, options)
    units = ranking.units(groups, rated, scope=scope, round_to=round_to, least=least)
    if macs is None:
        total = sum(len(group.channels) for group in groups)
        chosen = ranking.at_most(units, int((1 - keep) * total + 1e-9))
    else:
        chosen = ranking.down_to(units, ranking.products(model, found), macs)
    gone = np.zeros(found.count, bool)
    for unit in chosen:
        gone[unit.channels] = True
    return without(model, found, gone)


def _check(keep, macs, scope, round_to, least) -> None:
    if (keep is None) == (macs is None):
        raise ConfigError(f"give one of keep and macs, got keep={keep}, macs={macs}")
    for name, value in (("keep", keep), ("macs", macs)):
        if value is None:
            continue
        if not isinstance(value, Real | jax.Array) or not 0 < value <= 1:
            raise ConfigError(f"{name} must be a fraction in (0, 1], got {value!r}")
    for name, value in (("round_to", round_to), ("least", least)):
        if not isinstance(value, Integral) or value < 1:
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}")
    if scope not in ranking.SCOPES:
        raise ConfigError(f"scope must be one of {', '.join(ranking.SCOPES)}, got {scope!r}")


def _reasons(kept: dict[tuple[str, int], str]) -> str:
    """Returns why axes are kept, each reason with a few of them."""
    by_reason: dict[str, list[str]] = {}
    for (path, axis), why in kept.items():
        by_reason.setdefault(why, []).append(f"{path} axis {axis}")
    parts = [f"{why}: {', '.join(axes[:3])}" for why, axes in by_reason.items()]
    return "; ".join(parts) or "nothing is selected"


def _selected(model: Model, groups: Sequence[Group], select: Any) -> list[Group]:
    """Returns the groups that a selected kernel makes."""
    if select is None:
        return list(groups)
    pick = trees.mask if callable(select) else trees.select
    chosen = zip(
        trees.paths(model.params), jax.tree.leaves(pick(model.params, select)), strict=True
    )
    paths = {path for (path, _), use in chosen if use}
    return [group for group in groups if paths.intersection(group.made_by)]


def _statistics(model: Model) -> set[str]:
    """Returns the paths of parameters that are running means and variances of norms.

    A mean is subtracted from what the images make, and of a variance a root is taken: a wide input
    makes both large, and says nothing of what its channel gives.
    """
    source = {number: path for path, number in model.graph.params.items()}
    images, found = {model.graph.images}, set()
    for op in model.graph.ops:
        read = [source[i] for i in op.inputs if i in source]
        if op.kind in ("sqrt", "rsqrt", "pow") or (op.kind == "sub" and op.inputs[0] in images):
            found.update(read)
        if images.intersection(op.inputs):
            images.update(op.outputs)
        elif (preserves_values(op) or op.kind in _SHIFTS) and len(read) == 1:
            source[op.output] = read[0]  # a variance + epsilon too
    return found


def _scores(model: Model, groups: Sequence[Group], scores: Any, options: dict) -> list[np.ndarray]:
    """Returns float64[C] of each group."""
    leaves = model.leaves(model.params)
    tree = resolved(scores, model.params, options)
    if tree is None:
        rated = {path: np.square(np.asarray(leaf, np.float64)) for path, leaf in leaves.items()}
    else:
        rated = {p: np.asarray(leaf, np.float64) for p, leaf in model.leaves(tree).items()}
    if tree is not scores or scores is None:
        rated |= {path: 0 * rated[path] for path in _statistics(model)}
    for path, score in rated.items():
        if score.shape != leaves[path].shape:
            raise ConfigError(f"scores of {path} must be {leaves[path].shape}, got {score.shape}")
        if not np.isfinite(score).all():
            what = "scores" if scores is not None else "parameters"
            raise ConfigError(f"{what} of {path} are not finite")
    found = []
    for group in groups:
        total = np.zeros(len(group.channels))
        for path, axis, indices in group.slices:
            other = tuple(a for a in range(rated[path].ndim) if a != axis)
            total += rated[path].sum(other)[indices].sum(1)
        found.append(ranking.relative(total) if scores is None else total)
    return found
