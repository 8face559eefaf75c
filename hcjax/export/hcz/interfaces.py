"""The trees of a network's inputs and outputs as JSON and back.

A tree is {"d": {name: tree}}, {"l": [trees]}, {"t": [trees]}, null, or an array: [shape, dtype],
with a third entry, false, for a number that is the same for the whole batch. Of outputs the arrays
are numbers of the graph. A network from one array of images to one array has the plain entries
"images" and "logits" instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz import arrays
from hcjax.graph.interface import Leaf
from hcjax.graph.model import Model

_DEEPEST = 32
_MOST = 1000  # arrays of a tree


def order(inputs: tuple) -> list[int]:
    """Returns the places of a network's inputs in the order in which a file's tree has them.

    A file holds dicts, lists and tuples; the fields of other containers come in another order.
    """
    places = jax.tree.unflatten(jax.tree.structure(inputs), range(len(jax.tree.leaves(inputs))))
    return jax.tree.leaves(_decode(_encode(places, int), int))


def plain(model: Model) -> Model:
    """Returns a network whose inputs and outputs are dicts, lists and tuples, as those of a file.

    Raises:
      TypeError: if a key of a dict is no text.

    Example:
      >>> import collections, hcjax, jax.numpy as jnp
      >>> Pair = collections.namedtuple("Pair", "b a")
      >>> swap = hcjax.trace(lambda p, x: Pair(x.a, x.b), {}, Pair(jnp.ones(1), jnp.zeros(1)))
      >>> plain(swap).apply({}, {"a": jnp.ones(1), "b": jnp.zeros(1)})
      {'a': Array([0.], dtype=float32), 'b': Array([1.], dtype=float32)}
    """
    graph, same = model.graph, lambda leaf: leaf

    def numbered(tree, numbers):
        numbers = jax.tree.unflatten(jax.tree.structure(tree), numbers)
        return tuple(jax.tree.leaves(_decode(_encode(numbers, int), int)))

    return model.replace(
        graph=graph._replace(
            inputs=numbered(model.inputs, graph.inputs),
            outputs=numbered(model.outputs, graph.outputs),
        ),
        inputs=_decode(_encode(model.inputs, same), same),
        outputs=_decode(_encode(model.outputs, same), same),
    )


def places(interface: Any) -> Any:
    """Returns a plain tree as JSON, with the places of its flat arrays in their stead.

    Example:
      >>> places({"a": 0.5, "b": [0.5, 0.5]})
      {'d': {'a': 0, 'b': {'l': [1, 2]}}}
    """
    structure = jax.tree.structure(interface)
    return _encode(jax.tree.unflatten(structure, range(structure.num_leaves)), int)


def tree_of(placed: Any) -> Any:
    """Returns the tree of places that `places` wrote.

    Raises:
      ArtifactError: if it is damaged.
    """
    tree = _decode(placed, lambda place: place)
    if sorted(jax.tree.leaves(tree), key=str) != sorted(range(len(jax.tree.leaves(tree))), key=str):
        raise ArtifactError(f"{placed!r:.60} is no tree of places")
    return tree


def encode_inputs(inputs: tuple) -> dict[str, Any]:
    """Returns the entry of a head for a network's inputs.

    Raises:
      TypeError: if a key of a dict is no text.
    """
    if len(inputs) == 1 and isinstance(inputs[0], Leaf) and inputs[0].batched:
        return {"images": _leaf(inputs[0])}
    return {"inputs": _encode(inputs, _leaf)}


def encode_outputs(outputs: Any, numbers: list[int]) -> dict[str, Any]:
    """Returns the entry of a head for a network's outputs."""
    if isinstance(outputs, Leaf):
        return {"logits": numbers[0]}
    numbered = jax.tree.unflatten(jax.tree.structure(outputs), numbers)
    return {"outputs": _encode(numbered, int)}


def decode_inputs(head: dict) -> tuple:
    """Returns the tree of `Leaf` of a head's inputs.

    Raises:
      ArtifactError: if it is damaged.
    """
    if "images" in head:
        return (_input(head["images"]),)
    inputs = _decode(head["inputs"], _input)
    leaves = jax.tree.leaves(inputs)
    if not isinstance(inputs, tuple) or not 0 < len(leaves) <= _MOST:
        raise ArtifactError(f"{len(leaves):,} inputs; 1 to {_MOST:,} are legal")
    if not any(leaf.batched for leaf in leaves):
        raise ArtifactError("no input has an axis of examples")
    return inputs


def decode_outputs(head: dict) -> tuple[Any, list[int]]:
    """Returns the tree of a head's outputs, and their numbers."""
    if "logits" in head:
        return 0, [head["logits"]]
    outputs = _decode(head["outputs"], lambda number: number)
    numbers = jax.tree.leaves(outputs)
    if not 0 < len(numbers) <= _MOST:
        raise ArtifactError(f"{len(numbers):,} outputs; 1 to {_MOST:,} are legal")
    return outputs, numbers


def _leaf(leaf: Leaf) -> list:
    shape = [list(leaf.shape), np.dtype(leaf.dtype).name]
    return shape if leaf.batched else [*shape, False]


def _input(entry: list) -> Leaf:
    shape, dtype, *batched = entry
    arrays.check_shape(shape)
    if batched not in ([], [False]) or (batched and shape):
        raise ArtifactError(f"{entry!r} is no input")
    return Leaf(tuple(shape), arrays.dtype_of(dtype), not batched)


def _encode(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Converts a tree to JSON; a container of another kind becomes a dict of its fields."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        if unknown := [name for name in tree if not isinstance(name, str)]:
            raise TypeError(f"a file holds dicts with text as keys, not {unknown[0]!r}")
        return {"d": {str(name): _encode(tree[name], leaf) for name in sorted(tree)}}
    if type(tree) in (list, tuple):
        return {"l" if type(tree) is list else "t": [_encode(each, leaf) for each in tree]}
    fields = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)[0]
    if len(fields) == 1 and fields[0][1] is tree:
        return leaf(tree)
    return {"d": {jax.tree_util.keystr(path, simple=True): _encode(x, leaf) for path, x in fields}}


def _decode(value: Any, leaf: Callable[[Any], Any], depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ArtifactError(f"a tree is deeper than {_DEEPEST}")
    if value is None:
        return None
    if not isinstance(value, dict):
        return leaf(value)
    ((kind, content),) = value.items()
    if kind == "d":
        return {name: _decode(content[name], leaf, depth + 1) for name in content}
    if kind not in ("l", "t"):
        raise ArtifactError(f"unknown container {kind!r}")
    parts = [_decode(each, leaf, depth + 1) for each in content]
    return parts if kind == "l" else tuple(parts)
