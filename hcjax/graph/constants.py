"""Constants of a graph: values that do not depend on the images, and the parameters behind them."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.model import Model, Op, layer_of


def evaluate_constants(
    model: Model, *, kept: Container[str] = ()
) -> tuple[list[Op], dict[int, Any], dict[int, Any]]:
    """Evaluates constants: returns the ops that need a batch, and the values of all other numbers.

    Returns:
      (ops, constants, batch-shaped constants). The last are values, for a batch of one, that have a
      batch axis and yet do not depend on the images: e.g. a bias broadcast to a whole activation.
      Their ops are among the first.
    """
    leaves = model.leaves(model.params)
    given = dict(model.graph.constants)
    given |= {number: leaves[path] for path, number in model.graph.params.items()}
    known, stretched, ops, alone = set(given), set(), [], []
    for op in model.graph.ops:
        if op.kind in kept or not known.issuperset(op.inputs):
            ops.append(op)
            continue
        alone.append(op)
        known.update(op.outputs)
        if any(q for q, _ in op.shape) or stretched.intersection(op.inputs):
            stretched.update(op.outputs)
            ops.append(op)

    def run(env):  # compiled as one: a network has hundreds of small ops of different shapes
        env = dict(env)
        for op in alone:
            env |= zip(op.outputs, op.run(1, *[env[i] for i in op.inputs]), strict=True)
        return {o: env[o] for op in alone for o in op.outputs}

    found = jax.jit(run)(given) if alone else {}
    values = given | {n: v for n, v in found.items() if n not in stretched}
    return ops, values, {n: found[n] for n in found if n in stretched}


def randomised(model: Model) -> dict[int, Any]:
    """Evaluates constants for randomised parameters; no two numbers of a leaf are equal."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        values = rng.permutation(np.linspace(0.5, 1.5, leaf.size)).reshape(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    _, values, stretched = evaluate_constants(
        model.replace(params=jax.tree.map(draw, model.params))
    )
    return values | stretched


def trained_numbers(model: Model) -> set[int]:
    """Returns the numbers that depend on parameters and not on the images."""
    found = set(model.graph.params.values())
    images = {model.graph.images}
    for op in model.graph.ops:
        if images.intersection(op.inputs):
            images.update(op.outputs)
        elif found.intersection(op.inputs):
            found.update(op.outputs)
    return {n for n in found if n not in images}


def source_path(model: Model, number: int, paths: dict[int, str]) -> str:
    """Returns the path of the first parameter that a number is computed from; '' for none."""
    made = {o: op for op in model.graph.ops for o in op.outputs}
    waiting = [number]
    while waiting:
        number = waiting.pop(0)
        if number in paths:
            return paths[number]
        waiting += made[number].inputs if number in made else ()
    return ""


def layer_name(model: Model, op: Op, kernel: int, paths: dict[int, str]) -> str:
    """Returns a layer's name: the folder of its kernel's first parameter, or its kind."""
    path = source_path(model, kernel, paths)
    return layer_of(path) if path else op.kind
