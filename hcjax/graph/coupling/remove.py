"""Removes channels from a network: every op and array gets its new size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.graph.coupling.channels import Channels
from hcjax.graph.model import LAYERS, Cut, Model, Op, Size
from hcjax.graph.ops.layers import macs
from hcjax.graph.ops.table import defined, kind_of

Stays = tuple[np.ndarray, ...]  # bool[size] of each axis: which indices stay


def without(model: Model, channels: Channels, gone: np.ndarray) -> Model:
    """Returns the network without some channels, and appends the cuts to its `cut`.

    Args:
      model: whose channels they are.
      channels: of `channels(model)`.
      gone: bool[channels + 1], by number; number 0, what is kept, is False.
    """
    stays = {
        number: tuple(~gone[along] for along in axes) for number, axes in channels.axes.items()
    }
    leaves = model.leaves(model.params)
    cuts: list[Cut] = []

    def smaller(number: int, value: Any, path: str | None) -> Any:
        for axis, stay in enumerate(stays[number]):
            if not stay.all():
                kept = tuple(np.flatnonzero(stay).tolist())
                value = taken(value, axis, kept)
                if path is not None:
                    cuts.append(Cut(path, axis, kept, len(stay)))
        return value

    params = {path: smaller(n, leaves[path], path) for path, n in model.graph.params.items()}
    frozen = {number: path for path, number in model.graph.frozen}
    constants = {n: smaller(n, v, frozen.get(n)) for n, v in model.graph.constants.items()}
    ops = tuple(_resized(op, stays) for op in model.graph.ops)
    return model.replace(
        graph=model.graph._replace(ops=ops, constants=constants),
        params=params,
        cut=(*model.cut, *cuts),
    )


def taken(value: Any, axis: int, kept: Sequence[int]) -> Any:
    """Returns an array of some of the indices of one axis; of numpy if it was of numpy."""
    found = np.take(np.asarray(value), kept, axis)  # a gather of jax's would compile for each shape
    return found if isinstance(value, np.ndarray) else jnp.asarray(found)


def _resized(op: Op, stays: dict[int, Stays]) -> Op:
    """Returns an op for operands and results of their new sizes."""
    if any(i not in stays for i in (*op.inputs, *op.outputs)):
        return op  # nothing around what cannot be followed is cut
    inside, outside = [stays[i] for i in op.inputs], [stays[o] for o in op.outputs]
    shape = tuple(
        size if stay.all() else Size(0, int(stay.sum()))
        for size, stay in zip(op.shape, outside[0], strict=True)
    )
    op = op._replace(shape=shape)
    if op.kind in LAYERS:
        sizes = (tuple(Size(0, int(stay.sum())) for stay in axes) for axes in inside[:2])
        op = op._replace(macs=macs(op, tuple(sizes)))
    kind = kind_of(op)
    change = kind.resize if kind else None
    if change is None or all(stay.all() for axes in (*inside, *outside) for stay in axes):
        return op
    changed = change(op, inside, outside)
    return defined(op, params=op.params | changed) if changed else op
