"""`cut`: what was cut from a network's parameters, cut from any tree that follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph.model import Cut
from hcjax.graph.resize import taken


def cut(tree: Any, cuts: Sequence[Cut], *, root: str = "") -> Any:
    """Returns a tree whose arrays are cut like the parameters that they belong to.

    A leaf is cut if its path is that of a cut, or ends in it after a '/': '0/mu/conv1/kernel' of
    an optimiser's state follows 'conv1/kernel'. Where the paths of all cuts lie behind one prefix,
    there is a copy of the parameters, and in it only they follow: not 'block/conv1/kernel'.

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
    copies = _copies([path for path, _ in named], wanted)
    for path, leaf in named:
        mine = _following(path, wanted, copies)
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


def _copies(names: Sequence[str], wanted: dict[str, list[Cut]]) -> set[str]:
    """Returns the prefixes behind which every path of a cut is found."""
    one, names = next(iter(wanted), ""), set(names)
    prefixes = {name.removesuffix(one) for name in names if f"/{name}".endswith(f"/{one}")}
    return {prefix for prefix in prefixes if all(prefix + path in names for path in wanted)}


def _following(path: str, wanted: dict[str, list[Cut]], copies: set[str]) -> list[Cut]:
    """Returns the cuts of the longest path that a leaf's path ends in; in a copy, of its own."""
    inside = any(path.startswith(prefix) for prefix in copies)
    parts = path.split("/")
    for i in range(len(parts)):
        end = "/".join(parts[i:])
        if end in wanted and (not inside or path.removesuffix(end) in copies):
            return wanted[end]
    return []


def _cut(path: str, leaf: Any, each: Cut) -> Any:
    shape = tuple(getattr(leaf, "shape", ()))
    if len(shape) <= each.axis or shape[each.axis] != each.size:
        raise ConfigError(
            f"{path} has shape {shape}, but {each.path} had {each.size} indices on axis "
            f"{each.axis} before it was cut; leave it out, or cut it from what it was before"
        )
    return taken(leaf, each.axis, each.kept)
