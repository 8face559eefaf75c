"""Reads a jaxpr into ops: decides which equations are inlined and which become one op."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hcjax.core import regions, walker
from hcjax.graph.interface import Leaf
from hcjax.graph.model import Op, Size, bind, plain
from hcjax.graph.ops.kind import LAYER, SUM, check, check_axes
from hcjax.graph.ops.layers import macs
from hcjax.graph.ops.table import EQUATION, KINDS, defined, params_of
from hcjax.graph.tracing import control
from hcjax.graph.tracing.gathers import as_slice

_INLINE = ("jit", "pjit", "closed_call", "remat2", "checkpoint")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call")
# functions that are one op and have their own derivative rule; their jit has this name
_FUNCTIONS = {"relu": jax.nn.relu, "relu6": jax.nn.relu6}
# kinds whose several results every reading follows
_SEVERAL = ("optimization_barrier", "split")
# params of equations that do not change a result
_NEUTRAL = ("sharding", "out_sharding", "weak_type", "indices_are_sorted", "unique_indices")


def batch_size_error(line: str, reason: object) -> TypeError:
    """Returns the error of a network that needs the batch size as a number."""
    return TypeError(
        f"{line or 'an unknown line'}: the network needs the batch size as a number "
        f"({str(reason).splitlines()[0]}); write it for any batch: x.reshape(x.shape[0], -1) is "
        "fine, int(x.shape[0]), len(x), x / x.shape[0] and `if x.shape[0] > 1` are not"
    )


def _has_batch(jaxpr: Any) -> bool:
    """Returns whether a nested jaxpr computes at the traced batch size, and so at no other."""
    inner = walker.as_closed(jaxpr).jaxpr
    values = [*inner.invars, *(v for eqn in inner.eqns for v in eqn.outvars)]
    return any(not isinstance(n, int | np.integer) for v in values for n in v.aval.shape)


class Reader:
    """Collects ops from nested jaxprs, giving every value a number."""

    def __init__(self, batch: Any):
        self.ops: list[Op] = []
        self.plain: list[str] = []  # lines of the custom derivative rules that are lost
        self.constants: dict[int, Any] = {}
        self.shapes: dict[int, tuple[Size, ...]] = {}
        self.dtypes: dict[int, Any] = {}
        self._batch, self._next, self._source = batch, 0, ""

    def number(self, constant: Any = None, leaf: Leaf | None = None) -> int:
        """Returns a new number, and stores what it is: a constant, or an input."""
        self._next += 1
        if leaf is not None:
            self.shapes[self._next] = tuple(map(self.size, leaf.sizes(self._batch)))
            self.dtypes[self._next] = leaf.dtype
        if constant is not None:
            self.constants[self._next] = constant
        return self._next

    def size(self, dim: Any) -> Size:
        """Returns a dimension as a `Size`."""
        if isinstance(dim, int | np.integer):
            return Size(0, int(dim))
        try:
            return Size(int(dim // self._batch), int(dim % self._batch))
        except Exception as error:  # its class is none of jax's public ones
            raise batch_size_error(self._source, error) from error

    def read(self, jaxpr: Any, inputs: list[int], source: str = "") -> list[int]:
        """Reads a jaxpr into ops, and returns the numbers of its results.

        Args:
          jaxpr: closed, or without constants.
          inputs: numbers of its inputs.
          source: the line that calls it, for equations without a line of their own.
        """
        closed = walker.as_closed(jaxpr)
        env = dict(zip(closed.jaxpr.constvars, map(self.number, closed.consts), strict=True))
        env |= zip(closed.jaxpr.invars, inputs, strict=True)

        def look_up(v):
            if isinstance(v, walker.Literal):
                return self.number(np.asarray(v.val, v.aval.dtype))
            return env[v]

        for eqn in closed.jaxpr.eqns:
            values = [look_up(v) for v in eqn.invars]
            env |= zip(eqn.outvars, self._equation(eqn, values, source), strict=True)
        return [look_up(v) for v in closed.jaxpr.outvars]

    def _equation(self, eqn: walker.Eqn, inputs: list[int], source: str) -> list[int]:
        name, source = eqn.primitive.name, walker.source_line(eqn) or source
        self._source = source
        bodies = [body for bodies in walker.nested_jaxprs(eqn).values() for body in bodies]
        if name in _INLINE and len(bodies) == 1:
            if eqn.params.get("name") == regions.IN_FLOAT:
                return control.read_region(self, eqn, inputs, source)
            return self.read(bodies[0], inputs, source)
        if None in (platforms := eqn.params.get("branches_platforms") or ()):
            # of platform_dependent: the branch of any platform, as a graph runs on any
            return self.read(bodies[platforms.index(None)], inputs[1:], source)
        function = _match_function(eqn)
        if name in _CUSTOM and function is None:
            self.plain.append(f"{source or 'an unknown line'} ({name})")
            return self.read(bodies[0], inputs, source)
        if name in _CONTROL:
            return _CONTROL[name](self, eqn, inputs, source)
        if name == "call_hi_primitive":  # it can be computed at the traced batch size only
            raise TypeError(
                f"{source or 'an unknown line'}: a graph holds no "
                f"{str(eqn.params.get('_prim')).partition('[')[0]}; write it with other ops"
            )
        if any(map(_has_batch, bodies)) and function is None:  # as in custom_linear_solve
            raise TypeError(
                f"{source or 'an unknown line'}: a graph holds no {name} of a batch; write it with "
                "other ops"
            )
        outputs = [self.number() for _ in eqn.outvars]
        aval = eqn.outvars[0].aval
        params = {} if function else self._resolve_sizes(eqn.params)
        kind = function or name
        compute = (lambda batch, x: [_FUNCTIONS[function](x)]) if function else bind(eqn, params)
        shape = tuple(map(self.size, aval.shape))
        for v, n in zip((*eqn.invars, *eqn.outvars), (*inputs, *outputs), strict=True):
            self.shapes[n], self.dtypes[n] = tuple(map(self.size, v.aval.shape)), v.aval.dtype
        numbers = (tuple(inputs), tuple(outputs))
        op = Op(kind, *numbers, shape, aval.dtype, source, compute, params)
        if name in _REWRITES:
            return _REWRITES[name](self, op)
        if name == "gather" and (
            slices := self._rewrite_as_slice(op, tuple(map(self.size, eqn.invars[0].aval.shape)))
        ):
            return slices
        if len(outputs) > 1 and name not in _SEVERAL:
            return self._repeated(op)
        self.ops.append(self._standardise(op))
        return outputs

    def _repeated(self, op: Op) -> list[int]:
        """Adds an op with several results once for each; the compiler computes them together."""

        def only(i):
            return lambda batch, *x: [op.run(batch, *x)[i]]

        for i, number in enumerate(op.outputs):
            own = {"shape": self.shapes[number], "dtype": self.dtypes[number], "run": only(i)}
            self.ops.append(self._standardise(op._replace(outputs=(number,), **own)))
        return list(op.outputs)

    def _standardise(self, op: Op) -> Op:
        """Returns the op that runs by its kind; the op itself if only its equation can run it."""
        kind, shapes = KINDS.get(op.kind), tuple(self.shapes[i] for i in op.inputs)
        if kind is not None:
            check(op.kind, kind)
            check_axes(op, kind, shapes)
        op = op._replace(macs=macs(op, shapes))
        if kind is None:
            return op
        further = {k: v for k, v in op.params.items() if k not in (*kind.fields, *kind.optional)}
        neutral = all(v is None or k in _NEUTRAL for k, v in kind.further(further).items())
        # sums and products of int8 are int32 in the integer program, int8 in an equation
        widens = kind.family in (SUM, LAYER) or op.kind == "mul"
        if not neutral or (widens and any(self.dtypes[i] == np.int8 for i in op.inputs)):
            return op._replace(params=op.params | {EQUATION: True})
        return defined(op, params=params_of(op.kind, op.params))

    def emit(self, kind: str, inputs: Any, shape: tuple[Size, ...], of: Op, params: dict) -> int:
        """Adds an op as a part of another, and returns its number."""
        output = self.number()
        self.shapes[output], self.dtypes[output] = shape, of.dtype
        params = params_of(kind, params)
        new = Op(kind, tuple(inputs), (output,), shape, of.dtype, of.source, None, params, of.macs)
        self.ops.append(defined(new))
        return output

    def nested(self) -> Reader:
        """Returns a reader for a body that stays a graph of its own."""
        return Reader(self._batch)

    def part(self, number: int, aval: Any, step: int, source: str) -> int:
        """Takes one index of the first axis of a value, without that axis."""
        shape = self.shapes[number] = tuple(map(self.size, aval.shape))
        of = Op("slice", (number,), (0,), shape[1:], aval.dtype, source, None, {})
        limits = (step + 1, *plain(shape[1:]))
        params = {"start_indices": (step,) + (0,) * len(shape[1:]), "limit_indices": limits}
        params |= {"strides": None}
        one = (Size(0, 1), *shape[1:])
        return self._reshape(self.emit("slice", (number,), one, of, params), shape[1:], of)

    def stacked(self, numbers: list[int], aval: Any, source: str) -> int:
        """Stacks values along a new first axis."""
        shape = tuple(map(self.size, aval.shape))
        of = Op("concatenate", (), (0,), shape, aval.dtype, source, None, {})
        parts = [self._reshape(number, (Size(0, 1), *shape[1:]), of) for number in numbers]
        return self.emit("concatenate", parts, shape, of, {"dimension": 0})

    def _split(self, op: Op) -> list[int]:
        """Rewrites a split as one slice for each part, and returns their numbers."""
        axis, start, numbers = op.params["axis"], 0, []
        if any(isinstance(size, Size) for size in op.params["sizes"]):
            self.ops.append(op)
            return list(op.outputs)
        for size in op.params["sizes"]:
            shape = tuple(Size(0, size) if a == axis else n for a, n in enumerate(op.shape))
            starts = [start if a == axis else 0 for a in range(len(shape))]
            limits = list(plain(shape))
            limits[axis] = start + size
            params = {"start_indices": tuple(starts), "limit_indices": tuple(limits)}
            numbers.append(self.emit("slice", op.inputs, shape, op, params | {"strides": None}))
            start += size
        return numbers

    def _unstack(self, op: Op) -> list[int]:
        """Rewrites an unstack as slices and reshapes, and returns their numbers."""
        axis = op.params["axis"]
        shape = (*op.shape[:axis], Size(0, 1), *op.shape[axis:])
        split = op._replace(shape=shape, params=op.params | {"sizes": [1] * len(op.outputs)})
        return [self._reshape(part, op.shape, op) for part in self._split(split)]

    def _stack(self, op: Op) -> list[int]:
        """Rewrites a stack as a concatenation, and returns its number."""
        axis = op.params["axis"]
        shape = tuple(Size(0, 1) if a == axis else n for a, n in enumerate(op.shape))
        parts = [self._reshape(i, shape, op) for i in op.inputs]
        return [self.emit("concatenate", parts, op.shape, op, {"dimension": axis})]

    def _reshape_in_order(self, op: Op) -> list[int]:
        """Rewrites a reshape in another order of axes as a transpose and a reshape."""
        number, order = op.inputs[0], op.params["dimensions"]
        if order is None:
            self.ops.append(self._standardise(op))
            return list(op.outputs)
        shape = tuple(self.shapes[number][a] for a in order)
        transposed = self.emit("transpose", op.inputs, shape, op, {"permutation": tuple(order)})
        return [self._reshape(transposed, op.shape, op)]

    def _reshape(self, number: int, shape: tuple[Size, ...], of: Op) -> int:
        return self.emit("reshape", (number,), shape, of, {"new_sizes": plain(shape)})

    def _separate_results(self, op: Op) -> list[int]:
        """Rewrites an op with several results as one op for each of them."""
        params = {"axis": -1, **op.params}

        def emit(i, output):
            of = op._replace(dtype=self.dtypes[output])
            return self.emit(op.kind, op.inputs, self.shapes[output], of, params | {"result": i})

        return [emit(i, output) for i, output in enumerate(op.outputs)]

    def _slice_if_known(self, op: Op) -> list[int]:
        """Rewrites a dynamic slice whose start depends on no input as a slice."""
        starts = [self.evaluate(i) for i in op.inputs[1:]]
        if any(start is None for start in starts):
            self.ops.append(self._standardise(op))
            return list(op.outputs)
        rows = zip(starts, plain(self.shapes[op.inputs[0]]), plain(op.shape), strict=True)
        bounds = []
        for start, size, length in rows:  # a start is clamped, as jax does
            whole = length == size
            first = 0 if whole else min(max(int(start), 0), size - length)
            bounds.append((first, size if whole else first + length))
        first, limits = zip(*bounds, strict=True)
        params = {"start_indices": first, "limit_indices": limits, "strides": None}
        return [self.emit("slice", op.inputs[:1], op.shape, op, params)]

    def _rewrite_as_slice(self, op: Op, sizes: tuple[Size, ...]) -> list[int] | None:
        """Rewrites a gather as a slice and returns its number; None if no slice is equal to it."""
        index = self.evaluate(op.inputs[1])
        params = None if index is None else as_slice(op.params, index, plain(sizes))
        if params is None:
            return None
        bounds = zip(*params.values(), strict=True)
        shape = tuple(
            Size(0, -(-(limit - start) // stride)) if isinstance(limit, int) else limit
            for start, limit, stride in bounds
        )
        output = self.emit("slice", op.inputs[:1], shape, op, params)
        return [output if shape == op.shape else self._reshape(output, op.shape, op)]

    def evaluate(self, number: int) -> np.ndarray | None:
        """Evaluates a number that depends on neither parameters nor inputs; None for any other."""
        if number in self.constants:
            return np.asarray(self.constants[number])
        op = next((other for other in self.ops if number in other.outputs), None)
        if op is None or op.kind == "dim_as_value" or any(size.q for size in op.shape):
            return None
        inputs = [self.evaluate(i) for i in op.inputs]
        if any(value is None for value in inputs):
            return None
        return np.asarray(op.run(1, *inputs)[op.outputs.index(number)])

    def _resolve_sizes(self, value: Any) -> Any:
        """Returns an equation's params with every symbolic size as `Size`."""
        if isinstance(value, dict):
            return {k: self._resolve_sizes(v) for k, v in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._resolve_sizes(v) for v in value)
        if type(value).__name__ == "_DimExpr":
            return self.size(value)
        return value


def _match_function(eqn: walker.Eqn) -> str | None:
    """Returns the name in `_FUNCTIONS` of a function with its own derivative rule, or None."""
    if eqn.primitive.name not in _CUSTOM:
        return None
    (body,) = (b for bodies in walker.nested_jaxprs(eqn).values() for b in bodies)
    inner = walker.as_closed(body).jaxpr.eqns
    name = inner[0].params.get("name") if len(inner) == 1 else None
    aval = eqn.invars[0].aval
    if name not in _FUNCTIONS or not jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact):
        return None
    # a name is no proof: a leaky relu may be called relu
    derivative = _derive(lambda x: walker.bind(eqn, [x])[0], aval.shape, aval.dtype)
    return name if derivative == _derive_own(name, aval.shape, aval.dtype) else None


@functools.lru_cache
def _derive_own(name: str, shape: tuple, dtype: Any) -> str:
    return _derive(_FUNCTIONS[name], shape, dtype)


def _derive(function: Callable, shape: tuple, dtype: Any) -> str:
    """Returns a function of one array and its derivative, as text."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    return str(jax.make_jaxpr(lambda x, t: jax.jvp(function, (x,), (t,)))(x, x))


# kinds that are rewritten as others, so that transforms and files need fewer kinds
_REWRITES = {
    "split": Reader._split,
    "stack": Reader._stack,
    "unstack": Reader._unstack,
    "reshape": Reader._reshape_in_order,
    "sort": Reader._separate_results,
    "top_k": Reader._separate_results,
    "dynamic_slice": Reader._slice_if_known,
}
_CONTROL = {"scan": control.read_scan, "while": control.read_while, "cond": control.read_cond}
