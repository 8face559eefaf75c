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
      Pytree of the same structure; leaves without a matching cut are the same objects. A state that
      holds counts only, e.g. of SGD without momentum, stays as it is.

    Raises:
      ConfigError: if there are cuts but no array matches any; or arrays that belong to a parameter
        are not like it: another size, an axis more (`optax.lbfgs`) or less (`optax.adafactor`), one
        for each axis (`optax.sm3`). The message names them; such an optimiser begins anew, with
        `tx.init(small.params)`.

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
    holders = _holders(tree)
    _check_alike(named, holders, wanted)
    ranks: dict[str, tuple[int, str]] = {}  # of the arrays that follow each path
    for (path, leaf), holder in zip(named, holders, strict=True):
        matching = _matching(path, wanted, copies, places)
        matched = matched or bool(matching)
        rank = len(getattr(leaf, "shape", ()))
        if matching and rank and not _is_unused(leaf, holder):
            first = ranks.setdefault(matching[0].path, (rank, path))
            if rank != first[0]:
                raise _unlike(path, holder, f"has rank {rank}, {first[1]} {first[0]}")
            for each in matching:
                leaf = _cut(path, leaf, each, holder)
        leaves.append(leaf)
    if cuts and not matched and any(_is_alike(leaf) for _, leaf in named):
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


def _holders(tree: Any) -> list[str]:
    """Lists, for each leaf, the type of the innermost named tuple that holds it, or ""."""
    names = []
    for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        node, name = tree, ""
        for key in keys:
            if hasattr(node, "_fields"):
                name = type(node).__name__
            if isinstance(key, jax.tree_util.GetAttrKey):
                node = getattr(node, key.name)
            elif isinstance(key, jax.tree_util.SequenceKey):
                node = node[key.idx]
            elif isinstance(key, jax.tree_util.DictKey):
                node = node[key.key]
            else:
                break
        names.append(name)
    return names


def _is_alike(leaf: Any) -> bool:
    """Returns whether a leaf may mirror a parameter: no count, no key of random numbers."""
    dtype = getattr(leaf, "dtype", None)
    return bool(getattr(leaf, "shape", ())) and dtype is not None and dtype.kind != "u"


def _is_unused(leaf: Any, holder: str) -> bool:
    """Returns whether an array only fills a place: `optax.adafactor` has zeros of shape (1,)."""
    return holder == "FactoredState" and tuple(leaf.shape) == (1,)


def _check_alike(
    named: Sequence[tuple[str, Any]], holders: Sequence[str], wanted: dict[str, list[Cut]]
) -> None:
    """Raises ConfigError for arrays that are held below the paths of all cuts, or factored."""
    inner = {head for path, _ in named for head in _heads(path)[:-1]}
    prefixes = {head.removesuffix(end) for head in inner for end in _ends(head) if end in wanted}
    deep = {p for p in prefixes if all(p + path in inner for path in wanted)}
    for (path, leaf), holder in zip(named, holders, strict=True):
        if not getattr(leaf, "shape", ()):
            continue
        if any(path.startswith(f"{p}{each}/") for p in deep for each in wanted):
            raise _unlike(path, holder, "is one of several arrays for one parameter")
        factored = holder == "FactoredState" and {"v_row", "v_col"}.intersection(path.split("/"))
        if factored and not _is_unused(leaf, holder):
            raise _unlike(path, holder, "is a mean over an axis of the parameter")


def _unlike(path: str, holder: str, why: str) -> ConfigError:
    """Builds the error for an array of an optimiser's state that is not like its parameter."""
    return ConfigError(
        f"{path}{f' of {holder}' if holder else ''} {why}: what was removed cannot be taken out of "
        "it; begin this optimiser anew, tx.init(small.params), or cut another tree"
    )


def _cut(path: str, leaf: Any, each: Cut, holder: str) -> Any:
    shape = tuple(leaf.shape)
    if len(shape) <= each.axis or shape[each.axis] != each.size:
        raise ConfigError(
            f"{path}{f' of {holder}' if holder else ''} has shape {shape}, but {each.path} had "
            f"{each.size} indices on axis {each.axis} before it was cut; leave it out, cut it from "
            "what it was before, or begin an optimiser anew, tx.init(small.params)"
        )
    return taken(leaf, each.axis, each.kept)
