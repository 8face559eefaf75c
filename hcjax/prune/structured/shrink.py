"""`shrink`: removes whole channels of a network, which makes it smaller and faster.

Scores the channels, ranks them, and removes the lowest, in rounds, until it is small enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph.coupling.channels import Channels, Group, channels
from hcjax.graph.coupling.remove import without
from hcjax.graph.model import Model
from hcjax.graph.ops.table import preserves_values
from hcjax.prune.scores import resolved
from hcjax.prune.structured import ranking
from hcjax.prune.structured.importance import importance

_SHIFTS = ("convert_element_type", "add")  # of a variance, e.g. + epsilon


def shrink(
    model: Model,
    *,
    keep: float | None = None,
    macs: float | None = None,
    images: Any = None,
    labels: Any = None,
    scores: Any = None,
    scope: str = "global",
    rounds: int | None = None,
    round_to: int = 1,
    least: int | float = 0.125,
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
      images: [N, ...] as the network takes them, a few batches of its training set: the channels
        are scored by what their removal does to the logits of these, see `importance`. None: of
        noise, which asks for no data and is less exact.
      labels: int[N] of the images: scored by what it does to the likelihood of these instead.
      scores: instead of images, a pytree of float arrays like `model.params`; a channel's score is
        the sum over its slices. Or the name of a score in `prune.SCORES`, or a `prune.Criterion`:
        the same, without running statistics. Such scores are of the weights as they are: a folded
        network has others.
      scope: "global": one ranking of all channels; with `macs`, of their scores per product that
        their removal saves. "uniform": removes the same fraction of each group, its lowest scores.
      rounds: in how many steps the channels are removed; those that remain are scored anew after
        each. None: 8, or 1 with `scores`, which stay as they are.
      round_to: the number of channels kept in a group is a multiple of it, or all; 4, 8 or 16 suit
        most hardware.
      least: channels to keep in each group: a whole number >= 1, or a fraction of the group in
        (0, 1); rounded up to a multiple of `round_to`.
      select: which channels may be removed, by the kernels that make them: a predicate of path and
        leaf, or patterns of whole paths. None: all.
      **options: of the named score, e.g. `loss_fn` and `batches`; see `prune.score`.

    Returns:
      Model, which can be trained, folded, calibrated, quantized and packed like any other. Its
      `cut` lists the kept indices of each array, for `hcjax.cut` of optimiser states and
      training-mode networks.

    Raises:
      ConfigError: if an argument is out of range, no channel may be removed, the MACs cannot be
        reached (the message then gives the least that can), or images are not the network's.
      TypeError: if the model is quantized, or not a Model.

    Reference:
      Liu et al., "Group Fisher Pruning for Practical Network Compression", 2021, arXiv:2108.00708:
      scores of coupled channels per saved product, measured anew as channels go. Deviations:
      without labels the change of the logits is scored, not that of the loss; rounds of equal size,
      without training in between. Coupling: Fang et al., "DepGraph", 2023, arXiv:2301.12900.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"a": jnp.array([[1.0, 5.0, 2.0, 4.0]]), "b": jnp.ones((4, 3))}
      >>> model = trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 1)))
      >>> small = shrink(model, keep=0.5)
      >>> small.params["a"].tolist(), small.params["b"].shape, small.cut[0].kept
      ([[5.0, 4.0]], (2, 3), (1, 3))
    """
    _check(keep, macs, scope, rounds, round_to, least)
    if scores is not None and (images is not None or labels is not None):
        raise ConfigError("give scores, or images to score the channels on, not both")
    coupled = channels(model)
    groups = _selected(model, coupled.groups, select)
    if not groups:
        raise ConfigError(f"there is nothing that may be cut: {_reasons(coupled.kept)}")
    products = ranking.products(model, coupled)
    if scores is None and not options:
        measure, rounds = importance(model, coupled, images, labels), rounds or 8
    else:
        sums = _sums(model, groups, coupled.count, scores, options)
        measure, rounds = (lambda removed: sums), rounds or 1
    total = sum(len(group.channels) for group in groups)
    removed = np.zeros(coupled.count, bool)
    order = _reading_order(coupled)
    groups = sorted(groups, key=lambda group: order[group.channels].min())
    floors = [_floor(least, len(group.channels), round_to) for group in groups]
    members = [group.channels[np.argsort(order[group.channels])] for group in groups]
    for left in np.arange(rounds)[::-1] / rounds:  # of what is to be removed
        channel_scores = measure(removed)
        if macs is not None and scores is None:
            channel_scores = channel_scores / products.saved(removed)
        channel_scores = np.where(removed, -np.inf, channel_scores)  # those stay removed
        each = [channel_scores[channels] for channels in members]
        units = ranking.units(members, each, scope=scope, round_to=round_to, floors=floors)
        if macs is None:
            chosen = ranking.at_most(units, int((1 - left) * (1 - keep) * total + 1e-9))
        else:
            chosen = ranking.down_to(units, products, macs + left * (1 - macs))
        removed = np.zeros(coupled.count, bool)
        for unit in chosen:
            removed[unit.channels] = True
    return without(model, coupled, removed)


def _check(keep, macs, scope, rounds, round_to, least) -> None:
    if (keep is None) == (macs is None):
        raise ConfigError(f"give one of keep and macs, got keep={keep}, macs={macs}")
    for name, value in (("keep", keep), ("macs", macs)):
        if value is None:
            continue
        if not isinstance(value, Real | jax.Array) or not 0 < value <= 1:
            raise ConfigError(f"{name} must be a fraction in (0, 1], got {value!r}")
    for name, value in (("round_to", round_to), ("rounds", 1 if rounds is None else rounds)):
        if not isinstance(value, Integral) or value < 1:
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}")
    whole = isinstance(least, Integral) and least >= 1
    if not whole and not (isinstance(least, Real) and 0 < least < 1):
        raise ConfigError(
            f"least must be a whole number >= 1, or a fraction in (0, 1), got {least!r}"
        )
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
    images, statistics = set(model.graph.inputs), set()
    for op in model.graph.ops:
        read = [source[i] for i in op.inputs if i in source]
        if op.kind in ("sqrt", "rsqrt", "pow") or (op.kind == "sub" and op.inputs[0] in images):
            statistics.update(read)
        if images.intersection(op.inputs):
            images.update(op.outputs)
        elif (preserves_values(op) or op.kind in _SHIFTS) and len(read) == 1:
            source[op.output] = read[0]
    return statistics


def _reading_order(coupled: Channels) -> np.ndarray:
    """Returns, for each channel, the place at which layers read it first, int[count].

    Of equal scores it decides which goes, alike in a network and its folded form.
    """
    order = np.full(coupled.count, np.iinfo(np.int64).max)
    place = 0
    for read in coupled.reads:
        channels = coupled.axes[read.op.inputs[0]][read.axes[0]]
        np.minimum.at(order, channels, place + np.arange(len(channels)))
        place += len(channels)
    return order


def _floor(least: int | float, count: int, round_to: int) -> int:
    """Returns the smallest number of channels that a group of `count` may keep."""
    floor = math.ceil(least * count) if least < 1 else least
    return math.ceil(floor / round_to) * round_to


def _sums(
    model: Model, groups: Sequence[Group], count: int, scores: Any, options: dict
) -> np.ndarray:
    """Adds up scores of weights over the slices of each channel, float64[count]."""
    leaves = model.leaves(model.params)
    tree = resolved(scores, model.params, options)
    weight_scores = {p: np.asarray(leaf, np.float64) for p, leaf in model.leaves(tree).items()}
    if tree is not scores:
        weight_scores |= {path: 0 * weight_scores[path] for path in _statistics(model)}
    for path, score in weight_scores.items():
        if score.shape != leaves[path].shape:
            raise ConfigError(f"scores of {path} must be {leaves[path].shape}, got {score.shape}")
        if not np.isfinite(score).all():
            raise ConfigError(f"scores of {path} are not finite")
    sums = np.zeros(count)
    for group in groups:
        for path, axis, indices in group.slices:
            other = tuple(a for a in range(weight_scores[path].ndim) if a != axis)
            sums[group.channels] += weight_scores[path].sum(other)[indices].sum(1)
    return sums
