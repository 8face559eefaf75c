"""Removes channels from a network, and resizes every op and array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.graph.coupling.channels import Channels
from hcjax.graph.model import LAYERS, Cut, Model, Op, Size
from hcjax.graph.ops.layers import macs
from hcjax.graph.ops.table import defined, kind_of

Masks = tuple[np.ndarray, ...]  # bool[size] of each axis, False at the removed indices


def without(model: Model, channels: Channels, removal: np.ndarray) -> Model:
    """Returns the network without some channels, and appends the cuts to its `cut`.

    Args:
      model: the network.
      channels: `channels(model)`.
      removal: bool[channels + 1], True at the channels to remove; False at 0.
    """
    masks = {
        number: tuple(~removal[axis] for axis in axes) for number, axes in channels.axes.items()
    }
    leaves = model.leaves(model.params)
    cuts: list[Cut] = []

    def shrink(number: int, value: Any, path: str | None) -> Any:
        for axis, mask in enumerate(masks[number]):
            if not mask.all():
                indices = tuple(np.flatnonzero(mask).tolist())
                value = taken(value, axis, indices)
                if path is not None:
                    cuts.append(Cut(path, axis, indices, len(mask)))
        return value

    params = {path: shrink(n, leaves[path], path) for path, n in model.graph.params.items()}
    frozen = {number: path for path, number in model.graph.frozen}
    constants = {n: shrink(n, v, frozen.get(n)) for n, v in model.graph.constants.items()}
    ops = tuple(_resize(op, masks) for op in model.graph.ops)
    return model.replace(
        graph=model.graph._replace(ops=ops, constants=constants),
        params=params,
        cut=(*model.cut, *cuts),
    )


def taken(value: Any, axis: int, indices: Sequence[int]) -> Any:
    """Returns an array at some indices of one axis; NumPy stays NumPy."""
    array = np.take(np.asarray(value), indices, axis)  # jax's gather would compile for each shape
    return array if isinstance(value, np.ndarray) else jnp.asarray(array)


def _resize(op: Op, masks: dict[int, Masks]) -> Op:
    """Resizes an op to the new sizes of its operands and results."""
    if any(i not in masks for i in (*op.inputs, *op.outputs)):
        return op  # nothing is cut around an op that no rule can follow
    input_masks, output_masks = [masks[i] for i in op.inputs], [masks[o] for o in op.outputs]
    shape = tuple(
        size if mask.all() else Size(0, int(mask.sum()))
        for size, mask in zip(op.shape, output_masks[0], strict=True)
    )
    op = op._replace(shape=shape)
    if op.kind in LAYERS:
        sizes = (tuple(Size(0, int(mask.sum())) for mask in axes) for axes in input_masks[:2])
        op = op._replace(macs=macs(op, tuple(sizes)))
    kind = kind_of(op)
    resize = kind.resize if kind else None
    if resize is None or all(mask.all() for axes in (*input_masks, *output_masks) for mask in axes):
        return op
    resized_params = resize(op, input_masks, output_masks)
    return defined(op, params=op.params | resized_params) if resized_params else op
