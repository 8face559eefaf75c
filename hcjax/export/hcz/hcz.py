"""`pack` and `unpack`: a Model, with its graph, as bytes and back, bit for bit.

    b"hcz" 1 | first 8 bytes of the sha256 of the rest | length of the head, 4 bytes, little-endian
    | head | one stream for each array

The head is deflated JSON: the ops in the order in which they run; the trees of inputs and outputs;
form, dtype and shape of each array; the other fields of the Model. Shapes of ops are not stored,
since they can be inferred.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz import arrays, graphs, interfaces
from hcjax.export.hcz.coder import Budget
from hcjax.graph.model import Model
from hcjax.graph.qtensor import QTensor, check

MAGIC = b"hcz\x01"
_SUM = 8  # bytes of the checksum
_LONGEST_HEAD = 4 * 2**20


def pack(model: Model, *, about: Any = None) -> bytes:
    """Returns a Model as the bytes of a `.hcz` file, with everything that `unpack` needs.

    The file holds the graph as it is, and the parameters under the same paths: ops that no image
    reaches are not evaluated, but for those that no file can hold (`fold` evaluates them all, which
    may make the file smaller). Integers and zeros are entropy-coded, which takes less than a second
    for a million integers. Arrays whose code has 2**28 bits or more are not, e.g. 33 million
    nonzero elements. An incompressible model takes at most 1.02 times the bytes of `model.params`
    (`nbytes`: integers at their bits; scales, multipliers, shifts and biases at 4 bytes), and 4 kB
    for the graph of a network such as ResNet-20.

    Args:
      model: from `trace`, `fold` or `int8`; a model from `fake_quantize` needs `int8` first.
      about: metadata that JSON can hold, e.g. {"class_names": [...], "mean": [...], "std": [...]};
        arrays become lists. None for the model's own.

    Returns:
      bytes; the same for the same model.

    Raises:
      TypeError: if no file can hold an op, with its source line, or there are too many ops; or if
        `about` holds what is neither JSON nor an array.
      ArtifactError: if ops, names and `about` take more than 4 MiB as JSON, or an array has more
        than 16 axes or 2**31 numbers; or if a number in `about` is not finite.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
      >>> blob = pack(model, about={"class_names": ["no", "yes"]})
      >>> same = unpack(blob)
      >>> same.apply(same.params, jnp.ones((1, 2))).tolist(), same.about["class_names"]
      ([[1.0, 1.0]], ['no', 'yes'])
    """
    graph = graphs.serialize(model, interfaces.order(model.inputs))
    streams: list[arrays.Encoded] = []
    head = {
        **interfaces.encode_inputs(model.inputs),
        "ops": graph.ops,
        **interfaces.encode_outputs(model.outputs, graph.outputs),
        "params": [[path, n, *_serialize(v, streams)] for path, n, v in graph.params],
        "constants": [[n, *_serialize(v, streams)] for n, v in graph.constants],
        "floats": list(model.floats),
        "about": _plain(model.about if about is None else about),
    }
    data = b"".join(each.data for each in streams)
    budget = Budget(len(data))
    budget.left -= sum(each.cost for each in streams)
    if budget.left < 0:  # millions of zeros, and little else
        head["padding"] = budget.lacking()
        data += bytes(head["padding"])
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(text) > _LONGEST_HEAD:
        raise ArtifactError(f"the head is longer than {_LONGEST_HEAD:,} bytes: shorten `about`")
    packed = zlib.compress(text, 9)
    body = len(packed).to_bytes(4, "little") + packed + data
    return MAGIC + hashlib.sha256(body).digest()[:_SUM] + body


def unpack(data: bytes) -> Model:
    """Returns the packed Model, with the same logits bit for bit.

    Trees of inputs and outputs are dicts, lists and tuples; other containers come back as dicts of
    their fields. It has the same ops on the same numbers, so XLA compiles the same program of it:
    on one machine and one version of jax, `jax.jit(apply)` gives the bits that it gave before
    packing. The exception are ops of parameters alone that no file can hold: `pack` evaluates them,
    and XLA may round otherwise inside a program. Models from `int8` with no `floats` give the same
    bits on every machine.

    The bytes are not trusted. They are never executed or unpickled, and sizes are bounded before
    time or memory is spent. A file of B bytes decodes to at most 2**20 + 256 · B bits, and as many
    numbers. Each takes up to 20 bytes, and a tenth of a microsecond, or two where jax has no CPU to
    compile for: about 20 MiB in all, plus 5 kB for each byte of the file. The head is at most 4 MiB
    of JSON, up to 100 MiB as objects. It has at most 10,000 ops, each checked in two or three
    milliseconds and 30 kB, with at most 50,000 operands in all and 64 axes of each result.

    Args:
      data: from `pack`, or the content of a `.hcz` file; for its path use `load_any`, which
        gives (Model, about).

    Returns:
      Model, with `about` as its field.

    Raises:
      ArtifactError: a ValueError, if the bytes are not a `.hcz` file or are damaged; the message
        says where. Also if the file holds 64-bit arrays and `jax_enable_x64` is off.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ArtifactError(
            f"expected the content of a .hcz file as bytes, got {data!r:.60}: give "
            "Path(...).read_bytes(), or call hcjax.load_any(path), which gives (model, about)"
        )
    if data[: len(MAGIC)] != MAGIC:
        raise ArtifactError(f"not a .hcz file: it begins with {bytes(data[:4])!r}, not {MAGIC!r}")
    body = bytes(data[len(MAGIC) + _SUM :])
    if hashlib.sha256(body).digest()[:_SUM] != bytes(data[len(MAGIC) : len(MAGIC) + _SUM]):
        raise ArtifactError("the checksum is wrong: the file is damaged or cut short")
    length = int.from_bytes(body[:4], "little")
    if length > len(body) - 4:
        raise ArtifactError(f"the head should take {length:,} bytes, there are {len(body) - 4:,}")
    try:
        head = json.loads(_inflated(body[4 : 4 + length]))
        return _model(head, _Streams(body[4 + length :]))
    except ArtifactError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(f"the head is not that of a model: {error}") from error
    except RecursionError as error:
        raise ArtifactError("the head is nested too deep") from error
    except MemoryError as error:
        raise ArtifactError("the model takes more memory than there is") from error


class _Streams:
    """The bytes behind the head, read one array after another."""

    def __init__(self, data: bytes):
        self._data, self._at, self.budget = data, 0, Budget(len(data))

    def take(self, length: int) -> bytes:
        """Returns the next bytes."""
        if not isinstance(length, int) or not 0 <= length <= len(self._data) - self._at:
            left = len(self._data) - self._at
            raise ArtifactError(f"an array of {length!r} bytes, where {left:,} are left")
        self._at += length
        return self._data[self._at - length : self._at]

    def end(self) -> None:
        """Raises ArtifactError if bytes are left."""
        if self._at != len(self._data):
            raise ArtifactError(f"{len(self._data) - self._at:,} bytes too many at the end")


def _inflated(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, _LONGEST_HEAD)
    except zlib.error as error:
        raise ArtifactError(f"the head is damaged: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise ArtifactError(f"the head is cut short, or longer than {_LONGEST_HEAD:,} bytes")
    return text


def _plain(about: Any) -> Any:
    """Returns metadata as JSON gives it back, arrays as lists; raises as `pack` says."""

    def listed(x: Any) -> Any:
        if isinstance(x, np.ndarray | np.generic | jax.Array):
            return np.asarray(x).tolist()
        raise TypeError(
            "about: expected dicts, lists, text, numbers and arrays, which a file can hold, found "
            f"{type(x).__name__} {str(x)[:60]!r}"
        )

    try:
        return json.loads(json.dumps(about, default=listed, allow_nan=False))
    except ValueError as error:
        raise ArtifactError(f"about: expected finite numbers and no circles: {error}") from None


def _serialize(value: Any, streams: list[arrays.Encoded], bits: int = 8) -> list:
    """Appends the bytes of an array to the streams and returns its entry in the head."""
    if isinstance(value, QTensor):
        parts = [value.scale] if value.zero is None else [value.scale, value.zero]
        values = _serialize(value.values, streams, value.bits)
        return ["q", value.bits, value.axis, values, *(_serialize(p, streams) for p in parts)]
    array = np.asarray(jnp.asarray(value))  # jax may reduce float64 to float32
    arrays.check_shape(list(array.shape))
    streams.append(arrays.encode(array, bits))
    return [array.dtype.name, list(array.shape), streams[-1].form, len(streams[-1].data)]


def _deserialize(entry: list, streams: _Streams, bits: int = 8) -> Any:
    """Returns the array of an entry of the head."""
    if entry[0] == "q":
        bits, axis, values, scale, *zero = entry[1:]
        if type(bits) is not int or not 2 <= bits <= 8 or len(zero) > 1:
            raise ArtifactError(f"a tensor of {bits!r} bits; 2 to 8 are legal")
        parts = [_deserialize(values, streams, bits)]
        parts += [_deserialize(p, streams) for p in (scale, *zero)]
        if axis is not None and (type(axis) is not int or not 0 <= axis < parts[0].ndim):
            raise ArtifactError(f"axis {axis!r} of a tensor of rank {parts[0].ndim}")
        q = QTensor(parts[0], parts[1], parts[2] if zero else None, bits, axis)
        try:
            check(q)
        except ValueError as error:
            raise ArtifactError(f"a quantized tensor is damaged: {error}") from error
        return q
    dtype, shape, form, length = entry
    arrays.check_shape(shape)
    data = streams.take(length)
    return jnp.asarray(arrays.decode(form, data, dtype, tuple(shape), bits, streams.budget))


def _model(head: dict, streams: _Streams) -> Model:
    inputs = interfaces.decode_inputs(head)
    outputs, numbers = interfaces.decode_outputs(head)
    params = [
        (path, number, _deserialize(entry, streams)) for path, number, *entry in head["params"]
    ]
    constants = [(number, _deserialize(entry, streams)) for number, *entry in head["constants"]]
    streams.take(head.get("padding", 0))
    streams.end()
    if not all(isinstance(text, str) for text in (*head["floats"], *(p for p, _, _ in params))):
        raise ArtifactError("a name is no text")
    graph, results = graphs.deserialize(
        head["ops"], jax.tree.leaves(inputs), numbers, params, constants
    )
    return Model(
        graph,
        {path: value for path, _, value in params},
        tuple(sorted(graph.params)),
        inputs,
        jax.tree.unflatten(jax.tree.structure(outputs), results),
        floats=tuple(head["floats"]),
        about=head["about"],
    )
