"""`shrink`: removes whole channels of a network, which makes it smaller and faster.

Scores the channels, ranks them, and removes the lowest until the network is small enough.
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

_SHIFTS = ("convert_element_type", "add")  # of a variance, e.g. + epsilon


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
    """Removes the least important channels of a network: smaller arrays, fewer MACs.

    Coupled channels (`hcjax.graph.channels`) are removed together. The logits equal those of the
    original network with all slices of the removed channels set to zero, both where they are
    computed and where they are read.

    Args:
      model: from `trace` or `fold`, in float.
      keep: fraction of the channels to keep, in (0, 1]; never fewer are kept, and as few more as
        `least` and `round_to` allow.
      macs: instead of `keep`: fraction of the MACs to keep, in (0, 1]; never more are kept, and as
        few less as whole channels allow.
      scores: pytree of float arrays like `model.params`; a channel's score is the sum over its
        slices. Or the name of a score in `prune.SCORES`, or a `prune.Criterion`: the same, without
        running statistics. None: the sum of squares of its slices, without running statistics,
        divided by the mean score of the channels of its group that would remain
        (`ranking.relative`): this makes layers of different scale comparable, and protects groups
        whose channels are equally important.
      scope: "global": one ranking of all channels. "uniform": removes the same fraction of each
        group, its lowest scores.
      round_to: the number of channels kept in a group is a multiple of it, or all; 4, 8 or 16 suit
        most hardware.
      least: channels to keep in each group, >= 1; None: `round_to`.
      select: which channels may be removed, by the kernels that make them: a predicate of path and
        leaf, or patterns of whole paths. None: all.
      **options: of the named score, e.g. `loss_fn` and `batches`; see `prune.score`.

    Returns:
      Model, which can be trained, folded, calibrated, quantized and packed like any other. Its
      `cut` lists the kept indices of each array, for `hcjax.cut` of optimiser states and
      training-mode networks.

    Raises:
      ConfigError: if an argument is out of range, no channel may be removed, or the MACs cannot be
        reached; the message then gives the least that can.
      TypeError: if the model is quantized, or not a Model.

    Reference:
      Li et al., "Pruning Filters for Efficient ConvNets", 2016, arXiv:1608.08710. Scores: the
      magnitude of Fang et al., "DepGraph", 2023, arXiv:2301.12900, section 3.3, p = 2. Deviations:
      all slices count, biases too, and are summed, not averaged, over the arrays of a group; the
      normalising mean is over the channels that are not lower, as if they were removed one by one.

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
    coupled = channels(model)
    groups = _selected(model, coupled.groups, select)
    if not groups:
        raise ConfigError(f"there is nothing that may be cut: {_reasons(coupled.kept)}")
    importance = _importance(model, groups, scores, options)
    units = ranking.units(groups, importance, scope=scope, round_to=round_to, least=least)
    if macs is None:
        total = sum(len(group.channels) for group in groups)
        chosen = ranking.at_most(units, int((1 - keep) * total + 1e-9))
    else:
        chosen = ranking.down_to(units, ranking.products(model, coupled), macs)
    removed = np.zeros(coupled.count, bool)
    for unit in chosen:
        removed[unit.channels] = True
    return without(model, coupled, removed)


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
    """Lists the reasons why axes must be kept, each with a few of these axes."""
    by_reason: dict[str, list[str]] = {}
    for (path, axis), why in kept.items():
        by_reason.setdefault(why, []).append(f"{path} axis {axis}")
    parts = [f"{why}: {', '.join(axes[:3])}" for why, axes in by_reason.items()]
    return "; ".join(parts) or "nothing is selected"


def _selected(model: Model, groups: Sequence[Group], select: Any) -> list[Group]:
    """Selects the groups that one of the selected kernels makes."""
    if select is None:
        return list(groups)
    pick = trees.mask if callable(select) else trees.select
    chosen = zip(
        trees.paths(model.params), jax.tree.leaves(pick(model.params, select)), strict=True
    )
    paths = {path for (path, _), use in chosen if use}
    return [group for group in groups if paths.intersection(group.made_by)]


def _statistics(model: Model) -> set[str]:
    """Finds the running means and variances of normalisations, as paths of parameters.

    A mean is subtracted from a value that depends on the images; of a variance a root is taken.
    Both grow with the scale of a channel's input, and say nothing about its importance.
    """
    source = {number: path for path, number in model.graph.params.items()}
    images, statistics = {model.graph.images}, set()
    for op in model.graph.ops:
        read = [source[i] for i in op.inputs if i in source]
        if op.kind in ("sqrt", "rsqrt", "pow") or (op.kind == "sub" and op.inputs[0] in images):
            statistics.update(read)
        if images.intersection(op.inputs):
            images.update(op.outputs)
        elif (preserves_values(op) or op.kind in _SHIFTS) and len(read) == 1:
            source[op.output] = read[0]
    return statistics


def _importance(
    model: Model, groups: Sequence[Group], scores: Any, options: dict
) -> list[np.ndarray]:
    """Computes the score of each channel, float64[C] of each group."""
    leaves = model.leaves(model.params)
    tree = resolved(scores, model.params, options)
    if tree is None:
        weight_scores = {
            path: np.square(np.asarray(leaf, np.float64)) for path, leaf in leaves.items()
        }
    else:
        weight_scores = {p: np.asarray(leaf, np.float64) for p, leaf in model.leaves(tree).items()}
    if tree is not scores or scores is None:
        weight_scores |= {path: 0 * weight_scores[path] for path in _statistics(model)}
    for path, score in weight_scores.items():
        if score.shape != leaves[path].shape:
            raise ConfigError(f"scores of {path} must be {leaves[path].shape}, got {score.shape}")
        if not np.isfinite(score).all():
            what = "scores" if scores is not None else "parameters"
            raise ConfigError(f"{what} of {path} are not finite")
    importance = []
    for group in groups:
        total = np.zeros(len(group.channels))
        for path, axis, indices in group.slices:
            other = tuple(a for a in range(weight_scores[path].ndim) if a != axis)
            total += weight_scores[path].sum(other)[indices].sum(1)
        importance.append(ranking.relative(total) if scores is None else total)
    return importance
