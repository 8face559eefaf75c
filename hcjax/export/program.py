"""`Program`: a network as every exporter reads it, and the walk that hands its ops to emitters.

In: a Model, and a table kind of op -> emitter. What depends on parameters and constants alone is
evaluated; what is left is emitted op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hcjax.core import brief
from hcjax.errors import ConfigError
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Model, Op, Size, input_dtypes, input_shapes, live_ops
from hcjax.graph.ops import kind_of


class Program(NamedTuple):
    """What an exporter reads of a network.

    model: the network. ops: those that its inputs, or the size of the batch, change; in order, and
    all needed. values: number -> array, or QTensor, of everything that they read and no op of them
    computes. shapes: number -> shape of every input and result, sizes as (q, r): q · batch + r.
    dtypes: likewise.
    """

    model: Model
    ops: tuple[Op, ...]
    values: dict[int, Any]
    shapes: dict[int, tuple[Size, ...]]
    dtypes: dict[int, Any]

    __repr__ = brief.record


def program(model: Model) -> Program:
    """Returns a network as exporters read it: constants evaluated, dead ops left out.

    Args:
      model: in float, from `trace` or a transform, or in integers, from `int8`.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import trace
      >>> model = trace(lambda p, x: x @ (p["w"] * 2), {"w": jnp.ones((3, 2))}, jnp.ones((1, 3)))
      >>> found = program(model)
      >>> [op.kind for op in found.ops], [value.shape for value in found.values.values()]
      (['dot_general'], [(3, 2)])
    """
    ops, values, _ = evaluate_constants(model)
    ops = tuple(live_ops(ops, model.graph.outputs))
    computed = {o for op in ops for o in op.outputs}
    read = {i for op in ops for i in op.inputs}.union(model.graph.outputs) - computed
    return Program(
        model,
        ops,
        {n: value for n, value in values.items() if n in read},
        input_shapes(model) | {op.output: op.shape for op in ops},
        input_dtypes(model) | {op.output: op.dtype for op in ops},
    )


def walk(
    found: Program,
    emitters: Mapping[str, Callable[[Any, Op], None]],
    writer: Any,
    target: str,
) -> None:
    """Hands each op of a program to the emitter of its kind.

    Args:
      found: the program.
      emitters: kind of op -> function of (writer, op), which adds what the target needs.
      writer: whatever the emitters of a target write to.
      target: its name, for errors.

    Raises:
      ConfigError: if there is no emitter for a kind of op, or only its own equation can run it;
        it names all such ops and the user's lines.
    """
    missing = [op for op in found.ops if kind_of(op) is None or op.kind not in emitters]
    if missing:
        lines = dict.fromkeys(f"{op.kind} ({op.source or 'no line is known'})" for op in missing)
        raise ConfigError(
            f"{target} cannot be written: it has no form of {'; '.join(lines)}. Compute these "
            f"outside the network, or add an emitter of the kind, see docs/extending.md"
        )
    for op in found.ops:
        emitters[op.kind](writer, op)
