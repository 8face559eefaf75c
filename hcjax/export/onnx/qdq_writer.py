"""`QdqWriter`: a writer whose int8 numbers are uint8 in the file, as ONNX Runtime fuses them.

An int8 number q lies as u = q + 128. A layer of int8 is written when what rounds its sums is known.
Whatever has no fused form reads int8 and int32, which are then computed from u, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hcjax.export.onnx.steps import steps
from hcjax.export.onnx.writer import Value, Writer
from hcjax.export.program import Program
from hcjax.graph.model import Op

ZERO = 128  # the uint8 of q = 0


class QdqWriter(Writer):
    """A writer with two forms of an int8: uint8 in `unsigned`, int8 in `values`.

    pending: number -> layer whose sums nobody has asked for. step: number -> its real scale. zero:
    number -> the integer for 0, where a convolution pads with it.
    """

    def __init__(self, found: Program, root: Writer | None = None):
        super().__init__(found, root)
        self.unsigned: dict[int, Value] = {}
        self.pending: dict[int, Op] = {}
        self._moving = False
        self.step = {} if root is not None else steps(self)
        self.zero = {} if root is not None else _zeros(self)

    def value(self, number: int) -> Value:
        """Returns the array of a number as it lies; int8 and int32 are computed if need be."""
        if self._moving and number in self.unsigned:
            return self.unsigned[number]
        if number not in self.values:
            if number in self.pending:
                op = self.pending.pop(number)
                self.notes["emitters"][op.kind](self, op)
            elif number in self.unsigned:
                value = self.unsigned[number]
                real = self.dequantized(value.name, 1.0, 0)
                self.values[number] = value._replace(name=self.cast(real, np.int8))
        return super().value(number)

    def constant(self, number: int) -> np.ndarray | None:
        """Returns the array of a constant; while numbers are moved, int8 as uint8."""
        array = super().constant(number)
        if self._moving and array is not None and array.dtype == np.int8:
            return (array.astype(np.int16) + ZERO).astype(np.uint8)
        return array

    def dtype(self, number: int) -> np.dtype:
        """Returns the dtype of a number; while numbers are moved, uint8 for int8."""
        found = super().dtype(number)
        return np.dtype(np.uint8) if self._moving and found == np.int8 else found

    def put(self, number: int, name: str, perm: Any = None, **more: Any) -> None:
        """Records the array of a number."""
        super().put(number, name, perm, **more)
        if self._moving:
            self.unsigned[number] = self.values.pop(number)

    def move(self, emitter: Callable, op: Op) -> None:
        """Writes an op that moves int8, on uint8."""
        self._moving = True
        try:
            emitter(self, op)
            if op.output in self.values:  # an emitter may hand a value on as it is
                self.unsigned[op.output] = self.values.pop(op.output)
        finally:
            self._moving = False

    def as_unsigned(self, number: int) -> Value:
        """Returns the uint8 of a number that is int8."""
        if number not in self.unsigned:
            value = self.value(number)
            name = self.quantized(self.cast(value.name, np.float32), 1.0, 0)
            self.unsigned[number] = value._replace(name=name)
        return self.unsigned[number]

    def get_unsigned(self, number: int, perm: Any = None) -> str:
        """Returns the name of a number's uint8 in an order of axes."""
        self.as_unsigned(number)
        self._moving = True
        try:
            return self.get(number, perm)
        finally:
            self._moving = False

    def quantized(self, name: str, step: float, zero: int) -> str:
        """Adds a QuantizeLinear to uint8."""
        return self.node("QuantizeLinear", [name, *self._grid(step, zero)])

    def dequantized(self, name: str, step: float, zero: int) -> str:
        """Adds a DequantizeLinear of uint8."""
        return self.node("DequantizeLinear", [name, *self._grid(step, zero)])

    def _grid(self, step: float, zero: int) -> tuple[str, str]:
        return self.const(step, np.float32), self.const(zero + ZERO, np.uint8)


def _zeros(w: QdqWriter) -> dict[int, int]:
    """Returns number -> zero point, of int8 that are padded with a constant."""
    found = {}
    for op in w.found.ops:
        if op.kind == "pad" and w.dtype(op.inputs[0]) == np.int8:
            value = w.constant(op.inputs[1])
            if value is not None and value.size == 1:
                found[op.inputs[0]] = found[op.output] = int(value.reshape(()))
    return found
