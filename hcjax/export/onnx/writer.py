"""`Writer`: the nodes of an ONNX graph under construction, and the layout in which values lie.

The layout pass: a value keeps the order of axes in which its producer gave it, e.g. NCHW behind a
convolution, and an op that only reads along axes says where they lie now. Transposes of the graph
thus cost nothing, and a node is written only where an op needs another order. An array that is
broadcast stays as it is until an op needs all of it, since ONNX broadcasts as NumPy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hcjax.core import optional
from hcjax.errors import ConfigError
from hcjax.export.program import Program
from hcjax.graph.model import Op, Size, consumers

OPSET, IR = 20, 9  # of ONNX 1.15: what ONNX Runtime 1.17 and later reads
_HALF = ("bfloat16", "float16")  # computed in float32: ONNX Runtime has few CPU kernels of them


class Value(NamedTuple):
    """An array of the ONNX graph, and how it stands for a number of hcjax's.

    name: of the array. perm: its axis i is axis perm[i] of the number. missing: axes of the number
    along which it is constant and the array has size 1. rows: order of the last axis, of a
    flattened image that lies in another layout: place i holds number rows[i]; None for as it is.
    """

    name: str
    perm: tuple[int, ...]
    missing: frozenset[int] = frozenset()
    rows: np.ndarray | None = None


class Writer:
    """Nodes and initializers of one graph; a body of a loop or a branch has a writer of its own.

    found: the program. root: the writer of the whole graph. values: number -> its array.
    notes: whatever emitters of one form keep from op to op.
    """

    def __init__(self, found: Program, root: Writer | None = None):
        self.onnx = optional.module("onnx", extra="onnx", what="the ONNX exporter")
        self.found, self.root = found, root or self
        self.nodes: list[Any] = []
        self.values: dict[int, Value] = {}
        self.notes: dict[str, Any] = {} if root is None else root.notes
        self.readers = consumers(found.ops)
        self.producers = {op.output: op for op in found.ops}
        self._cached: dict[tuple, str] = {}
        if root is None:
            self.initializers: dict[str, Any] = {}
            self._constants: dict[tuple, str] = {}
            self._count = 0
            self.taken: frozenset[str] = frozenset()  # names of inputs and outputs

    # --- names, constants, nodes

    def name(self, hint: str) -> str:
        """Returns a new name."""
        self.root._count += 1
        name = f"{hint}_{self.root._count}"
        return name if name not in self.root.taken else self.name(hint)

    def const(self, value: Any, dtype: Any = None) -> str:
        """Returns the name of an initializer; equal arrays share one."""
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        key = (array.dtype.name, array.shape, array.tobytes())
        root = self.root
        if key not in root._constants:
            name = root._constants[key] = self.name("c")
            root.initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        return root._constants[key]

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns the name of its result, or a list of them if there are several."""
        names = [self.name(kind.lower()) for _ in range(outputs)]
        made = self.onnx.helper.make_node(kind, list(inputs), names, name=names[0], **attributes)
        self.nodes.append(made)
        return names[0] if outputs == 1 else names

    def cast(self, name: str, dtype: Any) -> str:
        """Adds a cast."""
        return self.node("Cast", [name], to=self.code(dtype))

    def code(self, dtype: Any) -> int:
        """Returns ONNX's number of a dtype."""
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    # --- shapes

    def dtype(self, number: int) -> np.dtype:
        """Returns the dtype in which a number is computed: float32 for halves."""
        if number in self.found.values:
            found = np.dtype(array_of(self.found.values[number]).dtype)
        else:
            found = np.dtype(self.found.dtypes[number])
        return np.dtype(np.float32) if found.name in _HALF else found

    def shape(self, number: int) -> tuple[Size, ...]:
        """Returns the shape of a number, sizes as (q, r)."""
        if number in self.found.values:
            return tuple(Size(0, n) for n in array_of(self.found.values[number]).shape)
        return self.found.shapes[number]

    def batch(self) -> str:
        """Returns the name of int64[1], the size of the batch."""
        root = self.root
        if "batch" not in root.notes:
            leaf = next(n for n in root.found.model.graph.inputs if root.shape(n))
            root.notes["batch"] = root.node("Shape", [root.notes["inputs"][leaf]], start=0, end=1)
        return root.notes["batch"]

    def size(self, size: Size) -> str:
        """Returns the name of int64[1], a size at this batch."""
        if not size.q:
            return self.const([size.r], np.int64)
        if size == (1, 0):
            return self.batch()
        found = self.node("Mul", [self.batch(), self.const([size.q], np.int64)])
        return self.node("Add", [found, self.const([size.r], np.int64)])

    def sizes(self, shape: Sequence[Size], free: bool = True) -> str:
        """Returns the name of an int64 array, a shape. free: whether one size may be -1."""
        open_sizes = [a for a, size in enumerate(shape) if size.q]
        if not open_sizes or (free and len(open_sizes) == 1 and all(s.q or s.r for s in shape)):
            return self.const([-1 if size.q else size.r for size in shape], np.int64)
        return self.node("Concat", [self.size(size) for size in shape], axis=0)

    def reshape(self, name: str, shape: Sequence[Size]) -> str:
        """Adds a reshape."""
        return self.node("Reshape", [name, self.sizes(shape)])

    # --- values

    def put(self, number: int, name: str, perm: Sequence[int] | None = None, **more: Any) -> None:
        """Records the array of a number; perm: None for the number's own order of axes."""
        perm = tuple(range(len(self.shape(number)))) if perm is None else tuple(perm)
        self.values[number] = Value(name, perm, **more)

    def value(self, number: int) -> Value:
        """Returns the array of a number as it lies."""
        if number in self.values:
            return self.values[number]
        if number not in self.found.values:
            raise KeyError(number)
        array = array_of(self.found.values[number])
        array = array.astype(np.float32) if array.dtype.name in _HALF else array
        return Value(self.const(array), tuple(range(array.ndim)))

    def constant(self, number: int) -> np.ndarray | None:
        """Returns the array of a number that is constant; None for others."""
        if number not in self.found.values:
            return None
        array = array_of(self.found.values[number])
        return array.astype(np.float32) if array.dtype.name in _HALF else array

    def get(
        self, number: int, perm: Sequence[int] | None = None, missing: frozenset[int] = frozenset()
    ) -> str:
        """Returns the name of a number's array in an order of axes.

        perm: None for the number's own. missing: axes along which size 1 will do, if it is constant
        there.
        """
        rank = len(self.shape(number))
        perm = tuple(range(rank)) if perm is None else tuple(perm)
        constant = self.constant(number)
        if constant is not None:
            ones = missing & thin_axes(constant)
            return self.const(_thin(constant, ones).transpose(perm))
        value = self.value(number)
        key = (number, perm, missing & value.missing, value.name)
        if key not in self._cached:
            self._cached[key] = self._convert(number, value, perm, missing)
        return self._cached[key]

    def _convert(self, number: int, value: Value, perm: tuple[int, ...], missing: frozenset) -> str:
        shape, name = self.shape(number), value.name
        if value.rows is not None:
            order = self.const(np.argsort(value.rows), np.int64)
            name = self.node("Gather", [name, order], axis=len(perm) - 1)
        thin = [Size(0, 1) if a in value.missing else size for a, size in enumerate(shape)]
        if value.perm != perm:
            broad = [a for a in value.perm if thin[a] != (0, 1)]
            if broad == [a for a in perm if thin[a] != (0, 1)]:
                name = self.reshape(name, [thin[a] for a in perm])
            else:
                name = self.node("Transpose", [name], perm=[value.perm.index(a) for a in perm])
        if value.missing - missing:
            full = [thin[a] if a in missing else shape[a] for a in perm]
            name = self.node("Expand", [name, self.sizes(full, free=False)])
        return name

    def order(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Returns the order of axes of the largest of some numbers of equal rank."""
        computed = [self.value(n) for n in numbers if n not in self.found.values]
        full = [v for v in computed if v.rows is None]
        if not full:
            return tuple(range(len(self.shape(numbers[0]))))
        return min(full, key=lambda v: (len(v.missing), v.perm == tuple(sorted(v.perm)))).perm


def array_of(value: Any) -> np.ndarray:
    """Returns the numbers of a constant; of a QTensor its integers."""
    return np.asarray(getattr(value, "values", value))


def refuse(op: Op, why: str) -> ConfigError:
    """Returns the error of an op that ONNX cannot say."""
    return ConfigError(
        f"ONNX cannot be written: {op.kind} ({op.source or 'no line is known'}) {why}. Compute it "
        f"outside the network, or write it with other ops"
    )


def thin_axes(array: np.ndarray) -> frozenset[int]:
    """Returns the axes of size above 1 along which an array is constant."""
    return frozenset(a for a in range(array.ndim) if array.shape[a] > 1 and _is_constant(array, a))


def _is_constant(array: np.ndarray, axis: int) -> bool:
    first = np.take(array, [0], axis)
    return bool((array == first).all()) and jnp.issubdtype(array.dtype, jnp.number)


def _thin(array: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    for axis in axes:
        array = np.take(array, [0], axis)
    return array
