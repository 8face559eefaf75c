"""`cut`: removes channels from any tree that mirrors a network's parameters."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import jax

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph.coupling.remove import taken
from hcjax.graph.model import Cut


def cut(tree: Any, cuts: Sequence[Cut], *, root: str = "") -> Any:
    """Removes the channels that `shrink` or `trim` removed from the arrays of another tree.

    A leaf matches a cut if its path is that of the cut, or ends in it after a '/':
    '0/mu/conv1/kernel' of an optimiser's state matches 'conv1/kernel'. If the paths of all cuts
    occur after one prefix, that is a copy of the parameters, and under this prefix only exact paths
    match: not 'block/conv1/kernel'. Empty places (None, `optax.MaskedNode()`) count as occurrences.
    Without a complete copy, the shortest prefix matches: of 'mu/conv1/bias' and
    'mu/block/conv1/bias' the first. Scalars stay as they are, e.g. the True of a mask.

    Args:
      tree: pytree of arrays: the traced parameters and statistics, an average of them, an
        optimiser's state, masks.
      cuts: the `cut` of a Model from `shrink` or `trim`; applied in order.
      root: path of these parameters in the traced tree, e.g. "params" for the optimiser state of a
        Linen network's params. Cuts elsewhere are ignored.

    Returns:
      Pytree of the same structure; leaves without a matching cut are the same objects.

    Raises:
      ConfigError: if there are cuts but no leaf matches any, or a matching leaf has another size;
        the message names them.

    Example:
      >>> import numpy as np
      >>> tree = {"conv1": {"kernel": np.arange(8.0).reshape(2, 4)}, "step": np.int32(7)}
      >>> cut(tree, [Cut("conv1/kernel", 1, (0, 3), 4)])["conv1"]["kernel"].tolist()
      [[0.0, 3.0], [4.0, 7.0]]
    """
    wanted: dict[str, list[Cut]] = {}
    prefix = f"{root}/" if root else ""
    for each in cuts:
        if each.path.startswith(prefix):
            wanted.setdefault(each.path.removeprefix(prefix), []).append(each)
    named, matched, leaves = trees.paths(tree), False, []
    places = {path for path, _ in trees.paths(tree, _is_empty)}
    copies = _copies(places, wanted)
    for path, leaf in named:
        matching = _matching(path, wanted, copies, places)
        matched = matched or bool(matching)
        for each in matching:
            leaf = _cut(path, leaf, each)
        leaves.append(leaf)
    if cuts and not matched:
        paths = ", ".join(sorted({each.path for each in cuts})[:5])
        raise ConfigError(
            f"no leaf follows a cut: the cuts are of {paths}, …, the leaves are "
            f"{', '.join(path for path, _ in named[:5])}, …; give root= if the tree that was "
            "traced held these parameters under a name"
        )
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _is_empty(node: Any) -> bool:
    return node is None or (isinstance(node, tuple) and not node)


def _ends(path: str) -> list[str]:
    """Lists the suffixes of a path: 'a/b' and 'b' of 'a/b'."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _heads(path: str) -> list[str]:
    """Lists the prefixes of a path: 'a' and 'a/b' of 'a/b'."""
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _copies(places: Set[str], wanted: dict[str, list[Cut]]) -> set[str]:
    """Finds the prefixes after which every path of a cut occurs, or an empty place for it."""
    prefixes = {path.removesuffix(end) for path in places for end in _ends(path) if end in wanted}
    return {p for p in prefixes if all(places.intersection(_heads(p + path)) for path in wanted)}


def _matching(
    path: str, wanted: dict[str, list[Cut]], copies: set[str], places: Set[str]
) -> list[Cut]:
    """Finds the cuts of the longest path that a leaf's path ends in; in a copy, only exact ones."""
    inside = any(path.startswith(prefix) for prefix in copies)
    for end in _ends(path):
        if end not in wanted:
            continue
        before = path.removesuffix(end)
        outer = ["", *(f"{head}/" for head in _heads(before[:-1])[:-1])] if before else []
        if before in copies if inside else places.isdisjoint(each + end for each in outer):
            return wanted[end]
    return []


def _cut(path: str, leaf: Any, each: Cut) -> Any:
    shape = tuple(getattr(leaf, "shape", ()))
    if not shape:
        return leaf  # a scalar holds for all indices
    if len(shape) <= each.axis or shape[each.axis] != each.size:
        raise ConfigError(
            f"{path} has shape {shape}, but {each.path} had {each.size} indices on axis "
            f"{each.axis} before it was cut; leave it out, or cut it from what it was before"
        )
    return taken(leaf, each.axis, each.kept)
