"""`KINDS`: the facts of every kind of op, and ops that run by their kind and params alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from hcjax.graph.model import Op, Size, at_batch
from hcjax.graph.ops.control import CONTROL_KINDS
from hcjax.graph.ops.elementwise import ELEMENTWISE_KINDS
from hcjax.graph.ops.integer import INTEGER_KINDS
from hcjax.graph.ops.kind import CAST, MOVE, ORDER, Kind
from hcjax.graph.ops.layers import LAYER_KINDS
from hcjax.graph.ops.movement import MOVEMENT_KINDS
from hcjax.graph.ops.reduction import REDUCTION_KINDS

KINDS: dict[str, Kind] = {
    **LAYER_KINDS,
    **ELEMENTWISE_KINDS,
    **MOVEMENT_KINDS,
    **REDUCTION_KINDS,
    **INTEGER_KINDS,
    **CONTROL_KINDS,
}
# param of a traced op that only its equation can run; no file holds it
EQUATION = "equation"


def kind_of(op: Op) -> Kind | None:
    """Returns the facts about an op; None if its kind has none, or only its equation can run it."""
    return None if EQUATION in op.params else KINDS.get(op.kind)


def family(op: Op) -> str:
    """Returns the family of an op's kind; "" if its kind has no facts."""
    kind = kind_of(op)
    return kind.family if kind else ""


def has(op: Op, trait: str) -> bool:
    """Returns whether an op's kind has a trait."""
    kind = kind_of(op)
    return kind is not None and trait in kind.traits


def at_one_image(
    op: Op, sizes: Iterable[Iterable[int]]
) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """Returns `origin` and `mixes` of an op of known kind for a batch of one.

    Args:
      op: whose params may depend on the batch.
      sizes: of its operands' axes, for a batch of one.
    """
    kind, op = KINDS[op.kind], op._replace(params=at_batch(op.params, 1))
    shapes = tuple(tuple(Size(0, n) for n in shape) for shape in sizes)
    return kind.origin(op, shapes), kind.mixes(op, shapes)


def preserves_values(op: Op) -> bool:
    """Returns whether the numbers of an op's result are the first operand's, so scales hold."""
    return family(op) in (MOVE, ORDER)


def carries_zeros(op: Op) -> bool:
    """Returns whether an op's result is zero where its operand's slice is."""
    return family(op) == CAST or has(op, "keeps zero")


def params_of(kind: str, params: dict) -> dict:
    """Returns the params that a kind's `run` reads."""
    facts = KINDS[kind]
    required = {name: params[name] for name in facts.fields if name in params}
    non_default = {k: params[k] for k, v in facts.optional.items() if params.get(k, v) != v}
    return required | non_default


def defined(op: Op, **changes: Any) -> Op:
    """Returns an op that runs by its kind and params.

    Args:
      op: an op whose kind is in `KINDS`.
      changes: fields to replace first.

    Example:
      >>> import jax.numpy as jnp
      >>> op = Op("mul", (1, 2), (3,), (), jnp.int32, "", None, {})
      >>> defined(op).run_one(1, jnp.int8(100), jnp.int8(100)).item()
      10000
    """
    op = op._replace(**changes)
    run = computes(op.kind, op.params)
    return op._replace(run=lambda batch, *inputs: [run(batch, *inputs)])


def computes(kind: str, params: dict) -> Callable[..., jax.Array]:
    """Returns the function (batch size, operands) that a kind of op computes."""
    run, params = KINDS[kind].run, params_of(kind, params)
    return lambda batch, *inputs: run(at_batch(params, batch), *inputs)
