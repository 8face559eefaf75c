"""Coupling: the indices of axes that can be cut only together, op by op.

A rule takes the nodes of an op's operands, merges the nodes of one channel into a class, and
returns the nodes of the result. An op that mixes channels, or has no rule, keeps all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from hcjax.graph.coupling.reshape import reshape_nodes
from hcjax.graph.coupling.union_find import Axes, Classes, describe
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
    arrays = {number: leaves[path] for path, number in model.graph.params.items()}
    arrays |= model.graph.constants
    if is_quantized(model) or any(isinstance(value, QTensor) for value in arrays.values()):
        raise TypeError("the model is quantized: cut its channels first, then calibrate and int8")
    named = {*model.graph.params.values(), *(number for _, number in model.graph.frozen)}
    c = Classes({number: np.shape(value) for number, value in arrays.items()}, named)
    for number, leaf in zip(model.graph.inputs, jax.tree.leaves(model.inputs), strict=True):
        nodes = (c.fresh(n) for n in leaf.sizes(1))
        c.axes[number] = tuple(c.keep(each, "it is an input's") for each in nodes)
    varying = set(model.graph.inputs)
    for op in model.graph.ops:
        _follow(c, op)
        if varying.intersection(op.inputs):
            varying.update(op.outputs)
        elif carries_zeros(op):
            _carry(c, op)
    for nodes in (nodes for number in model.graph.outputs for nodes in c.axes[number] or ()):
        c.keep(nodes, "it is an output's")
    return c


def _follow(c: Classes, op: Op) -> None:
    operands = [c.axes[i] for i in op.inputs]
    rule = None if any(axes is None for axes in operands) else _find_rule(op)
    axes = rule(c, op, *operands) if rule else None
    if axes is None:
        axes = [tuple(map(c.fresh, op.sizes(1))), *[None] * (len(op.outputs) - 1)]
        for nodes in (n for axes in (*operands, axes[0]) for n in axes or ()):
            c.keep(nodes, f"{describe(op)} cannot be followed")
    results = axes if isinstance(axes, list) else [axes]
    c.axes |= zip(op.outputs, results, strict=True)
    for nodes, size in zip(results[0], op.shape, strict=True):
        if size.q:
            c.keep(nodes, "it is as long as the batch")


def _carry(c: Classes, op: Op) -> None:
    """Marks a result that is 0 where a slice of an operand is 0.

    A product takes the nodes of that operand. A scalar has no slices; nor has a factor along an
    axis on which it is repeated.
    """
    operands = op.inputs if op.kind == "mul" else op.inputs[:1]
    factors = [c.axes[i] for i in operands if i in c.carriers and c.axes[i]]
    if factors:
        c.carriers.update(op.outputs)
    if factors and op.kind in ("mul", "div"):
        axes = []
        for nodes, *candidates in zip(c.axes[op.output], *factors, strict=True):
            axes.append(next((n for n in candidates if len(n) == len(nodes)), c.fresh(len(nodes))))
            c.same(axes[-1], nodes)
        c.axes[op.output] = tuple(axes)


def _couple_elementwise(c: Classes, op: Op, *operands: Axes) -> Axes:
    axes = []
    for n, *candidates in zip(op.sizes(1), *filter(None, operands), strict=True):
        longest = next(nodes for nodes in candidates if len(nodes) == n)  # 1 is shorter than 0
        for nodes in candidates:
            if len(nodes) == len(longest):
                c.same(longest, nodes)
            else:  # the one index of an axis of size 1 serves all of the others'
                c.keep(nodes, f"{describe(op)} repeats it")
        axes.append(longest)
    return tuple(axes)


def _couple_convolution(c: Classes, op: Op, x: Axes, kernel: Axes, *bias: Axes) -> Axes | None:
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    if op.params.get("batch_group_count", 1) != 1:
        return None
    _, channel, *pixels = numbers.lhs_spec
    out, inputs, *taps = numbers.rhs_spec
    for nodes in (*(x[a] for a in pixels), *(kernel[a] for a in taps)):
        c.keep(nodes, f"{describe(op)} has windows over it")
    outputs = c.mark_outputs(kernel[out])
    rows, columns = x[channel].reshape(groups, -1), outputs.reshape(groups, -1)
    if groups == 1:
        c.summed(op, (channel, inputs), x[channel], kernel[inputs])
    elif rows.shape[1] == 1 or columns.shape[1] == 1:  # depthwise: a group is one channel
        c.same(rows, rows[:, :1])
        c.same(columns, rows[:, :1])
        c.keep(kernel[inputs], f"{describe(op)} has groups, which are cut as a whole")
    else:  # each group loses the same channels
        c.same(rows, rows[:1])
        c.same(columns, columns[:1])
        c.summed(op, (channel, inputs), rows[0], kernel[inputs])
    return _complete_axes(c, op, {numbers.out_spec[1]: outputs}, bias)


def _couple_dense(c: Classes, op: Op, left: Axes, right: Axes, *bias: Axes) -> Axes:
    contracted, batch = op.params["dimension_numbers"]
    for a, b in zip(*contracted, strict=True):
        c.summed(op, (a, b), left[a], right[b])
    for a, b in zip(*batch, strict=True):
        c.same(left[a], right[b])
    nodes = [left[a] for a in batch[0]]
    for side, axes in enumerate((left, right)):
        shared_axes = (*contracted[side], *batch[side])
        nodes += [c.mark_outputs(axes[a]) for a in range(len(axes)) if a not in shared_axes]
    return _complete_axes(c, op, dict(enumerate(nodes)), bias)


def _complete_axes(c: Classes, op: Op, axes: dict[int, np.ndarray], bias: Sequence[Axes]) -> Axes:
    """Couples a layer's folded bias, and returns all its axes; node 0 on the missing ones."""
    if bias:
        c.same(axes[op.params["bias_axis"]], bias[0][0])
    return tuple(axes.get(a, np.zeros(n, np.int64)) for a, n in enumerate(op.sizes(1)))


def _follow_facts(c: Classes, op: Op, x: Axes, *others: Axes | None) -> Axes:
    """Follows axes by the facts of a kind: keeps the axes that it mixes, passes on the others."""
    origin, mixes = at_one_image(op, (map(len, axes or ()) for axes in (x, *others)))
    for a, nodes in enumerate(x):
        if a in mixes:
            c.keep(nodes, f"{describe(op)} mixes it")
        elif a not in origin:
            c.keep(nodes, f"{describe(op)} takes it away")
    for nodes in (n for axes in others for n in axes or ()):
        c.keep(nodes, f"{describe(op)} takes places from it")
    result = []
    for a, n in zip(origin, op.sizes(1), strict=True):
        if a is not None and a not in mixes and len(x[a]) != n:
            c.keep(x[a], f"{describe(op)} repeats it")
            a = None
        if a is None:
            result.append(c.fresh(n))
        else:
            result.append(c.keep(c.fresh(n), f"{describe(op)} mixes it") if a in mixes else x[a])
    return tuple(result)


def _reverse(c: Classes, op: Op, x: Axes) -> Axes:
    return tuple(n[::-1] if a in op.params["dimensions"] else n for a, n in enumerate(x))


def _slice(c: Classes, op: Op, x: Axes) -> Axes:
    params = at_batch(op.params, 1)
    axes = []
    for a, nodes in enumerate(x):
        start, limit = params["start_indices"][a], params["limit_indices"][a]
        stride = params["strides"][a] if params["strides"] else 1
        if stride > 1:
            c.keep(nodes, f"{describe(op)} skips some of it")
        axes.append(nodes[start:limit:stride])
    return tuple(axes)


def _pad(c: Classes, op: Op, x: Axes, value: Axes) -> Axes:
    axes = []
    for nodes, (low, high, between) in zip(x, op.params["padding_config"], strict=True):
        if between:
            c.keep(nodes, f"{describe(op)} spreads it out")
            count = low + high + len(nodes) + between * max(len(nodes) - 1, 0)
            axes.append(np.zeros(count, np.int64))
            continue
        inner = nodes[max(-low, 0) : len(nodes) - max(-high, 0)]
        axes.append(np.concatenate([c.fresh(max(low, 0)), inner, c.fresh(max(high, 0))]))
    return tuple(axes)


def _join(c: Classes, op: Op, *parts: Axes) -> Axes:
    axis = op.params["dimension"]
    joined = np.concatenate([axes[axis] for axes in parts])
    for axes in parts[1:]:
        for a, nodes in enumerate(axes):
            if a != axis:
                c.same(parts[0][a], nodes)
    return tuple(joined if a == axis else nodes for a, nodes in enumerate(parts[0]))


def _reshape(c: Classes, op: Op, x: Axes) -> Axes:
    return reshape_nodes(c, x, op.sizes(1), describe(op))


def _pass_through(c: Classes, op: Op, *operands: Axes) -> list[Axes]:
    return list(operands)


Rule = Callable[..., Axes | list[Axes] | None]
# family -> rule: (classes, op, axes of each operand) -> axes of the result, None if unknown
FAMILIES: dict[str, Rule] = {
    **dict.fromkeys((ELEMENTWISE, CAST), _couple_elementwise),
    **dict.fromkeys((MOVE, ORDER, SUM, REDUCE), _follow_facts),
}
# kinds with a rule of their own
RULES: dict[str, Rule] = {
    "conv_general_dilated": _couple_convolution,
    "dot_general": _couple_dense,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _join,
}


def _find_rule(op: Op) -> Rule | None:
    if op.kind == "optimization_barrier":
        return _pass_through
    return (RULES.get(op.kind) or FAMILIES.get(family(op))) if kind_of(op) else None
