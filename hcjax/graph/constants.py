"""Constants of a graph: values that do not depend on the images, and their source parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.model import Model, Op, layer_of
from hcjax.graph.ops.table import kind_of
from hcjax.graph.qtensor import QTensor


def evaluate_constants(model: Model) -> tuple[list[Op], dict[int, Any], dict[int, Any]]:
    """Evaluates every constant; returns the ops that need a batch, and the constants' arrays.

    Args:
      model: whose constants.

    Returns:
      (ops, constants, batch-shaped constants), the last two as number -> array. A batch-shaped
      constant has a batch axis and yet does not depend on the images, e.g. a bias broadcast to the
      shape of an activation. It is evaluated for a batch of one, and its op stays among the ops.
    """
    leaves = model.leaves(model.params)
    inputs = dict(model.graph.constants)
    inputs |= {number: leaves[path] for path, number in model.graph.params.items()}
    constants, batch_shaped, ops, constant_ops = set(inputs), set(), [], []
    for op in model.graph.ops:
        if not constants.issuperset(op.inputs):
            ops.append(op)
            continue
        constant_ops.append(op)
        constants.update(op.outputs)
        if any(q for q, _ in op.shape) or batch_shaped.intersection(op.inputs):
            batch_shaped.update(op.outputs)
            ops.append(op)

    def run(env):  # compiled as one: a network has hundreds of small ops of different shapes
        env = dict(env)
        for op in constant_ops:
            env |= zip(op.outputs, op.run(1, *[env[i] for i in op.inputs]), strict=True)
        return {o: env[o] for op in constant_ops for o in op.outputs}

    results = jax.jit(run)(inputs) if constant_ops else {}
    values = inputs | {n: v for n, v in results.items() if n not in batch_shaped}
    return ops, values, {n: results[n] for n in results if n in batch_shaped}


def is_table(op: Op, constants: Mapping[int, Any]) -> bool:
    """Returns whether an op looks rows of a table of numbers up by what depends on the inputs.

    Args:
      op: any op of a graph.
      constants: number -> array, or QTensor, of what does not depend on the inputs.
    """
    if op.kind != "gather" or kind_of(op) is None or op.inputs[1] in constants:
        return False
    table = constants.get(op.inputs[0])
    return isinstance(table, QTensor) or jnp.issubdtype(getattr(table, "dtype", bool), jnp.floating)


def randomised(model: Model) -> dict[int, Any]:
    """Evaluates the constants for randomised parameters; no two numbers of a leaf are equal."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        values = rng.permutation(np.linspace(0.5, 1.5, leaf.size)).reshape(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    _, values, batch_shaped = evaluate_constants(
        model.replace(params=jax.tree.map(draw, model.params))
    )
    return values | batch_shaped


def trained_numbers(model: Model) -> set[int]:
    """Returns the numbers that depend on parameters and not on the images."""
    numbers = set(model.graph.params.values())
    images = set(model.graph.inputs)
    for op in model.graph.ops:
        if images.intersection(op.inputs):
            images.update(op.outputs)
        elif numbers.intersection(op.inputs):
            numbers.update(op.outputs)
    return {n for n in numbers if n not in images}


def source_path(model: Model, number: int, paths: dict[int, str]) -> str:
    """Returns the path of the first parameter that a number is computed from; '' without one."""
    producers = {o: op for op in model.graph.ops for o in op.outputs}
    queue = [number]
    while queue:
        number = queue.pop(0)
        if number in paths:
            return paths[number]
        queue += producers[number].inputs if number in producers else ()
    return ""


def layer_name(model: Model, op: Op, kernel: int, paths: dict[int, str]) -> str:
    """Returns a layer's name: the folder of its kernel's first parameter, or its kind."""
    path = source_path(model, kernel, paths)
    return layer_of(path) if path else op.kind
