"""The integer graph in the making: what each op of a fake-quantized graph is in integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph import arithmetic, layers
from hcjax.graph import values as values_of
from hcjax.graph.builder import as_list
from hcjax.graph.model import LAYERS, Model, Op
from hcjax.graph.qtensor import QTensor, dequantize

_INT32 = 2**31 - 1


class Program:
    """The integer graph in the making; numbers of what depends on images are the fake graph's."""

    def __init__(self, model: Model):
        self.read, self.values, _ = values_of.evaluate(model)
        self.made = {op.output: op for op in model.graph.ops}
        self.ops: list[Op] = []
        self.params: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}
        self.constants: dict[int, Any] = {}
        self.whole: set[int] = set()  # numbers that are integers now
        self._kernels: dict[int, int] = {}
        self._paths = {number: path for path, number in model.graph.params.items()}
        self._next = max([*self.values, *self.made, model.graph.images], default=0)

    def add(self, op: Op) -> None:
        """Adds what an op of the fake graph is in integers."""
        convert = _CONVERTED.get(op.kind)
        if convert is None and all(i in self.whole for i in op.inputs if i not in self.values):
            convert = _COUNTED.get(op.kind, _moved)
        if convert is None:
            self._kept(op)
        else:
            inputs, run, dtype, *params = convert(self, op)
            about = {"dtype": jnp.dtype(dtype), "params": params[0] if params else op.params}
            self.ops.append(op._replace(inputs=inputs, run=as_list(run), **about))
            if dtype != jnp.float32:
                self.whole.add(op.output)

    def parameter(self, path: str, value: Any) -> int:
        """Adds a parameter, and returns its number."""
        name, i = path, 1
        while name in self.params:
            name, i = f"{path}_{i}", i + 1
        self._next += 1
        self.params[name], self.numbers[name] = value, self._next
        return self._next

    def kernel(self, number: int) -> int:
        """Returns the number of a rounded kernel, a QTensor."""
        if number not in self._kernels:
            made = self.made[number]
            path = self._paths.get(made.inputs[0], "kernel")
            values = jnp.asarray(self.values[number]).astype(jnp.int8)
            scale = jnp.asarray(self.values[made.inputs[1]], jnp.float32)
            q = QTensor(values, scale, None, made.params["bits"], made.params["axis"])
            reach = np.abs(np.asarray(values, np.int64)).sum(
                tuple(a for a in range(values.ndim) if a != q.axis)
            )
            if reach.size and int(reach.max()) * 128 > _INT32:
                raise ValueError(f"{path}: sums of up to {int(reach.max()) * 128:,} pass int32")
            self._kernels[number] = self.parameter(path, q)
        return self._kernels[number]

    def _kept(self, op: Op) -> None:
        """Adds an op as it is, in float."""
        inputs = []
        for i in op.inputs:
            if i in self.values and (made := self.made.get(i)) and made.kind == "dequantize_kernel":
                self._next += 1
                kernel = self.kernel(made.inputs[0])
                run = as_list(lambda batch, q: dequantize(q))
                self.ops.append(made._replace(inputs=(kernel,), outputs=(self._next,), run=run))
                inputs.append(self._next)
            elif i in self._paths:
                path = self._paths[i]
                known = self.numbers.get(path)
                inputs.append(known or self.parameter(path, self.values[i]))
            else:
                if i in self.values:
                    self.constants[i] = self.values[i]
                inputs.append(i)
        self.ops.append(op._replace(inputs=tuple(inputs)))


# (inputs, function of (batch size, operands), dtype of its result, and, if they differ, params)
Converted = tuple[tuple[int, ...], Callable, Any] | tuple[tuple[int, ...], Callable, Any, dict]


def _layer(p: Program, op: Op) -> Converted:
    exact = layers.product(op, jnp.int32)
    inputs = tuple(p.kernel(i) if i in p.values else i for i in op.inputs)
    return inputs, lambda batch, x, y: exact(batch, _plain(x), _plain(y)), jnp.int32


def _plain(x: Any) -> Any:
    return x.values if isinstance(x, QTensor) else x


def _moved(p: Program, op: Op) -> Converted:
    others = op.inputs[1:]
    if others and all(i in p.values for i in others):  # the value that padding is made of
        for i in others:
            p.constants[i] = np.asarray(p.values[i]).astype(np.int8)
    return op.inputs, op.run_one, jnp.int8


def _quantize(p: Program, op: Op) -> Converted:
    x, step = op.inputs
    number = p.parameter(f"{op.params['label']}/step", jnp.asarray(p.values[step]))
    least, most = op.params["least"], op.params["most"]

    def compute(batch, x, step):
        return arithmetic.quantize(x, step, least, most).astype(jnp.int8)

    return (x, number), compute, jnp.int8


def _requantize(p: Program, op: Op) -> Converted:
    about = op.params
    bounds, label = about["bounds"], about["label"]
    count = len(bounds)
    step = jnp.asarray(p.values[op.inputs[-1]])
    scales = [jnp.asarray(p.values[i]) for i in op.inputs[2 * count : 3 * count]]
    offset = jnp.asarray(p.values[op.inputs[-2]]) if about["offset"] else None
    fixed = arithmetic.multipliers(scales, bounds, offset, step)
    if bool((fixed.room < 0).any()):
        raise ValueError(
            f"{label}: its step {float(step):.3g} is so small that sums of up to {max(bounds):,} "
            "could pass int32 on their way to it; calibrate it with images that reach further"
        )
    low, high = arithmetic.clips(about["low"], about["high"], about["least"], about["most"], step)
    low, high = int(low), int(high)
    numbers = [p.parameter(f"{label}/multiplier", m) for m in fixed.multipliers]
    numbers += [p.parameter(f"{label}/offset", fixed.offset)]
    numbers += [p.parameter(f"{label}/shift", fixed.shift)]
    dtype = jnp.int8 if low >= -128 and high <= 127 else jnp.int32

    def compute(batch, *values):
        terms, constants = values[:count], values[count:]
        found = arithmetic.Fixed(constants[:count], *constants[count:], fixed.room)
        whole = [t.astype(jnp.int32) for t in terms]
        return arithmetic.requantize(whole, bounds, found, low, high).astype(dtype)

    params = {"bounds": bounds, "least": low, "most": high, "label": label}
    return (*op.inputs[:count], *numbers), compute, dtype, params


def _look_up(p: Program, op: Op) -> Converted:
    table = jnp.asarray(p.values[op.inputs[1]]).astype(jnp.int8)
    number = p.parameter(f"{op.params['label']}/table", table)
    axis = op.params["axis"]

    def compute(batch, q, table):
        return arithmetic.look_up(q.astype(jnp.int32), table, axis)

    return (op.inputs[0], number), compute, jnp.int8


def _dequantize(p: Program, op: Op) -> Converted:
    about, ndim = op.params, len(op.shape)
    axis, label = about["axis"], about["label"]
    scale = jnp.asarray(p.values[op.inputs[2]])
    along = [-1 if a == axis else 1 for a in range(ndim)] if axis >= 0 else ()
    numbers = [p.parameter(f"{label}/scale", scale.reshape(-1 if axis >= 0 else ()))]
    if about["offset"]:
        offset = arithmetic.whole(jnp.asarray(p.values[op.inputs[3]]) / scale)
        most = int(jnp.abs(offset).max()) + about["bound"]
        if most > _INT32 or int(jnp.abs(offset).max()) >= 2**29:
            raise ValueError(f"{label}: its bias is {most:,} steps, which int32 cannot hold")
        numbers.append(p.parameter(f"{label}/offset", offset))

    def compute(batch, acc, scale, *offset):
        whole = acc.astype(jnp.int32)
        whole = whole + offset[0] if offset else whole
        return whole.astype(jnp.float32) * scale.reshape(along)

    return (op.inputs[0], *numbers), compute, jnp.float32


def _summed(p: Program, op: Op) -> Converted:
    return op.inputs, lambda batch, x: op.run_one(batch, x.astype(jnp.int32)), jnp.int32


def _mul(p: Program, op: Op) -> Converted:
    return op.inputs, lambda batch, x, y: x.astype(jnp.int32) * y.astype(jnp.int32), jnp.int32


def _relu(p: Program, op: Op) -> Converted:
    return op.inputs, lambda batch, q: lax.max(q, jnp.zeros((), q.dtype)), jnp.int8


# by the kinds that only the fake graph has; those that it shares with float ones stand in `add`
_CONVERTED = {
    "quantize": _quantize,
    "requantize": _requantize,
    "look_up": _look_up,
    "dequantize": _dequantize,
}
# of ops on integers, what is more than moving them
_COUNTED = {
    **dict.fromkeys(LAYERS, _layer),
    "mul": _mul,
    "relu": _relu,
    "reduce_sum": _summed,
    "reduce_window_sum": _summed,
}
