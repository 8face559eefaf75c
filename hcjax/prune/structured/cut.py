"""`cut`: what was cut from a network's parameters, cut from any tree that follows them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import jax

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph.coupling.remove import taken
from hcjax.graph.model import Cut


def cut(tree: Any, cuts: Sequence[Cut], *, root: str = "") -> Any:
    """Returns a tree whose arrays are cut like the parameters that they belong to.

    A leaf is cut if its path is that of a cut, or ends in it after a '/': '0/mu/conv1/kernel' of
    an optimiser's state follows 'conv1/kernel'. Where the paths of all cuts lie behind one prefix,
    there is a copy of the parameters, and in it only they follow: not 'block/conv1/kernel'. A place
    that is left empty, by None or `optax.MaskedNode()`, counts as there. Where no copy is whole, a
    leaf does not follow if another does with less before it: of 'mu/conv1/bias' and
    'mu/block/conv1/bias' the first. Scalars stay as they are, e.g. the True of a mask.

    Args:
      tree: pytree of arrays: the parameters and statistics that were traced, an average of them, an
        optimiser's state, masks.
      cuts: `cut` of the Model that `shrink` or `trim` gave; applied in order.
      root: where the tree's parameters lay in the tree that was traced, e.g. "params" for the
        optimiser state of a Linen network's params. Cuts elsewhere are left out.

    Returns:
      Pytree of the same structure; leaves that no cut follows are the same objects.

    Raises:
      ConfigError: if there are cuts but no leaf follows any, or a leaf that follows one has another
        size; it names them.

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
    named, found, leaves = trees.paths(tree), False, []
    places = {path for path, _ in trees.paths(tree, _is_empty)}
    copies = _copies(places, wanted)
    for path, leaf in named:
        mine = _following(path, wanted, copies, places)
        found = found or bool(mine)
        for each in mine:
            leaf = _cut(path, leaf, each)
        leaves.append(leaf)
    if cuts and not found:
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
    """Returns 'a/b', 'b' of 'a/b'."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _heads(path: str) -> list[str]:
    """Returns 'a', 'a/b' of 'a/b'."""
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _copies(places: Set[str], wanted: dict[str, list[Cut]]) -> set[str]:
    """Returns the prefixes behind which every path of a cut is found, or an empty place for it."""
    prefixes = {path.removesuffix(end) for path in places for end in _ends(path) if end in wanted}
    return {p for p in prefixes if all(places.intersection(_heads(p + path)) for path in wanted)}


def _following(
    path: str, wanted: dict[str, list[Cut]], copies: set[str], places: Set[str]
) -> list[Cut]:
    """Returns the cuts of the longest path that a leaf's path ends in; in a copy, of its own."""
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
        return leaf  # it says one thing of all indices
    if len(shape) <= each.axis or shape[each.axis] != each.size:
        raise ConfigError(
            f"{path} has shape {shape}, but {each.path} had {each.size} indices on axis "
            f"{each.axis} before it was cut; leave it out, or cut it from what it was before"
        )
    return taken(leaf, each.axis, each.kept)
