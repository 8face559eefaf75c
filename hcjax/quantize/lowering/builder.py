"""Builder of the fake-quantized graph.

The rule of an op records its result in one form (`forms`); `conversion` adds the op that turns it
into another form, where a consumer asks for one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.axes import channel_axis, kernel_axis
from hcjax.graph.constants import (
    evaluate_constants,
    is_table,
    layer_name,
    randomised,
    trained_numbers,
)
from hcjax.graph.interface import names
from hcjax.graph.model import (
    LAYERS,
    Model,
    Op,
    Size,
    consumers,
    input_dtypes,
    input_shapes,
    unused_name,
)
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.kind import CAST, ELEMENTWISE, JOIN, MOVE
from hcjax.graph.ops.table import family, preserves_values
from hcjax.quantize import straight_through
from hcjax.quantize.calibration.grids import Grid, grid
from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.lowering.forms import Forms, Int8, QParams
from hcjax.quantize.spec import Bits

_TINY = np.finfo(np.float32).tiny


class Builder:
    """The new graph under construction, and the forms of the original graph's numbers.

    original: ops of the original graph that depend on the inputs. constants, batch_shaped: values
    that do not, and the ops of those with a batch axis. ops, params, numbers, new_constants: the
    new graph. floats: descriptions of ops that stay in float. trained: numbers that depend on
    parameters. paths: number -> path of each parameter.
    """

    def __init__(
        self,
        model: Model,
        ranges: Ranges,
        bits: Bits,
        activation_bits: Bits,
        input_bits: Bits = 8,
        granularity: str = "channel",
        floats: str = "",
        zero_points: bool = True,
    ):
        self.original, values, batch_shaped = evaluate_constants(model)
        self.batch_shaped = {o: op for op in self.original for o in op.outputs if o in batch_shaped}
        self.shape = {o.output: o.shape for o in self.original}
        self.original = [op for op in self.original if op.output not in batch_shaped]
        self.model, self.ranges, self.granularity = model, ranges, granularity
        self.zero_points = zero_points
        self.grids: list[tuple[str, int, Grid]] = []  # name and number of an activation, its grid
        self.bits, self.activation_bits, self.input_bits = bits, activation_bits, input_bits
        self.in_float = re.compile(floats or "(?!)").fullmatch  # of a layer's name
        self.constants = values | batch_shaped
        self.consumers = consumers(self.original)
        self.shape |= input_shapes(model)
        self.dtype = input_dtypes(model) | {o.output: o.dtype for o in self.original}
        self.ops: list[Op] = []
        self.params: dict[str, jax.Array] = {}
        self.numbers: dict[str, int] = {}
        self.new_constants: dict[int, Any] = {}
        self.floats: list[str] = []
        self.forms: defaultdict[int, Forms] = defaultdict(Forms)
        self.label = dict(zip(model.graph.inputs, names(model.inputs, "images"), strict=True))
        for number in model.graph.inputs:
            self.forms[number].floating = number
        self.outputs = dict(zip(model.graph.outputs, names(model.outputs, "logits"), strict=True))
        self.paths = {number: path for path, number in model.graph.params.items()}
        self.trained = trained_numbers(model)
        self._operands: dict[int, int] = {}
        self.copies: dict[tuple, int] = {}
        self._kernels: dict[tuple, tuple[int, int, int]] = {}
        self._qparams: dict[int, QParams] = {}
        self._original = {o: op for op in self.original for o in op.outputs}
        self._producers: dict[int, Op] = {}
        self._values: dict[int, np.ndarray] = {}
        self._next = max([*self.constants, *self.shape], default=0)

    def activations(self, op: Op) -> list[int]:
        """Returns the operands of an op that depend on the images."""
        return [i for i in op.inputs if i not in self.constants]

    def emit(self, kind: str, inputs: tuple[int, ...], run: Callable, **fields: Any) -> int:
        """Adds an op with one result, and returns its number.

        run: (batch size, *operands) -> array. Scales and offsets are computed between optimization
        barriers, so that they have the same bits in every program.
        """
        if kind in ("scale", "offset"):
            compute, run = (
                run,
                lambda batch, *x: fixed_point.apart(compute(batch, *fixed_point.apart(x))),
            )
        self._next += 1
        of = fields.pop("of", None)
        shape = fields.pop("shape", ()) if of is None else self.shape[of]
        source, macs = fields.pop("source", ""), fields.pop("macs", 0)
        dtype = fields.pop("dtype", jnp.float32)
        new = Op(kind, inputs, (self._next,), shape, dtype, source, _as_list(run), fields, macs)
        self.ops.append(new)
        self._producers[self._next] = new
        return self._next

    def add_float(self, op: Op, inputs: tuple[int, ...], run: Callable[..., list]) -> None:
        """Adds an op of the original graph, in float, with all its results."""
        outputs = tuple(range(self._next + 1, self._next + 1 + len(op.outputs)))
        self._next = outputs[-1]
        self.ops.append(op._replace(inputs=inputs, outputs=outputs, run=run))
        for number, output in zip(op.outputs, outputs, strict=True):
            self.forms[number].floating = output

    def shape_of(self, number: int) -> tuple[Size, ...]:
        """Returns the shape of a number of the new graph; () for a parameter."""
        return self._producers[number].shape if number in self._producers else ()

    def axis(self, scale: int) -> int | None:
        """Returns the one axis along which a scale varies; -1 for no axis, None for several."""
        axes = [a for a, size in enumerate(self.shape_of(scale)) if size.r > 1]
        return (axes or [-1])[0] if len(axes) < 2 else None

    def label_of(self, number: int) -> str:
        """Returns the prefix of the names of a value's parameters."""
        return self.label.get(number, "value")

    def parameter(self, path: str, value: Any) -> int:
        """Adds a parameter, and returns its number."""
        name = unused_name(path, self.params)
        self._next += 1
        self.params[name], self.numbers[name] = jnp.asarray(value), self._next
        return self._next

    def operand(self, number: int, name: str) -> int:
        """Returns the number of a constant operand, added on first use.

        name: of the new parameter, if the operand is computed from parameters.
        """
        if number not in self._operands:
            self._operands[number] = self.add_constant(number, name, self.constants[number])
        return self._operands[number]

    def add_constant(self, number: int, name: str, value: Any) -> int:
        """Adds a constant, or a parameter if it depends on parameters, and returns its number."""
        if number in self.trained:
            return self.parameter(self.paths.get(number, name), value)
        return self.add_new_constant(value)

    def add_new_constant(self, value: Any) -> int:
        """Adds a constant that no number of the original graph is, and returns its number."""
        self._next += 1
        self.new_constants[self._next] = value
        return self._next

    def value(self, number: int) -> np.ndarray:
        """Returns the value that a scale or an offset of the new graph has as things are."""
        if number not in self._values:
            if number in self._producers:
                op = self._producers[number]
                (found,) = op.run(1, *map(self.value, op.inputs))
            elif number in self.new_constants:
                found = self.new_constants[number]
            else:
                found = next(self.params[p] for p, n in self.numbers.items() if n == number)
            self._values[number] = np.asarray(found)
        return self._values[number]

    def zero_offset(self, scale: int, zero: int, counts: Any = 1.0) -> int:
        """Adds the offset -zero · scale · counts, and returns its number."""
        factor = np.float32(-zero) * np.asarray(counts, np.float32)
        return self.emit("offset", (scale,), lambda batch, s: s * factor)

    @cached_property
    def randomised(self) -> dict[int, Any]:
        """The constants of randomised parameters, in which no two numbers are equal."""
        return randomised(self.model)

    def channels(self, op: Op) -> int | None:
        """Returns the axis of a layer's kernel with its output channels; None for other ops."""
        layer = op.kind in LAYERS and len(self.activations(op)) == 1
        if not layer or channel_axis(op, self.constants) is None:
            return None
        return kernel_axis(op, self.constants)

    def scale_shape(self, axis: int | None, ndim: int) -> list[int]:
        """Returns the shape in which a kernel's scales broadcast to its channels on an axis."""
        per_tensor = self.granularity == "tensor" or axis is None
        return [] if per_tensor else [-1 if a == axis else 1 for a in range(ndim)]

    def layer(self, op: Op, number: int) -> str:
        """Returns the name of the layer of a kernel."""
        return layer_name(self.model, op, number, self.paths)

    def layer_of(self, op: Op) -> str:
        """Returns the name of an op that is a layer, or looks rows up; "" for other ops."""
        kernel = next((i for i in op.inputs if i in self.constants), None)
        named = kernel is not None and (op.kind in LAYERS or self.is_table(op))
        return self.layer(op, kernel) if named else ""

    def is_table(self, op: Op) -> bool:
        """Returns whether an op looks rows of a table up, which is a kernel then."""
        return is_table(op, self.constants) and op.inputs[0] not in self.batch_shaped

    def kernel(self, op: Op, number: int) -> tuple[int, int, int, str]:
        """Returns (number of the quantized kernel, number of its scales, qmax, layer name)."""
        axis = self.channels(op)
        name = self.layer(op, number)
        if (number, axis) not in self._kernels:
            bits = self._kernel_bits(op, name)
            qmax = fixed_point.limits(bits, signed=True)[1]
            value = np.asarray(self.constants[number], np.float32)  # XLA would compile each shape
            shape = self.scale_shape(axis, value.ndim)
            others = tuple(a for a in range(value.ndim) if not shape or a != axis)
            width = np.abs(value).max(others)
            width = np.where(width < _TINY, np.float32(0), width)  # as XLA sees subnormal numbers
            # a channel of zeros takes the widest range; a tiny scale would make its sums overflow
            width = jnp.asarray(np.where(width > 0, width, width.max()) + (width.max() == 0))
            path = self.paths.get(number) or f"{name}/kernel"
            kernel = self.operand(number, path)
            scales = self.parameter(f"{name}/kernel_step", width / qmax)
            count = value.size // max(width.size, 1)
            scales = self.emit(
                "step", (scales,), lambda batch, s: straight_through.learn_scale(s, count, qmax)
            )

            def compute(batch, w, s):
                s = s.reshape(shape)
                smooth = jnp.clip(w.astype(jnp.float32) / s, -qmax, qmax)
                return straight_through.ste(fixed_point.quantize(w, s, -qmax, qmax), smooth)

            params = {"bits": bits, "axis": axis if shape else None, "channels": axis}
            quantized = self.emit("quantize_kernel", (kernel, scales), compute, **params)
            self._kernels[number, axis] = (quantized, scales, qmax, name)
        return self._kernels[number, axis]

    def _kernel_bits(self, op: Op, name: str) -> int:
        """Returns the bits of a kernel; rows of a table are activations too, as they are."""
        if self.is_table(op) and not self.in_float(name):
            return min(_bits(self.bits, name), _bits(self.activation_bits, name))
        return _bits(self.bits, name) if op.kind in LAYERS else 8

    def qparams(self, number: int, *, int16: bool = False) -> QParams:
        """Returns the QParams of a value: those of the last value behind order-preserving ops.

        int16: for an output that is a sum.
        """
        end = number
        while len(ops := self.consumers.get(end, ())) == 1 and _preserves_scale(ops[0]):
            end = ops[0].output
        if end not in self._qparams:
            label = self.outputs[number] if int16 else self.label_of(number)
            bits = _bits(self.activation_bits, label)
            if int16:
                scale, _, qmax = self.ranges.step(end, bits)
                found = Grid(scale * qmax / 32767, -32767, 32767)
            else:
                found = self._grid(end, bits)
            self._qparams[end] = self.qparams_of(f"{label}/step", end, found)
        return self._qparams[end]

    def symmetric(self, number: int) -> Grid:
        """Returns the grid of a value without a zero point."""
        return Grid(*self.ranges.step(number, _bits(self.activation_bits, self.label_of(number))))

    def _grid(self, number: int, bits: int) -> Grid:
        zero_point = self.zero_points and not self._reaches(number, self._multiplies)
        holds_zero = self._reaches(number, self._pads)
        return grid(self.ranges, number, bits, zero_point=zero_point, holds_zero=holds_zero)

    def _reaches(self, number: int, test: Callable[[Op], bool]) -> bool:
        """Returns whether an op that reads a value, as it is or only moved, passes a test."""
        queue, seen = [number], {number}
        while queue:
            for op in self.consumers.get(queue.pop(), ()):
                if test(op):
                    return True
                if _preserves_scale(op) and op.output not in seen:
                    seen.add(op.output)
                    queue.append(op.output)
        return False

    def only_output(self, number: int) -> bool:
        """Returns whether a value is only moved and joined on its way to the outputs."""
        readers = self.consumers.get(number, ())
        ends = number in self.outputs or readers
        return bool(ends) and all(
            family(op) in (MOVE, JOIN) and self.only_output(op.output) for op in readers
        )

    def _multiplies(self, op: Op) -> bool:
        """Returns whether an op multiplies two activations."""
        read = self.activations(op)
        if len(read) < 2 or op.kind not in (*LAYERS, "mul"):
            return False
        return op.kind != "mul" or len({self._root(number) for number in read}) > 1

    def _root(self, number: int) -> int:
        """Returns the value that a chain of functions of one value starts from."""
        while (op := self._original.get(number)) and family(op) in (ELEMENTWISE, CAST):
            if len(read := set(self.activations(op))) > 1:
                break
            (number,) = read
        return number

    def _pads(self, op: Op) -> bool:
        """Returns whether an op puts zeros beside the numbers of its operand."""
        if op.kind not in LAYERS:
            return op.kind == "pad"
        between = (d - 1 for d in op.params.get("lhs_dilation", ()))
        return any(map(any, op.params.get("padding", ()))) or any(between)

    def input_qparams(self, number: int, layer: str, q: Int8) -> QParams | None:
        """Returns the QParams of a layer's input; None if the layer reads all bits of the value.

        q: int8 form of the value.
        """
        bits = _bits(self.input_bits, layer)
        enough = fixed_point.limits(bits, signed=q.qmin < 0)[1] >= q.qmax
        if 2**bits > q.qmax - q.qmin if q.zero else enough:
            return None
        return self.qparams_of(f"{layer}/input_step", number, self._grid(number, bits))

    def qparams_of(self, path: str, number: int, grid: Grid) -> QParams:
        """Returns QParams for a value; their scale is a new parameter."""
        scale, qmin, qmax, zero = grid
        self.grids.append((path.removesuffix("/step"), number, grid))
        parameter = self.parameter(path, jnp.float32(scale))
        count = int(np.prod([sum(size) for size in self.shape[number]], dtype=np.int64))
        most = qmax - qmin if zero else qmax
        learned = self.emit(
            "step",
            (parameter,),
            lambda batch, s: straight_through.learn_scale(s, count, most),
        )
        return QParams(learned, qmin, qmax, zero)


def _preserves_scale(op: Op) -> bool:
    """Returns whether the result of an op may share the scale of its operand."""
    floating = jnp.issubdtype(op.dtype, jnp.floating)
    return floating and (preserves_values(op) or op.kind == "relu")


def _as_list(run: Callable[..., Any]) -> Callable[..., list]:
    """Wraps a function of one result to return a list."""
    return lambda *inputs: [run(*inputs)]


def _bits(bits: Bits, name: str) -> int:
    """Returns the bits of a layer."""
    if isinstance(bits, int):
        return bits
    return next((b for pattern, b in bits.items() if re.fullmatch(pattern, name)), 8)
