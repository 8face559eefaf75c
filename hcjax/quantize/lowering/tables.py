"""Tables of 256 entries: what elementwise ops between two int8 values become."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.ops import fixed_point
from hcjax.quantize import straight_through
from hcjax.quantize.lowering import operands
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.widths import Cone, Narrow


def holds(b: Builder, number: int, cone: Cone) -> bool:
    """Returns whether one table, or one per index of one axis, can hold a function."""
    floating, shared = jnp.issubdtype(b.dtype[number], jnp.floating), _shared(b, cone)
    if not floating or any(value is None for value in shared.values()):
        return False
    return len(_varying(shared)) < 2


def looked_up(b: Builder, number: int, cone: Cone, origin: Narrow, grid: Narrow) -> Narrow:
    """Returns a function of an int8 value, from a table: `holds` says whether there is one."""
    shared = _shared(b, cone)
    varying = _varying(shared)
    ndim, dtype = len(b.shape[number]), b.dtype.get(cone.origin, jnp.float32)
    axis = varying.pop() if varying else None
    numbers = [operands.operand(b, i, f"{b.label_of(number)}/value", v) for i, v in shared.items()]
    widest = max(shared.values(), key=np.size) if shared else None

    def function(batch, x, values):
        env = dict(zip(shared, values, strict=True)) | {cone.origin: x.astype(dtype)}
        for op in cone.ops:
            inputs = [
                straight_through.finite(jnp.broadcast_to(env[i].astype(b.known[i].dtype), x.shape))
                if i in shared
                else env[i]
                for i in op.inputs
            ]
            env |= zip(op.outputs, op.run(batch, *inputs), strict=True)
        return env[number].astype(jnp.float32)

    def tabled(batch, before, after, *values):
        # apart from what surrounds it: exp must not round differently from one program to another
        before, after, values = fixed_point.apart(before, after, values)
        width = 1 if axis is None else widest.shape[axis]
        shape = [256 if a == 0 else width if a == axis else 1 for a in range(ndim)]
        steps = jnp.arange(-128, 128, dtype=jnp.float32).reshape([-1] + [1] * (ndim - 1))
        y = function(256, jnp.broadcast_to(before * steps, shape), values)
        q = fixed_point.quantize(y, after, grid.least, grid.most)
        q = q.reshape(256) if axis is None else q.reshape(256, width).T
        return fixed_point.apart(q)

    table = b.emit("table", (origin.step, grid.step, *numbers), jax.jit(tabled, static_argnums=0))

    def compute(batch, q, table, before, after, *values):
        found = fixed_point.look_up(q.astype(jnp.int32), table, axis)
        smooth = function(batch, straight_through.finite(before * q), values) / after
        return straight_through.through(
            found, straight_through.clipped(smooth, grid.least, grid.most)
        )

    inputs = (origin.number, table, origin.step, grid.step, *numbers)
    about = {"axis": axis, "label": b.label_of(number)}
    return grid._replace(number=b.emit("look_up", inputs, compute, of=number, **about))


def _shared(b: Builder, cone: Cone) -> dict[int, np.ndarray | None]:
    """Returns what the ops of a cone read besides images, as small as it gets; see `small`."""
    return {
        i: operands.small(b, i, len(op.shape)) for op in cone.ops for i in op.inputs if i in b.known
    }


def _varying(shared: dict[int, np.ndarray]) -> set[int]:
    """Returns the axes along which a function differs."""
    return {a for v in shared.values() for a in range(v.ndim) if v.shape[a] > 1}
