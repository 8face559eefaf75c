"""`Writer`: the C program under construction; its values, constants and statements.

A value of the graph is an array of C in the graph's own order of axes, for a batch of one. Values
that only have another shape are the same array.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hcjax.errors import ConfigError
from hcjax.export.c.memory import Life, plan
from hcjax.export.program import Program
from hcjax.graph.model import Op, at_batch
from hcjax.graph.qtensor import QTensor

# dtype -> type of C; integers of 8 bits are kept as q + 128
TYPES = {
    "float32": "float", "int32": "int32_t", "uint32": "uint32_t", "int16": "int16_t",
    "uint16": "uint16_t", "int8": "uint8_t", "uint8": "uint8_t", "bool": "uint8_t",
}  # fmt: skip
SLACK = 64  # bytes behind an array that vector instructions may read


class Writer:
    """What emitters write to.

    found: the program. constants, lines: text of the arrays and of the statements so far. done:
    numbers of the ops' results that another op has written, or will. reads: number -> the last step
    that reads it. step: of the op at hand.
    """

    def __init__(self, found: Program):
        self.found = found
        self.constants: list[str] = []
        self.lines: list[str] = []
        self.done: set[int] = set()
        self.reads: dict[int, int] = {}
        self.step = 0
        self._values = found.values
        self._names: dict[int, str] = {}
        self._arrays: dict[str, tuple[str, int]] = {}  # name -> (type, elements)
        self._lives: dict[str, Life] = {}
        self._kept: dict[Any, str] = {}
        self._buffers = 0

    # --- shapes and types ---

    def sizes(self, number: int) -> tuple[int, ...]:
        """Returns the shape of a value for a batch of one."""
        if number in self.found.shapes:
            return at_batch(self.found.shapes[number], 1)
        value = self._values[number]
        return tuple(np.shape(value.values if isinstance(value, QTensor) else value))

    def dtype(self, number: int) -> str:
        """Returns the name of a value's dtype.

        Raises:
          ConfigError: if C has no such type.
        """
        value = self.constant(number)
        dtype = np.dtype(self.found.dtypes[number] if value is None else value.dtype).name
        if dtype not in TYPES:
            raise ConfigError(
                f"C cannot be written: an array of {dtype}; legal: {', '.join(TYPES)}. Convert the "
                "network to float32 first"
            )
        return dtype

    def constant(self, number: int) -> np.ndarray | None:
        """Returns the value of a constant, integers of a QTensor; None for what is computed."""
        value = self._values.get(number)
        return None if value is None else np.asarray(getattr(value, "values", value))

    # --- arrays ---

    def give(self, number: int, name: str) -> None:
        """Says what a value is called that is not computed here: an input."""
        self._names[number] = name

    def name(self, number: int) -> str:
        """Returns the name of a value, which is read at the step at hand."""
        if number not in self._names:
            value = self.constant(number)
            if value.dtype == np.int8:
                value = (value.astype(np.int16) + 128).astype(np.uint8)
            self._names[number] = self.data(TYPES[self.dtype(number)], value)
        name = self._names[number]
        if name in self._lives:
            self._lives[name] = self._lives[name]._replace(last=self.step)
        return name

    def make(self, number: int) -> str:
        """Returns the name of the array that a value of the op at hand is written to."""
        if number not in self._names:
            kind = TYPES[self.dtype(number)]
            self._names[number] = self.buffer(kind, math.prod(self.sizes(number)), f"v{number}")
        return self._names[number]

    def alias(self, number: int, other: int) -> str:
        """Says that a value is the array of another one, in its place or in another shape."""
        self._names[number] = self.name(other)
        return self._names[number]

    def is_last(self, number: int) -> bool:
        """Returns whether nothing after the step at hand reads a value's array, which is in memory.

        So what the step makes may take its place.
        """
        name = self._names.get(number)
        shared = [n for n, other in self._names.items() if other == name]
        return name in self._lives and max(self.reads.get(n, 0) for n in shared) <= self.step

    def buffer(self, kind: str, count: int, name: str = "") -> str:
        """Returns the name of an array that lives from here to the last step that reads it."""
        if not name:
            self._buffers += 1
            name = f"b{self._buffers}"
        self._arrays[name] = kind, count
        size = int(count) * np.dtype({"float": "float32"}.get(kind, kind[:-2])).itemsize
        self._lives[name] = Life(size + SLACK, self.step, self.step)
        return name

    def data(self, kind: str, value: Any, slack: int = 0) -> str:
        """Returns the name of a constant array, added once.

        slack: zeros behind its numbers.
        """
        flat = np.concatenate([np.ravel(value), np.zeros(slack, np.asarray(value).dtype)])
        key = kind, flat.dtype.str, flat.tobytes()
        if key not in self._kept:
            name = f"c{len(self._kept)}"
            numbers = _numbers(flat)
            self.constants.append(
                f"static const {kind} {name}[{max(flat.size, 1)}] = {{\n{numbers}}};\n"
            )
            self._kept[key] = name
        return self._kept[key]

    # --- statements ---

    def add(self, *lines: str) -> None:
        """Adds statements."""
        self.lines += lines

    def loops(self, sizes: Sequence[int], *statements: str) -> None:
        """Adds statements in loops over the axes of a shape, with indices i0, i1, ..."""
        axes = [a for a, n in enumerate(sizes) if n != 1]
        for depth, a in enumerate(axes):
            self.lines.append(f"{'  ' * depth}for (int i{a} = 0; i{a} < {sizes[a]}; i{a}++)")
        body = list(statements)
        self.lines += [f"{'  ' * len(axes)}{line}" for line in _braced(body)]

    def memory(self) -> tuple[list[str], int]:
        """Returns declarations of the arrays in memory, and the size of the memory in bytes."""
        offsets, size = plan(self._lives)
        lines = []
        for name, (kind, _) in self._arrays.items():
            lines.append(f"{kind} *const {name} = (void *)(memory + {offsets[name]});")
        return lines, size

    def comment(self, op: Op, text: str = "") -> None:
        """Says which op the next statements are of."""
        shape = "x".join(map(str, self.sizes(op.output)))
        source = op.source.replace("*/", "* /")
        self.lines.append(f"/* {op.kind} {op.output}: {shape}{text}; {source} */")


def index(sizes: Sequence[int], strides: Iterable[int] | None = None, start: int = 0) -> str:
    """Returns the position of the indices i0, i1, ... in an array, as an expression.

    Args:
      sizes: of the axes that are looped over; those of size 1 have no index.
      strides: elements between neighbours of each axis; None for those of such an array itself.
      start: position of the first element.

    Example:
      >>> index((2, 1, 3)), index((2, 3), (1, 2), 5)
      ('i0 * 3 + i2', '5 + i0 + i1 * 2')
    """
    strides = row_major(sizes) if strides is None else strides
    terms = [str(start)] if start else []
    for a, (n, stride) in enumerate(zip(sizes, strides, strict=True)):
        if n != 1 and stride:
            terms.append(f"i{a}" if stride == 1 else f"i{a} * {stride}")
    return " + ".join(terms).replace("+ -", "- ") or "0"


def row_major(sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the strides of an array in row-major order, in elements."""
    return tuple(math.prod(sizes[a + 1 :]) for a in range(len(sizes)))


def broadcast(sizes: Sequence[int], to: Sequence[int]) -> tuple[int, ...]:
    """Returns the strides with which an array is read in the shape that it is broadcast to.

    Example:
      >>> broadcast((3, 1), (2, 3, 4)), broadcast((), (2,))
      ((0, 1, 0), (0,))
    """
    own = row_major(sizes)
    strides = [s if n != 1 else 0 for n, s in zip(sizes, own, strict=True)]
    return (0,) * (len(to) - len(sizes)) + tuple(strides)


def _braced(lines: list[str]) -> list[str]:
    if len(lines) == 1:
        return [f"  {lines[0]}"]
    return ["{", *(f"  {line}" for line in lines), "}"]


def _numbers(flat: np.ndarray) -> str:
    """Returns the numbers of an array as C has them, exactly."""
    if flat.dtype.kind == "f":
        words = [_float(v) for v in flat.tolist()]
    elif flat.dtype == bool:
        words = [str(int(v)) for v in flat.tolist()]
    else:
        words = [str(v) if v > -(2**31) else "(-2147483647 - 1)" for v in flat.tolist()]
    if flat.dtype == np.uint32:
        words = [f"{word}u" for word in words]
    words = words or ["0"]
    return "".join(f"  {', '.join(words[i : i + 16])},\n" for i in range(0, len(words), 16))


def number(value: float) -> str:
    """Returns a float32 as C has it, exactly.

    Example:
      >>> number(0.5), number(float("-inf"))
      ('0x1.0000000000000p-1f', '-INFINITY')
    """
    return _float(float(np.float32(value)))


def _float(v: float) -> str:
    if math.isnan(v):
        return "NAN"
    if math.isinf(v):
        return "INFINITY" if v > 0 else "-INFINITY"
    return f"{v.hex()}f"
