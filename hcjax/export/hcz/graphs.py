"""A graph as JSON and back: the kind, the operands and the params of each op."""

from __future__ import annotations

import enum
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz.arrays import dtype_of
from hcjax.graph.constants import evaluate_constants, trained_numbers
from hcjax.graph.model import Graph, Model, Op, Size, at_batch, live_ops, unused_name
from hcjax.graph.ops.layers import macs
from hcjax.graph.ops.table import KINDS, defined, kind_of, params_of

_MOST_OPS = 10_000
_MOST_OPERANDS = 50_000  # of all ops together
_MOST_AXES = 64  # of one op's result: as many as NumPy's arrays have
_MOST_NUMBERS = 2**28  # of one op's result, for two images
_BATCHES = (1, 2, 4099)  # batch sizes at which shapes are checked
_MOST = 2**31  # of an integer among params


class SerializedGraph(NamedTuple):
    """A graph for a file; its numbers count from 0, the images."""

    ops: list
    logits: int
    params: list[tuple[str, int, Any]]
    constants: list[tuple[int, Any]]


def serialize(model: Model) -> SerializedGraph:
    """Returns a model's graph for a file.

    Ops of parameters and constants alone are kept, since XLA rounds a number that it computes
    inside a program otherwise than one that it is given. Those that no file holds are evaluated.

    Raises:
      TypeError: if no file can hold an op, or there are too many.
    """
    if any(op.kind == "step" for op in model.graph.ops):
        raise TypeError("a fake-quantized model is for training: pack int8(model)")
    ops, values = _without_images(model)
    paths = {number: path for path, number in model.graph.params.items()}
    trained = trained_numbers(model)
    numbers = {model.graph.images: 0}
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
        if not _is_stored(op):
            where = op.source or "an unknown line"
            raise TypeError(f"{where}: no file holds a {op.kind}; write it with other ops")
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
    if len(records) > _MOST_OPS:
        raise TypeError(f"{len(records):,} ops; a file holds {_MOST_OPS:,}")
    if (count := sum(len(inputs) for _, inputs, *_ in records)) > _MOST_OPERANDS:
        raise TypeError(f"{count:,} operands of ops; a file holds {_MOST_OPERANDS:,}")
    return SerializedGraph(records, numbers[model.graph.logits], params, constants)


def _without_images(model: Model) -> tuple[list[Op], dict[int, Any]]:
    """Returns the ops for a file, and the arrays that they may read.

    Of the ops that depend on no image, those that no file holds are evaluated.
    """
    leaves = model.leaves(model.params)
    arrays = dict(model.graph.constants)
    arrays |= {number: leaves[path] for path, number in model.graph.params.items()}
    ops = list(model.graph.ops)
    if not all(map(_is_stored, ops)):
        remaining, values, _ = evaluate_constants(model)
        evaluated = {op.outputs for op in ops} - {op.outputs for op in remaining}
        ops = [op for op in ops if op.outputs not in evaluated or _is_stored(op)]
        arrays = values
    return live_ops(ops, model.graph.logits), arrays


def _is_stored(op: Op) -> bool:
    return kind_of(op) is not None and len(op.outputs) == 1


def deserialize(
    ops: list,
    logits: int,
    params: list[tuple[str, int, Any]],
    constants: list[tuple[int, Any]],
    image_shape: tuple[int, ...],
    image_dtype: np.dtype,
) -> Graph:
    """Returns the graph of a file, after checking every op against the shapes of its operands.

    Raises:
      ArtifactError: if an op is unknown, reads a missing number, or does not fit its operands.
    """
    if len(ops) > _MOST_OPS:
        raise ArtifactError(f"{len(ops):,} ops; {_MOST_OPS:,} are legal")
    if (count := sum(len(inputs) for _, inputs, *_ in ops)) > _MOST_OPERANDS:
        raise ArtifactError(f"{count:,} operands of ops; {_MOST_OPERANDS:,} are legal")
    arrays: dict[int, Any] = {}
    defined_numbers = {0}

    def add(number: Any) -> None:
        if type(number) is not int or not 0 <= number < 2**31 or number in defined_numbers:
            raise ArtifactError(f"number {number!r} is given twice, or is none")
        defined_numbers.add(number)

    for *_, number, value in [*params, *constants]:
        add(number)
        arrays[number] = value
    decoded = []
    for kind, inputs, output, fields in ops:
        if kind not in KINDS or not set(fields) <= {*KINDS[kind].fields, *KINDS[kind].optional}:
            raise ArtifactError(f"unknown op {kind!r}, or one of its params {sorted(fields)}")
        if not all(i in defined_numbers for i in inputs):
            raise ArtifactError(f"a {kind} reads a number that comes later, or never")
        decode = KINDS[kind].decode
        params_of_op = {name: _value(value) for name, value in fields.items()}
        for name in decode.keys() & params_of_op.keys():
            params_of_op[name] = decode[name](params_of_op[name])
        add(output)
        op = Op(kind, tuple(inputs), (output,), (), None, "", None, params_of_op)
        decoded.append(defined(op))
    images = [jax.ShapeDtypeStruct((n, *image_shape), image_dtype) for n in _BATCHES]
    results = [
        _abstract_results(decoded, n, {0: x} | arrays)
        for n, x in zip(_BATCHES, images, strict=True)
    ]
    shapes = {i: _sizes(i, results) for i in defined_numbers}
    complete = []
    for op in decoded:
        op = op._replace(shape=shapes[op.output], dtype=results[0][op.output].dtype)
        complete.append(op._replace(macs=macs(op, tuple(shapes[i] for i in op.inputs))))
    shape = _sizes(logits, results) if logits in defined_numbers else ()
    if len(shape) != 2 or shape[0] != Size(1, 0) or shape[1].q or not shape[1].r:
        raise ArtifactError("the logits are no array of [N, K]")
    numbers = {path: number for path, number, _ in params}
    if len(numbers) != len(params):
        raise ArtifactError("two parameters have one name")
    return Graph(tuple(complete), 0, logits, numbers, dict(constants))


def check_shape(shape: Any) -> None:
    """Raises ArtifactError unless a shape is a list of up to 16 sizes, of up to 2**31 numbers."""
    sizes = isinstance(shape, list) and all(type(n) is int and 0 <= n <= _MOST for n in shape)
    if not sizes or len(shape) > 16 or math.prod(shape) > _MOST:
        raise ArtifactError(
            f"{shape!r} is no shape of an array in a file: 16 axes and {_MOST:,} numbers are legal"
        )


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


def _value(value: Any) -> Any:
    """Converts a param from JSON."""
    if isinstance(value, list):
        return tuple(_value(v) for v in value)
    if isinstance(value, dict):
        if list(value) == ["b"]:
            q, r = (_value(v) for v in value["b"])
            return Size(q, r)
        if list(value) == ["t"]:
            return dtype_of(value["t"])
        raise ArtifactError(f"{value!r} is no param of an op")
    if isinstance(value, float) or (isinstance(value, int) and not -_MOST <= value <= _MOST):
        raise ArtifactError(f"{value!r} is no param of an op")
    return value
