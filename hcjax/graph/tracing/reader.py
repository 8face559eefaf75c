"""Reads a jaxpr into ops: decides which equations are inlined and which become one op."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hcjax.core import walker
from hcjax.graph.model import Op, Size, bound, plain
from hcjax.graph.ops.kind import LAYER, SUM, check, check_axes
from hcjax.graph.ops.layers import macs
from hcjax.graph.ops.table import EQUATION, KINDS, defined, params_of
from hcjax.graph.tracing.gathers import as_slice

_INLINED = ("jit", "pjit", "closed_call", "remat2", "checkpoint")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call")
# functions with a derivative rule of their own that are ops; their jit has this name
_KEPT = {"relu": jax.nn.relu, "relu6": jax.nn.relu6}
# params of equations that do not change a result
_NEUTRAL = ("sharding", "out_sharding", "weak_type", "indices_are_sorted", "unique_indices")


def counted(where: str, why: object) -> TypeError:
    """Returns the error of a network that needs the batch size as a number."""
    return TypeError(
        f"{where or 'an unknown line'}: the network needs the batch size as a number "
        f"({str(why).splitlines()[0]}); write it for any batch: x.reshape(x.shape[0], -1) is "
        "fine, int(x.shape[0]), len(x), x / x.shape[0] and `if x.shape[0] > 1` are not"
    )


class Reader:
    """Collects ops from nested jaxprs, giving every value a number."""

    def __init__(self, batch: Any):
        self.ops: list[Op] = []
        self.plain: list[str] = []  # custom derivative rules that were lost
        self.constants: dict[int, Any] = {}
        self.shapes: dict[int, tuple[Size, ...]] = {}
        self.dtypes: dict[int, Any] = {}
        self._batch, self._next, self._source = batch, 0, ""

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
        try:
            return Size(int(dim // self._batch), int(dim % self._batch))
        except Exception as error:  # its class is none of jax's public ones
            raise counted(self._source, error) from error

    def read(self, jaxpr: Any, inputs: list[int], source: str = "") -> list[int]:
        """Returns the numbers of a jaxpr's results, for those of its inputs.

        Args:
          jaxpr: closed, or without constants.
          inputs: numbers of its inputs.
          source: the line that calls it, for equations that know none of their own.
        """
        whole = walker.as_closed(jaxpr)
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
        self._source = source
        inside = [body for bodies in walker.nested_jaxprs(eqn).values() for body in bodies]
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
        for v, n in zip((*eqn.invars, *eqn.outvars), (*inputs, *outputs), strict=True):
            self.shapes[n], self.dtypes[n] = tuple(map(self.size, v.aval.shape)), v.aval.dtype
        numbers = (tuple(inputs), tuple(outputs))
        op = Op(kind, *numbers, shape, aval.dtype, source, compute, params)
        if name in _REWRITTEN:
            return _REWRITTEN[name](self, op)
        if name == "gather" and (
            found := self._slice(op, tuple(map(self.size, eqn.invars[0].aval.shape)))
        ):
            return found
        self.ops.append(self._standard(op))
        return outputs

    def _standard(self, op: Op) -> Op:
        """Returns the op that runs by its kind; the op itself where its equation says more."""
        kind, shapes = KINDS.get(op.kind), tuple(self.shapes[i] for i in op.inputs)
        if kind is not None:
            check(op.kind, kind)
            check_axes(op, kind, shapes)
        op = op._replace(macs=macs(op, shapes))
        if kind is None:
            return op
        further = {k: v for k, v in op.params.items() if k not in (*kind.fields, *kind.optional)}
        neutral = all(v is None or k in _NEUTRAL for k, v in kind.further(further).items())
        # of int8, sums and products of the integer program are int32: an equation's are int8
        widens = kind.family in (SUM, LAYER) or op.kind == "mul"
        if not neutral or (widens and any(self.dtypes[i] == np.int8 for i in op.inputs)):
            return op._replace(params=op.params | {EQUATION: True})
        return defined(op, params=params_of(op.kind, op.params))

    def _emit(self, kind: str, inputs: Any, shape: tuple[Size, ...], of: Op, params: dict) -> int:
        """Adds an op in place of a part of another."""
        output = self.number()
        self.shapes[output], self.dtypes[output] = shape, of.dtype
        params = params_of(kind, params)
        new = Op(kind, tuple(inputs), (output,), shape, of.dtype, of.source, None, params)
        self.ops.append(defined(new))
        return output

    def _parts(self, op: Op) -> list[int]:
        """Rewrites a split as one slice for each part, and returns their numbers."""
        along, start, found = op.params["axis"], 0, []
        if any(isinstance(size, Size) for size in op.params["sizes"]):
            self.ops.append(op)
            return list(op.outputs)
        for size in op.params["sizes"]:
            shape = tuple(Size(0, size) if a == along else n for a, n in enumerate(op.shape))
            starts = [start if a == along else 0 for a in range(len(shape))]
            limits = list(plain(shape))
            limits[along] = start + size
            about = {"start_indices": tuple(starts), "limit_indices": tuple(limits)}
            found.append(self._emit("slice", op.inputs, shape, op, about | {"strides": None}))
            start += size
        return found

    def _unstacked(self, op: Op) -> list[int]:
        """Rewrites an unstack as slices and reshapes, and returns their numbers."""
        along = op.params["axis"]
        shape = (*op.shape[:along], Size(0, 1), *op.shape[along:])
        whole = op._replace(shape=shape, params=op.params | {"sizes": [1] * len(op.outputs)})
        return [self._reshape(part, op.shape, op) for part in self._parts(whole)]

    def _stacked(self, op: Op) -> list[int]:
        """Rewrites a stack as a concatenation, and returns its number."""
        along = op.params["axis"]
        shape = tuple(Size(0, 1) if a == along else n for a, n in enumerate(op.shape))
        parts = [self._reshape(i, shape, op) for i in op.inputs]
        return [self._emit("concatenate", parts, op.shape, op, {"dimension": along})]

    def _reshaped(self, op: Op) -> list[int]:
        """Rewrites a reshape in another order of axes as a transpose and a reshape."""
        number, order = op.inputs[0], op.params["dimensions"]
        if order is None:
            self.ops.append(self._standard(op))
            return list(op.outputs)
        shape = tuple(self.shapes[number][a] for a in order)
        turned = self._emit("transpose", op.inputs, shape, op, {"permutation": tuple(order)})
        return [self._reshape(turned, op.shape, op)]

    def _reshape(self, number: int, shape: tuple[Size, ...], of: Op) -> int:
        return self._emit("reshape", (number,), shape, of, {"new_sizes": plain(shape)})

    def _each_result(self, op: Op) -> list[int]:
        """Rewrites an op with several results as one op for each of them."""
        params = {"axis": -1, **op.params}

        def emit(i, output):
            of = op._replace(dtype=self.dtypes[output])
            return self._emit(op.kind, op.inputs, self.shapes[output], of, params | {"result": i})

        return [emit(i, output) for i, output in enumerate(op.outputs)]

    def _slice(self, op: Op, sizes: tuple[Size, ...]) -> list[int] | None:
        """Rewrites a gather as a slice and returns its number; None where none takes the same."""
        index = self._constant(op.inputs[1])
        params = None if index is None else as_slice(op.params, index, plain(sizes))
        if params is None:
            return None
        ends = zip(*params.values(), strict=True)
        taken = tuple(
            Size(0, -(-(limit - start) // stride)) if isinstance(limit, int) else limit
            for start, limit, stride in ends
        )
        found = self._emit("slice", op.inputs[:1], taken, op, params)
        return [found if taken == op.shape else self._reshape(found, op.shape, op)]

    def _constant(self, number: int) -> np.ndarray | None:
        """Evaluates a number that depends on neither parameters nor images; None for any other."""
        if number in self.constants:
            return np.asarray(self.constants[number])
        made = next((op for op in self.ops if number in op.outputs), None)
        if made is None or made.kind == "dim_as_value" or any(size.q for size in made.shape):
            return None
        inputs = [self._constant(i) for i in made.inputs]
        if any(value is None for value in inputs):
            return None
        return np.asarray(made.run(1, *inputs)[made.outputs.index(number)])

    def _scaled(self, value: Any) -> Any:
        """Returns an equation's params with every symbolic size as `Size`."""
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
    (body,) = (b for bodies in walker.nested_jaxprs(eqn).values() for b in bodies)
    inner = walker.as_closed(body).jaxpr.eqns
    name = inner[0].params.get("name") if len(inner) == 1 else None
    aval = eqn.invars[0].aval
    if name not in _KEPT or not jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact):
        return None
    # a name is no proof: whoever writes a leaky relu may call it relu
    theirs = _derivative(lambda x: walker.bind(eqn, [x])[0], aval.shape, aval.dtype)
    return name if theirs == _own(name, aval.shape, aval.dtype) else None


@functools.lru_cache
def _own(name: str, shape: tuple, dtype: Any) -> str:
    return _derivative(_KEPT[name], shape, dtype)


def _derivative(function: Callable, shape: tuple, dtype: Any) -> str:
    """Returns a function of one array and its derivative, as text."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    return str(jax.make_jaxpr(lambda x, t: jax.jvp(function, (x,), (t,)))(x, x))


# ops that are read as others, for transforms and files to know fewer kinds
_REWRITTEN = {
    "split": Reader._parts,
    "stack": Reader._stacked,
    "unstack": Reader._unstacked,
    "reshape": Reader._reshaped,
    "sort": Reader._each_result,
    "top_k": Reader._each_result,
}
