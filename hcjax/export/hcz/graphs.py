"""A graph as JSON and back: the kind, the operands and the params of each op."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz.arrays import dtype_of
from hcjax.graph.constants import evaluate_constants, trained_numbers
from hcjax.graph.interface import Leaf
from hcjax.graph.model import Graph, Model, Op, Size, at_batch, live_ops, unused_name
from hcjax.graph.ops.control import bodies
from hcjax.graph.ops.layers import macs
from hcjax.graph.ops.table import KINDS, defined, kind_of, params_of

_MOST_OPS = 10_000
_DEEPEST = 4  # bodies inside of bodies
_MOST_OPERANDS = 50_000  # of all ops together
_MOST_AXES = 64  # of one op's result: as many as NumPy's arrays have
_MOST_NUMBERS = 2**28  # of one op's result, for two images
_BATCHES = (1, 2, 4099)  # batch sizes at which shapes are checked
_MOST = 2**31  # of an integer among params


class SerializedGraph(NamedTuple):
    """A graph for a file; its numbers count from 0, the inputs in order."""

    ops: list
    outputs: list[int]
    params: list[tuple[str, int, Any]]
    constants: list[tuple[int, Any]]


def serialize(model: Model, order: Sequence[int]) -> SerializedGraph:
    """Returns a model's graph for a file.

    Ops of parameters and constants alone are kept, since XLA rounds a number that it computes
    inside a program otherwise than one that it is given. Those that no file holds are evaluated.

    Args:
      model: any but a fake-quantized one.
      order: places of its inputs in the order in which the file has them.

    Raises:
      TypeError: if no file can hold an op, or there are too many.
    """
    if any(op.kind == "step" for op in model.graph.ops):
        raise TypeError("a fake-quantized model is for training: pack int8(model)")
    ops, values = _without_images(model)
    paths = {number: path for path, number in model.graph.params.items()}
    trained = trained_numbers(model)
    inputs = [model.graph.inputs[place] for place in order]
    numbers = {number: i for i, number in enumerate(inputs)}
    records, params, constants = [], [], []
    taken = set(paths.values())

    def number(i: int, kind: str) -> int:
        if i in numbers:
            return numbers[i]
        numbers[i] = len(numbers)
        if i in paths or i in trained:
            path = paths[i] if i in paths else unused_name(f"{kind}/value", taken)
            taken.add(path)
            params.append((path, numbers[i], values[i]))
        else:
            constants.append((numbers[i], values[i]))
        return numbers[i]

    for op in ops:
        if unknown := _not_stored(op):
            where = unknown.source or "an unknown line"
            raise TypeError(f"{where}: no file holds a {unknown.kind}; write it with other ops")
        if len(op.shape) > _MOST_AXES:
            raise TypeError(f"a {op.kind} gives {len(op.shape)} axes; a file holds {_MOST_AXES}")
        if math.prod(op.sizes(2)) > _MOST_NUMBERS:
            raise TypeError(
                f"a {op.kind} gives {op.sizes(2)} numbers for 2 images; a file holds "
                f"{_MOST_NUMBERS:,} of them"
            )
        fields = {f: _json(v) for f, v in params_of(op.kind, op.params).items()}
        inputs = [number(i, op.kind) for i in op.inputs]
        numbers[op.output] = len(numbers)
        records.append([op.kind, inputs, numbers[op.output], fields])
    every = list(_every(ops))
    if len(every) > _MOST_OPS:
        raise TypeError(f"{len(every):,} ops; a file holds {_MOST_OPS:,}")
    if (count := sum(len(op.inputs) for op in every)) > _MOST_OPERANDS:
        raise TypeError(f"{count:,} operands of ops; a file holds {_MOST_OPERANDS:,}")
    outputs = [number(i, "output") for i in model.graph.outputs]
    return SerializedGraph(records, outputs, params, constants)


def _without_images(model: Model) -> tuple[list[Op], dict[int, Any]]:
    """Returns the ops for a file, and the arrays that they may read.

    Of the ops that depend on no image, those that no file holds are evaluated.
    """
    leaves = model.leaves(model.params)
    arrays = dict(model.graph.constants)
    arrays |= {number: leaves[path] for path, number in model.graph.params.items()}
    ops = list(model.graph.ops)
    if any(map(_not_stored, ops)):
        remaining, values, _ = evaluate_constants(model)
        evaluated = {op.outputs for op in ops} - {op.outputs for op in remaining}
        ops = [op for op in ops if op.outputs not in evaluated or not _not_stored(op)]
        arrays = values
    return live_ops(ops, model.graph.outputs), arrays


def _not_stored(op: Op) -> Op | None:
    """Returns the op, or one in its body, that no file holds; None if there is none."""
    for each in _every([op]):
        if kind_of(each) is None or len(each.outputs) != 1:
            return each
    return None


def _every(ops: Iterable[Op]) -> Iterator[Op]:
    """Yields ops, and those of the bodies of loops and branches."""
    for op in ops:
        yield op
        for graph in bodies(op.params):
            yield from _every(graph.ops)


def deserialize(
    ops: list,
    given: list[Leaf],
    outputs: list[int],
    params: list[tuple[str, int, Any]],
    constants: list[tuple[int, Any]],
) -> tuple[Graph, list[Leaf]]:
    """Returns the graph of a file and its outputs, after checking every op against its operands.

    Raises:
      ArtifactError: if an op is unknown, reads a missing number, or does not fit its operands.
    """
    arrays: dict[int, Any] = {}
    numbers_in = tuple(range(len(given)))
    defined_numbers = set(numbers_in)

    for *_, number, value in [*params, *constants]:
        _add(number, defined_numbers)
        arrays[number] = value
    decoded = _decode_ops(ops, defined_numbers, _Limits())
    results = [
        _abstract_results(decoded, n, {i: x.abstract(n) for i, x in enumerate(given)} | arrays)
        for n in _BATCHES
    ]
    shapes = {i: _sizes(i, results) for i in defined_numbers}
    complete = []
    for op in decoded:
        op = op._replace(shape=shapes[op.output], dtype=results[0][op.output].dtype)
        count = op.params.get("macs", 0)
        if type(count) is not int or count < 0:
            raise ArtifactError(f"{count!r} is no number of products")
        count = count or macs(op, tuple(shapes[i] for i in op.inputs))
        complete.append(op._replace(macs=count))
    leaves = [_output(i, shapes, results) for i in outputs]
    numbers = {path: number for path, number, _ in params}
    if len(numbers) != len(params):
        raise ArtifactError("two parameters have one name")
    graph = Graph(tuple(complete), numbers_in, tuple(outputs), numbers, dict(constants))
    return graph, leaves


class _Limits:
    """How many ops and operands a file may still hold, and how deep its bodies may be nested."""

    def __init__(self):
        self.ops, self.operands, self.depth = _MOST_OPS, _MOST_OPERANDS, _DEEPEST
        self.bodies: dict[str, Graph] = {}  # those that are the same are one, and computed once

    def body(self, inputs: int) -> None:
        """Counts a body and its inputs; raises ArtifactError if there are too many."""
        self._count(1, inputs)

    def take(self, ops: list) -> None:
        """Counts ops; raises ArtifactError if there are too many."""
        self._count(len(ops), sum(len(inputs) for _, inputs, *_ in ops))

    def _count(self, ops: int, operands: int) -> None:
        self.ops -= ops
        self.operands -= operands
        for what, left, most in (
            ("ops", self.ops, _MOST_OPS),
            ("operands of ops", self.operands, _MOST_OPERANDS),
        ):
            if left < 0:
                raise ArtifactError(f"{most - left:,} {what}; {most:,} are legal")


def _add(number: Any, numbers: set[int]) -> None:
    if type(number) is not int or not 0 <= number < 2**31 or number in numbers:
        raise ArtifactError(f"number {number!r} is given twice, or is none")
    numbers.add(number)


def _decode_ops(ops: list, numbers: set[int], limits: _Limits) -> list[Op]:
    """Returns the ops of a graph or a body; adds what they compute to the known numbers."""
    limits.take(ops)
    decoded = []
    for kind, inputs, output, fields in ops:
        if kind not in KINDS or not set(fields) <= {*KINDS[kind].fields, *KINDS[kind].optional}:
            raise ArtifactError(f"unknown op {kind!r}, or one of its params {sorted(fields)}")
        if not all(i in numbers for i in inputs):
            raise ArtifactError(f"a {kind} reads a number that comes later, or never")
        decode = KINDS[kind].decode
        params = {name: _value(value, limits) for name, value in fields.items()}
        for name in decode.keys() & params.keys():
            params[name] = decode[name](params[name])
        _add(output, numbers)
        decoded.append(defined(Op(kind, tuple(inputs), (output,), (), None, "", None, params)))
    return decoded


def _encode_body(graph: Graph) -> dict[str, list]:
    """Converts the graph of a body to JSON; its numbers count from 0, the inputs in order."""
    numbers = {number: i for i, number in enumerate(graph.inputs)}
    records = []
    for op in graph.ops:
        fields = {f: _json(v) for f, v in params_of(op.kind, op.params).items()}
        inputs = [numbers[i] for i in op.inputs]
        numbers[op.output] = len(numbers)
        records.append([op.kind, inputs, numbers[op.output], fields])
    return {"g": [len(graph.inputs), records, [numbers[i] for i in graph.outputs]]}


def _decode_body(content: list, limits: _Limits) -> Graph:
    count, records, outputs = content
    if type(count) is not int or not 0 <= count <= _MOST_OPERANDS or limits.depth <= 0:
        raise ArtifactError(f"a body of {count!r} inputs, or nested deeper than {_DEEPEST}")
    limits.depth -= 1
    limits.body(count)
    numbers = set(range(count))
    ops = _decode_ops(records, numbers, limits)
    limits.depth += 1
    if not all(type(i) is int and i in numbers for i in outputs):
        raise ArtifactError("a body gives a number that nothing in it computes")
    graph = Graph(tuple(ops), tuple(range(count)), tuple(outputs), {}, {})
    return limits.bodies.setdefault(json.dumps(content), graph)


def _output(number: Any, shapes: dict[int, tuple[Size, ...]], results: list[dict]) -> Leaf:
    """Returns what an output is, from its shape."""
    if type(number) is not int or number not in shapes:
        raise ArtifactError(f"an output is number {number!r}, which nothing computes")
    sizes = shapes[number]
    if sizes and (sizes[0] != Size(1, 0) or any(size.q for size in sizes[1:])):
        raise ArtifactError("an output does not have the examples on its first axis")
    if Size(0, 0) in sizes:
        raise ArtifactError("an output has no numbers")
    dtype = results[0][number].dtype
    return Leaf(tuple(size.r for size in sizes[1:]), dtype, bool(sizes))


def _abstract_results(ops: list[Op], batch: int, operands: dict[int, Any]) -> dict[int, Any]:
    """Returns number -> array or ShapeDtypeStruct, of all numbers at a batch size."""
    results = dict(operands)

    def run(env: dict[int, Any]) -> dict[int, Any]:  # one trace takes half the time of one per op
        for op in ops:
            try:
                (env[op.output],) = op.run(batch, *[env[i] for i in op.inputs])
                shape, dtype = env[op.output].shape, env[op.output].dtype
            except Exception as error:  # jax raises many types here
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ArtifactError(f"a {op.kind} does not fit its operands: {why}") from error
            if len(shape) > _MOST_AXES:
                raise ArtifactError(
                    f"a {op.kind} gives {len(shape):,} axes; {_MOST_AXES} are legal"
                )
            if batch <= 2 and math.prod(shape) > _MOST_NUMBERS:
                raise ArtifactError(f"a {op.kind} gives {shape} numbers for {batch} images")
            results[op.output] = jax.ShapeDtypeStruct(shape, dtype)
        return env

    traced = jax.jit(run).trace(operands)
    if batch == 1:  # only lowering rejects a reshape to another size, and axes out of range
        try:
            traced.lower(lowering_platforms=("cpu",))
        except Exception as error:
            why = " ".join(str(error).split("\n")[:2])
            raise ArtifactError(f"the ops do not fit their operands: {why}") from error
    return results


def _sizes(number: int, results: list[dict[int, Any]]) -> tuple[Size, ...]:
    """Returns the shape of a number as a function of the batch, from those at `_BATCHES`."""
    shapes = [by_number[number].shape for by_number in results]
    sizes = tuple(Size(b - a, 2 * a - b) for a, b in zip(*shapes[:2], strict=False))
    if [at_batch(sizes, n) for n in _BATCHES] != shapes:
        raise ArtifactError(f"no shape of any number of images is {shapes}")
    return sizes


def _json(value: Any) -> Any:
    """Converts a param to JSON."""
    if isinstance(value, Size):
        return {"b": [value.q, value.r]}
    if isinstance(value, Graph):
        return _encode_body(value)
    if isinstance(value, tuple | list):
        return [_json(v) for v in value]
    if isinstance(value, enum.Enum):
        return int(value.value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if value is None or isinstance(value, str):
        return value
    return {"t": jnp.dtype(value).name}


def _value(value: Any, limits: _Limits) -> Any:
    """Converts a param from JSON."""
    if isinstance(value, list):
        return tuple(_value(v, limits) for v in value)
    if isinstance(value, dict):
        if list(value) == ["g"]:
            return _decode_body(value["g"], limits)
        if list(value) == ["b"]:
            q, r = (_value(v, limits) for v in value["b"])
            return Size(q, r)
        if list(value) == ["t"]:
            return dtype_of(value["t"])
        raise ArtifactError(f"{value!r} is no param of an op")
    if isinstance(value, float) or (isinstance(value, int) and not -_MOST <= value <= _MOST):
        raise ArtifactError(f"{value!r} is no param of an op")
    return value
