"""Liveness: the elements of a network's values that depend on the images, and the constant ones.

In a pruned network a channel whose kernel is all zero is a constant, and so are values computed
from it. Each value is computed for one image, with a mask of the elements that could differ for
another image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from hcjax.graph.model import Model, Op
from hcjax.graph.ops.kind import (
    CAST,
    ELEMENTWISE,
    JOIN,
    LAYER,
    MOVE,
    ORDER,
    REDUCE,
    SUM,
)
from hcjax.graph.ops.table import at_one_image, computes, family, has, kind_of

Mask = jax.Array | None  # bool, of a value's shape; None: no element depends on the images


def varying(model: Model, numbers: Iterable[int]) -> dict[int, tuple[Any, Any]]:
    """Returns number -> (value, mask) for a batch of one.

    Where the mask is False, the value is the same for all images.
    """
    selection = set(numbers)

    def compute(params, constants, inputs):
        leaves = model.leaves(params)
        values = dict(constants) | {n: leaves[path] for path, n in model.graph.params.items()}
        masks: dict[int, Mask] = dict.fromkeys(values)
        for number, x in zip(model.graph.inputs, inputs, strict=True):
            values[number], masks[number] = x, jnp.ones(x.shape, bool)
        for op in model.graph.ops:
            operands = [values[i] for i in op.inputs]
            results = op.run(1, *operands)
            values |= zip(op.outputs, results, strict=True)
            operand_masks = [masks[i] for i in op.inputs]
            result_masks = [None] * len(results)
            if any(m is not None for m in operand_masks):
                rule = _find_rule(op) if len(results) == 1 else None
                full = [jnp.ones(r.shape, bool) for r in results]
                result_masks = [rule(op, operands, operand_masks)] if rule else full
            masks |= zip(op.outputs, result_masks, strict=True)
        none = jnp.zeros((), bool)
        return {n: (values[n], none if masks[n] is None else masks[n]) for n in selection}

    inputs = [jnp.zeros(leaf.sizes(1), leaf.dtype) for leaf in jax.tree.leaves(model.inputs)]
    results = jax.jit(compute)(model.params, model.graph.constants, inputs)
    return jax.device_get(results)


def _combine(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    result = jnp.zeros(op.sizes(1), bool)
    for mask in masks:
        result = result if mask is None else result | mask
    return result


def _multiply(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    result = _combine(op, operands, masks)
    for value, mask in zip(operands, masks, strict=True):  # a constant zero makes a constant
        result &= (value != 0) | _fill(value, mask)
    return result


def _sum_products(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    run = computes(op.kind, op.params | {"preferred_element_type": jnp.float32})
    varies = [_fill(v, m) for v, m in zip(operands[:2], masks, strict=False)]
    nonzero = [(v != 0) | m for v, m in zip(operands[:2], varies, strict=True)]
    pairs = ((varies[0], nonzero[1]), (nonzero[0], varies[1]))
    pairs = [p for p, mask in zip(pairs, masks, strict=False) if mask is not None]
    return sum(run(1, *(x.astype(jnp.float32) for x in pair)) for pair in pairs) > 0


def _pool(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    widest = computes("reduce_window_max", op.params)
    return widest(1, masks[0].astype(jnp.float32)) > 0


def _reduce(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    """Returns the mask of a result with numbers that each depend on several of the operand's."""
    if any(mask is not None for mask in masks[1:]):  # the order of other numbers decides
        return jnp.ones(op.sizes(1), bool)
    origin, mixes = at_one_image(op, map(jnp.shape, operands))
    mask = _fill(operands[0], masks[0]).any(mixes, keepdims=True)
    removed = tuple(a for a in range(mask.ndim) if a not in origin)
    return jnp.broadcast_to(mask.squeeze(removed), op.sizes(1))


def _move(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    if any(mask is not None for mask in masks[1:]):  # an index decides which numbers are taken
        return jnp.ones(op.sizes(1), bool)
    return op.run_one(1, _fill(operands[0], masks[0]), *operands[1:])


def _join(op: Op, operands: list, masks: list[Mask]) -> jax.Array:
    return op.run_one(1, *map(_fill, operands, masks))


def _fill(value: Any, mask: Mask) -> jax.Array:
    return jnp.zeros(jnp.shape(value), bool) if mask is None else mask


def _find_rule(op: Op) -> Callable[[Op, list, list[Mask]], jax.Array] | None:
    """Returns the rule of an op; without a rule all of its result may depend on the images."""
    if op.kind in RULES and kind_of(op):
        return RULES[op.kind]
    if has(op, "product"):
        return _multiply
    return FAMILIES.get(family(op))


Rule = Callable[[Op, list, list[Mask]], jax.Array]
# family -> rule: (op, operands, their masks) -> mask of its result
FAMILIES: dict[str, Rule] = {
    ELEMENTWISE: _combine,
    CAST: _combine,
    LAYER: _sum_products,
    MOVE: _move,
    JOIN: _join,
    **dict.fromkeys((ORDER, SUM, REDUCE), _reduce),
}
# kinds with a rule of their own
RULES: dict[str, Rule] = dict.fromkeys(
    ("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _pool
)
