"""Coupling: which indices of which axes can be cut only together, op by op.

A rule takes the nodes of an op's operands, merges those that are one channel into a class, and
returns the nodes of the result. An op that mixes channels, or has no rule, keeps all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hcjax.graph.coupling.reshape import reshaped
from hcjax.graph.coupling.union_find import Axes, Classes, where
from hcjax.graph.model import Model, Op, at_batch, is_quantized
from hcjax.graph.ops.kind import CAST, ELEMENTWISE, MOVE, ORDER, REDUCE, SUM
from hcjax.graph.ops.table import at_one_image, carries_zeros, family, kind_of
from hcjax.graph.qtensor import QTensor


def couple(model: Model) -> Classes:
    """Returns the classes of all values of a graph.

    Raises:
      TypeError: if the model is quantized, or no Model.
    """
    if not isinstance(model, Model):
        kind = type(model).__name__
        raise TypeError(f"expected a Model, got {kind}: give hcjax.trace(apply, params, images)")
    leaves = model.leaves(model.params)
    known = {number: leaves[path] for path, number in model.graph.params.items()}
    known |= model.graph.constants
    if is_quantized(model) or any(isinstance(value, QTensor) for value in known.values()):
        raise TypeError("the model is quantized: cut its channels first, then calibrate and int8")
    named = {*model.graph.params.values(), *(number for _, number in model.graph.frozen)}
    c = Classes({number: np.shape(value) for number, value in known.items()}, named)
    images = (1, *model.image_shape)
    c.axes[model.graph.images] = tuple(c.keep(c.fresh(n), "it is the images'") for n in images)
    varying = {model.graph.images}
    for op in model.graph.ops:
        _follow(c, op)
        if varying.intersection(op.inputs):
            varying.update(op.outputs)
        elif carries_zeros(op):
            _carry(c, op)
    for nodes in c.axes[model.graph.logits] or ():
        c.keep(nodes, "it is the logits'")
    return c


def _follow(c: Classes, op: Op) -> None:
    operands = [c.axes[i] for i in op.inputs]
    rule = None if any(axes is None for axes in operands) else _rule(op)
    found = rule(c, op, *operands) if rule else None
    if found is None:
        found = [tuple(map(c.fresh, op.sizes(1))), *[None] * (len(op.outputs) - 1)]
        for nodes in (n for axes in (*operands, found[0]) for n in axes or ()):
            c.keep(nodes, f"{where(op)} cannot be followed")
    results = found if isinstance(found, list) else [found]
    c.axes |= zip(op.outputs, results, strict=True)
    for nodes, size in zip(results[0], op.shape, strict=True):
        if size.q:
            c.keep(nodes, "it is as long as the batch")


def _carry(c: Classes, op: Op) -> None:
    """Notes whether a result is zero where a slice is; a product has the nodes of what makes it so.

    A scalar has no slices, so that it makes nothing zero; nor do factors along an axis on which
    they are repeated.
    """
    operands = op.inputs if op.kind == "mul" else op.inputs[:1]
    carried = [c.axes[i] for i in operands if i in c.carried and c.axes[i]]
    if carried:
        c.carried.update(op.outputs)
    if carried and op.kind in ("mul", "div"):
        axes = []
        for nodes, *own in zip(c.axes[op.output], *carried, strict=True):
            axes.append(next((n for n in own if len(n) == len(nodes)), c.fresh(len(nodes))))
            c.same(axes[-1], nodes)
        c.axes[op.output] = tuple(axes)


def _elementwise(c: Classes, op: Op, *operands: Axes) -> Axes:
    found = []
    for along in zip(*filter(None, operands), strict=True):  # scalars have no axes
        longest = max(along, key=len)
        for nodes in along:
            if len(nodes) == len(longest):
                c.same(longest, nodes)
            else:  # the only index of an axis is there for all of the others'
                c.keep(nodes, f"{where(op)} repeats it")
        found.append(longest)
    return tuple(found)


def _convolution(c: Classes, op: Op, x: Axes, kernel: Axes, *bias: Axes) -> Axes | None:
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    if op.params.get("batch_group_count", 1) != 1:
        return None
    _, channel, *pixels = numbers.lhs_spec
    out, inside, *taps = numbers.rhs_spec
    for nodes in (*(x[a] for a in pixels), *(kernel[a] for a in taps)):
        c.keep(nodes, f"{where(op)} has windows over it")
    made = c.making(kernel[out])
    rows, outs = x[channel].reshape(groups, -1), made.reshape(groups, -1)
    if groups == 1:
        c.summed(op, (channel, inside), x[channel], kernel[inside])
    elif rows.shape[1] == 1 or outs.shape[1] == 1:  # depthwise: a group is one channel
        c.same(rows, rows[:, :1])
        c.same(outs, rows[:, :1])
        c.keep(kernel[inside], f"{where(op)} has groups, which are cut as a whole")
    else:  # each group loses the same of its channels
        c.same(rows, rows[:1])
        c.same(outs, outs[:1])
        c.summed(op, (channel, inside), rows[0], kernel[inside])
    return _layer_axes(c, op, {numbers.out_spec[1]: made}, bias)


def _dense(c: Classes, op: Op, left: Axes, right: Axes, *bias: Axes) -> Axes:
    contracted, batched = op.params["dimension_numbers"]
    for a, b in zip(*contracted, strict=True):
        c.summed(op, (a, b), left[a], right[b])
    for a, b in zip(*batched, strict=True):
        c.same(left[a], right[b])
    found = [left[a] for a in batched[0]]
    for side, axes in enumerate((left, right)):
        taken = (*contracted[side], *batched[side])
        found += [c.making(axes[a]) for a in range(len(axes)) if a not in taken]
    return _layer_axes(c, op, dict(enumerate(found)), bias)


def _layer_axes(c: Classes, op: Op, found: dict[int, np.ndarray], bias: Sequence[Axes]) -> Axes:
    """Returns a layer's axes, those that are not given kept; couples its folded bias."""
    if bias:
        c.same(found[op.params["bias_axis"]], bias[0][0])
    return tuple(found.get(a, np.zeros(n, np.int64)) for a, n in enumerate(op.sizes(1)))


def _followed(c: Classes, op: Op, x: Axes, *others: Axes | None) -> Axes:
    """Follows axes by the facts of a kind: what it mixes is kept, what it moves goes along."""
    origin, mixed = at_one_image(op, (map(len, axes or ()) for axes in (x, *others)))
    for a, nodes in enumerate(x):
        if a in mixed:
            c.keep(nodes, f"{where(op)} mixes it")
        elif a not in origin:
            c.keep(nodes, f"{where(op)} takes it away")
    for nodes in (n for axes in others for n in axes or ()):
        c.keep(nodes, f"{where(op)} takes places from it")
    result = []
    for a, n in zip(origin, op.sizes(1), strict=True):
        if a is not None and a not in mixed and len(x[a]) != n:
            c.keep(x[a], f"{where(op)} repeats it")
            a = None
        if a is None:
            result.append(c.fresh(n))
        else:
            result.append(c.keep(c.fresh(n), f"{where(op)} mixes it") if a in mixed else x[a])
    return tuple(result)


def _reversed(c: Classes, op: Op, x: Axes) -> Axes:
    return tuple(n[::-1] if a in op.params["dimensions"] else n for a, n in enumerate(x))


def _sliced(c: Classes, op: Op, x: Axes) -> Axes:
    params = at_batch(op.params, 1)
    found = []
    for a, nodes in enumerate(x):
        start, limit = params["start_indices"][a], params["limit_indices"][a]
        stride = params["strides"][a] if params["strides"] else 1
        if stride > 1:
            c.keep(nodes, f"{where(op)} skips some of it")
        found.append(nodes[start:limit:stride])
    return tuple(found)


def _padded(c: Classes, op: Op, x: Axes, value: Axes) -> Axes:
    found = []
    for nodes, (low, high, between) in zip(x, op.params["padding_config"], strict=True):
        if between:
            c.keep(nodes, f"{where(op)} spreads it out")
            count = low + high + len(nodes) + between * max(len(nodes) - 1, 0)
            found.append(np.zeros(count, np.int64))
            continue
        inner = nodes[max(-low, 0) : len(nodes) - max(-high, 0)]
        found.append(np.concatenate([c.fresh(max(low, 0)), inner, c.fresh(max(high, 0))]))
    return tuple(found)


def _joined(c: Classes, op: Op, *parts: Axes) -> Axes:
    along = op.params["dimension"]
    whole = np.concatenate([axes[along] for axes in parts])
    for axes in parts[1:]:
        for a, nodes in enumerate(axes):
            if a != along:
                c.same(parts[0][a], nodes)
    return tuple(whole if a == along else nodes for a, nodes in enumerate(parts[0]))


def _reshaped(c: Classes, op: Op, x: Axes) -> Axes:
    return reshaped(c, x, op.sizes(1), where(op))


def _each(c: Classes, op: Op, *operands: Axes) -> list[Axes]:
    return list(operands)


Rule = Callable[..., Axes | list[Axes] | None]
# family -> rule: (classes, op, axes of each operand) -> axes of the result, None: unknown
FAMILIES: dict[str, Rule] = {
    **dict.fromkeys((ELEMENTWISE, CAST), _elementwise),
    **dict.fromkeys((MOVE, ORDER, SUM, REDUCE), _followed),
}
# kinds of a rule of their own
RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dense,
    "reshape": _reshaped,
    "rev": _reversed,
    "slice": _sliced,
    "pad": _padded,
    "concatenate": _joined,
}


def _rule(op: Op) -> Rule | None:
    if op.kind == "optimization_barrier":
        return _each
    return (RULES.get(op.kind) or FAMILIES.get(family(op))) if kind_of(op) else None
