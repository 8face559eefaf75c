"""Reads a jaxpr into ops: the one place that knows what is inlined and what stays one op."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from hcjax import jaxpr as walker
from hcjax.graph.model import LAYERS, Op, Size, bound

_INLINED = ("jit", "pjit", "closed_call", "remat2", "checkpoint")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call")
# functions with a derivative rule of their own that are ops; their jit has this name
_KEPT = {"relu": jax.nn.relu, "relu6": jax.nn.relu6}


class Reader:
    """Collects ops from nested jaxprs, giving every value a number."""

    def __init__(self, batch: Any):
        self.ops: list[Op] = []
        self.plain: list[str] = []  # custom derivative rules that were lost
        self.constants: dict[int, Any] = {}
        self._batch, self._next = batch, 0

    def number(self, constant: Any = None) -> int:
        """Returns a new number, of a constant if one is given."""
        self._next += 1
        if constant is not None:
            self.constants[self._next] = constant
        return self._next

    def size(self, dim: Any) -> Size:
        """Returns a dimension for any batch size."""
        if isinstance(dim, int | np.integer):
            return Size(0, int(dim))
        return Size(int(dim // self._batch), int(dim % self._batch))

    def read(self, jaxpr: Any, inputs: list[int], source: str = "") -> list[int]:
        """Returns the numbers of a jaxpr's results, for those of its inputs.

        Args:
          jaxpr: closed, or without constants.
          inputs: numbers of its inputs.
          source: the line that calls it, for equations that know none of their own.
        """
        whole = walker.closed(jaxpr)
        env = dict(zip(whole.jaxpr.constvars, map(self.number, whole.consts), strict=True))
        env |= zip(whole.jaxpr.invars, inputs, strict=True)

        def read(v):
            if isinstance(v, walker.Literal):
                return self.number(np.asarray(v.val, v.aval.dtype))
            return env[v]

        for eqn in whole.jaxpr.eqns:
            values = [read(v) for v in eqn.invars]
            env |= zip(eqn.outvars, self._equation(eqn, values, source), strict=True)
        return [read(v) for v in whole.jaxpr.outvars]

    def _equation(self, eqn: walker.Eqn, inputs: list[int], source: str) -> list[int]:
        name, source = eqn.primitive.name, walker.source_line(eqn) or source
        inside = [body for bodies in walker.bodies(eqn).values() for body in bodies]
        if name in _INLINED and len(inside) == 1:
            return self.read(inside[0], inputs, source)
        kept = _kept(eqn)
        if name in _CUSTOM and kept is None:
            self.plain.append(f"{source or 'an unknown line'} ({name})")
            return self.read(inside[0], inputs, source)
        if name in walker.LOOPS or name == "cond":
            raise TypeError(f"{source or 'an unknown line'}: a graph holds no {name}; unroll it")
        outputs = [self.number() for _ in eqn.outvars]
        aval = eqn.outvars[0].aval
        params = {} if kept else self._scaled(eqn.params)
        kind = kept or name
        compute = (lambda batch, x: [_KEPT[kept](x)]) if kept else bound(eqn, params)
        shape = tuple(map(self.size, aval.shape))
        macs = self._macs(eqn)
        self.ops.append(
            Op(
                kind,
                tuple(inputs),
                tuple(outputs),
                shape,
                aval.dtype,
                source,
                compute,
                params,
                macs,
            )
        )
        return outputs

    def _macs(self, eqn: walker.Eqn) -> int:
        """Returns the products that an equation adds up, for one image."""
        if eqn.primitive.name not in LAYERS:
            return 0
        sizes = [[sum(self.size(d)) for d in v.aval.shape] for v in (*eqn.invars, *eqn.outvars)]
        left, right, outputs = sizes
        numbers = eqn.params["dimension_numbers"]
        if eqn.primitive.name == "conv_general_dilated":
            return math.prod(outputs) * math.prod(right) // right[numbers.rhs_spec[0]]
        return math.prod(outputs) * math.prod(left[a] for a in numbers[0][0])

    def _scaled(self, value: Any) -> Any:
        """Returns an equation's parameters with every symbolic size as `Size`."""
        if isinstance(value, dict):
            return {k: self._scaled(v) for k, v in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._scaled(v) for v in value)
        if type(value).__name__ == "_DimExpr":
            return self.size(value)
        return value


def _kept(eqn: walker.Eqn) -> str | None:
    """Returns the name in `_KEPT` of a function with its own derivative rule, or None."""
    if eqn.primitive.name not in _CUSTOM:
        return None
    (body,) = (b for bodies in walker.bodies(eqn).values() for b in bodies)
    inner = walker.closed(body).jaxpr.eqns
    name = inner[0].params.get("name") if len(inner) == 1 else None
    return name if name in _KEPT else None
