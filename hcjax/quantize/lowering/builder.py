"""The graph of a quantized network in the making.

What an op gives is written down in the form that the op makes (`forms`); `conversion` puts it into
another where a reader asks for one.
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
from hcjax.graph.constants import evaluate_constants, layer_name, randomised, trained_numbers
from hcjax.graph.model import LAYERS, Model, Op, Size, consumers, unused_name
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.table import preserves_values
from hcjax.quantize import straight_through
from hcjax.quantize.lowering.forms import Forms, Int8, QParams
from hcjax.quantize.ranges import Ranges
from hcjax.quantize.spec import Bits


class Builder:
    """The graph in the making: its ops, and the forms of the original graph's numbers."""

    def __init__(
        self,
        model: Model,
        ranges: Ranges,
        bits: Bits,
        activation_bits: Bits,
        input_bits: Bits = 8,
        granularity: str = "channel",
        floats: str = "",
    ):
        self.original, values, stretched = evaluate_constants(model)
        self.stretched = {o: op for op in self.original for o in op.outputs if o in stretched}
        self.shape = {o.output: o.shape for o in self.original}
        self.original = [op for op in self.original if op.output not in stretched]
        self.model, self.ranges, self.granularity = model, ranges, granularity
        self.bits, self.activation_bits, self.input_bits = bits, activation_bits, input_bits
        self.in_float = re.compile(floats or "(?!)").fullmatch  # of a layer's name
        self.known = values | stretched
        self.readers = consumers(self.original)
        self.shape[model.graph.images] = (Size(1, 0), *(Size(0, d) for d in model.image_shape))
        self.dtype = {o.output: o.dtype for o in self.original}
        self.ops: list[Op] = []
        self.params: dict[str, jax.Array] = {}
        self.numbers: dict[str, int] = {}
        self.constants: dict[int, Any] = {}
        self.left: list[str] = []
        self.forms: defaultdict[int, Forms] = defaultdict(Forms)
        self.forms[model.graph.images].floating = model.graph.images
        self.label = {model.graph.images: "images"}
        self.paths = {number: path for path, number in model.graph.params.items()}
        self.trained = trained_numbers(model)
        self._operands: dict[int, int] = {}
        self.copies: dict[tuple, int] = {}
        self._kernels: dict[tuple, tuple[int, int, int]] = {}
        self._qparams: dict[int, QParams] = {}
        self._made: dict[int, Op] = {}
        self._next = max([*self.known, *self.shape], default=0)

    def read(self, op: Op) -> list[int]:
        """Returns the operands of an op that depend on the images."""
        return [i for i in op.inputs if i not in self.known]

    def emit(self, kind: str, inputs: tuple[int, ...], run: Callable, **about: Any) -> int:
        """Adds an op with one result, and returns its number.

        run: function of (batch size, operands), gives an array. What scales and offsets are
        computed of is hidden from compilers, or they would differ from program to program.
        """
        if kind in ("scale", "offset"):
            known, run = (
                run,
                lambda batch, *x: fixed_point.apart(known(batch, *fixed_point.apart(x))),
            )
        self._next += 1
        of = about.pop("of", None)
        shape = about.pop("shape", ()) if of is None else self.shape[of]
        source, macs = about.pop("source", ""), about.pop("macs", 0)
        dtype = about.pop("dtype", jnp.float32)
        new = Op(kind, inputs, (self._next,), shape, dtype, source, _as_list(run), about, macs)
        self.ops.append(new)
        self._made[self._next] = new
        return self._next

    def keep(self, op: Op, inputs: tuple[int, ...], run: Callable[..., list]) -> None:
        """Adds an op of the original graph, in float, with all its results."""
        outputs = tuple(range(self._next + 1, self._next + 1 + len(op.outputs)))
        self._next = outputs[-1]
        self.ops.append(op._replace(inputs=inputs, outputs=outputs, run=run))
        for number, output in zip(op.outputs, outputs, strict=True):
            self.forms[number].floating = output

    def shape_of(self, number: int) -> tuple[Size, ...]:
        """Returns the shape of a number of the new graph; () for a parameter."""
        return self._made[number].shape if number in self._made else ()

    def axis(self, scale: int) -> int | None:
        """Returns the one axis along which a scale differs, -1 if it does not; None for more."""
        axes = [a for a, size in enumerate(self.shape_of(scale)) if size.r > 1]
        return (axes or [-1])[0] if len(axes) < 2 else None

    def label_of(self, number: int) -> str:
        """Returns what parameters that come of a value are called after."""
        return self.label.get(number, "value")

    def parameter(self, path: str, value: Any) -> int:
        """Adds a parameter, and returns its number."""
        name = unused_name(path, self.params)
        self._next += 1
        self.params[name], self.numbers[name] = jnp.asarray(value), self._next
        return self._next

    def operand(self, number: int, name: str) -> int:
        """Returns the number of something that does not depend on the images.

        name: of the parameter that it becomes, if it depends on parameters and is none itself.
        """
        if number not in self._operands:
            self._operands[number] = self.given(number, name, self.known[number])
        return self._operands[number]

    def given(self, number: int, name: str, value: Any) -> int:
        """Adds a value that does not depend on the images, and returns its number."""
        if number in self.trained:
            return self.parameter(self.paths.get(number, name), value)
        self._next += 1
        self.constants[self._next] = value
        return self._next

    @cached_property
    def drawn(self) -> dict[int, Any]:
        """Returns what `known` is of parameters no two numbers of which are equal."""
        return randomised(self.model)

    def channels(self, op: Op) -> int | None:
        """Returns the axis of an op's kernel with its channels; None for a weight of another op."""
        layer = op.kind in LAYERS and len(self.read(op)) == 1
        if not layer or channel_axis(op, self.known) is None:
            return None
        return kernel_axis(op, self.known)

    def along(self, axis: int | None, ndim: int) -> list[int]:
        """Returns the shape of a kernel's steps beside an array with its channels on an axis."""
        whole = self.granularity == "tensor" or axis is None
        return [] if whole else [-1 if a == axis else 1 for a in range(ndim)]

    def layer(self, op: Op, number: int) -> str:
        """Returns the name of the layer of a kernel."""
        return layer_name(self.model, op, number, self.paths)

    def layer_of(self, op: Op) -> str:
        """Returns the name of the layer that an op is; "" if it is none."""
        kernel = next((i for i in op.inputs if i in self.known), None)
        return self.layer(op, kernel) if op.kind in LAYERS and kernel is not None else ""

    def kernel(self, op: Op, number: int) -> tuple[int, int, int, str]:
        """Returns (rounded kernel, its steps, the greatest integer, the layer's name)."""
        axis = self.channels(op)
        name = self.layer(op, number)
        if (number, axis) not in self._kernels:
            bits = _bits(self.bits, name) if op.kind in LAYERS else 8
            most = fixed_point.limits(bits, signed=True)[1]
            value = jnp.asarray(self.known[number], jnp.float32)
            along = self.along(axis, value.ndim)
            others = tuple(a for a in range(value.ndim) if not along or a != axis)
            width = jnp.abs(value).max(others)
            # an empty channel takes the widest's: any would do, and a tiny one reaches far
            width = jnp.where(width > 0, width, width.max()) + (width.max() == 0)
            path = self.paths.get(number) or f"{name}/kernel"
            kernel = self.operand(number, path)
            steps = self.parameter(f"{name}/kernel_step", width / most)
            count = value.size // max(width.size, 1)
            steps = self.emit(
                "step", (steps,), lambda batch, s: straight_through.learned(s, count, most)
            )

            def rounded(batch, w, s):
                s = s.reshape(along)
                smooth = jnp.clip(w.astype(jnp.float32) / s, -most, most)
                return straight_through.ste(fixed_point.quantize(w, s, -most, most), smooth)

            about = {"bits": bits, "axis": axis if along else None, "channels": axis}
            whole = self.emit("quantize_kernel", (kernel, steps), rounded, **about)
            self._kernels[number, axis] = (whole, steps, most, name)
        return self._kernels[number, axis]

    def qparams(self, number: int, *, wide: bool = False) -> QParams:
        """Returns the qparams of a value, without an array: the ops behind it may keep it.

        wide: 16 bits, for logits that are a sum.
        """
        end = number
        while len(found := self.readers.get(end, ())) == 1 and _keeps_order(found[0]):
            end = found[0].output
        if end not in self._qparams:
            label = "logits" if wide else self.label_of(number)
            bits = _bits(self.activation_bits, label)
            value, least, most = self.ranges.step(end, bits)
            if wide:
                value, least, most = value * most / 32767, -32767, 32767
            self._qparams[end] = self._qparams_of(f"{label}/step", end, value, least, most)
        return self._qparams[end]

    def coarser(self, number: int, layer: str, q: Int8) -> QParams | None:
        """Returns the QParams that a layer reads a value with; None if its own have no more bits.

        q: the value's own.
        """
        bits = _bits(self.input_bits, layer)
        if fixed_point.limits(bits, signed=q.qmin < 0)[1] >= q.qmax:
            return None
        return self._qparams_of(f"{layer}/input_step", number, *self.ranges.step(number, bits))

    def _qparams_of(self, path: str, number: int, value: Any, least: int, most: int) -> QParams:
        """Returns a qparams for a value, whose step is learned."""
        step = self.parameter(path, jnp.float32(value))
        count = int(np.prod([sum(size) for size in self.shape[number]], dtype=np.int64))
        step = self.emit("step", (step,), lambda batch, s: straight_through.learned(s, count, most))
        return QParams(step, least, most)


def _keeps_order(op: Op) -> bool:
    """Returns whether what an op gives may share the scale of what it reads."""
    floating = jnp.issubdtype(op.dtype, jnp.floating)
    return floating and (preserves_values(op) or op.kind == "relu")


def _as_list(run: Callable[..., Any]) -> Callable[..., list]:
    """Returns a function of one result as one of a list of results."""
    return lambda *inputs: [run(*inputs)]


def _bits(bits: Bits, name: str) -> int:
    """Returns the bits of a layer."""
    if isinstance(bits, int):
        return bits
    return next((b for pattern, b in bits.items() if re.fullmatch(pattern, name)), 8)
