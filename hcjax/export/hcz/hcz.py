"""`pack` and `unpack`: a Model as bytes, its graph included, and back, bit for bit.

    b"hcz" 1 | first 8 bytes of the sha256 of the rest | length of the head, 4 bytes, little-endian
    | head | one stream for each array

The head is deflated JSON: the ops, by number, in the order in which they run; the arrays, by form,
dtype and shape; what else there is to know. Shapes of ops are not written: they follow.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz import arrays, graphs
from hcjax.export.hcz.coder import Budget
from hcjax.graph.model import Model
from hcjax.graph.qtensor import QTensor, check

MAGIC = b"hcz\x01"
_SUM = 8  # bytes of the checksum
_LONGEST_HEAD = 4 * 2**20
_MOST_NUMBERS = 2**31  # of one array


def pack(model: Model, *, about: Any = None) -> bytes:
    """Returns a Model as a file's bytes, with everything that `unpack` needs.

    What does not depend on the images is evaluated; whole numbers and zeros are entropy-coded,
    which takes about 10 s for a million numbers and 1 s for a million zeros. Only arrays of 2**25
    bits' work and more, that is 4 million numbers or 31 million of 1 % that are not 0, are stored
    as they are. Where nothing compresses, the bytes are at most 1.02 times those of all numbers in
    `model.params` as stored (`nbytes`: integers at their bits, scales, multipliers, shifts and
    biases at 4 bytes) and 4 kB for the graph of a network such as ResNet-20.

    Args:
      model: from `trace`, `fold`, `int8`; not from `fake_quantize`, whose integers `int8` makes.
      about: what JSON can hold, e.g. {"class_names": [...], "mean": [...], "std": [...]}; None:
        the model's own.

    Returns:
      bytes; the same for the same model.

    Raises:
      TypeError: if the graph holds an op that no file can, with its source line, or too many.
      ArtifactError: if ops, names and `about` take more than 4 MiB as JSON.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
      >>> blob = pack(model, about={"class_names": ["no", "yes"]})
      >>> same = unpack(blob)
      >>> same.apply(same.params, jnp.ones((1, 2))).tolist(), same.about["class_names"]
      ([[1.0, 1.0]], ['no', 'yes'])
    """
    graph = graphs.written(model)
    streams: list[arrays.Encoded] = []
    head = {
        "images": [list(model.image_shape), np.dtype(model.image_dtype).name],
        "ops": graph.ops,
        "logits": graph.logits,
        "params": [[path, n, *_written(v, streams)] for path, n, v in graph.params],
        "constants": [[n, *_written(v, streams)] for n, v in graph.constants],
        "floats": list(model.floats),
        "about": model.about if about is None else about,
    }
    data = b"".join(each.data for each in streams)
    budget = Budget(len(data))
    budget.left -= sum(each.cost for each in streams)
    if budget.left < 0:  # next to nothing but zeros, and millions of them
        head["padding"] = budget.lacking()
        data += bytes(head["padding"])
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(text) > _LONGEST_HEAD:
        raise ArtifactError(f"the head is longer than {_LONGEST_HEAD:,} bytes: shorten `about`")
    packed = zlib.compress(text, 9)
    body = len(packed).to_bytes(4, "little") + packed + data
    return MAGIC + hashlib.sha256(body).digest()[:_SUM] + body


def unpack(data: bytes) -> Model:
    """Returns the Model that was packed; its logits are the same, bit for bit.

    Nothing in the bytes is trusted: they are never executed or unpickled, and what they claim to
    hold is bounded before time or memory is taken for it. A file of B bytes is decoded to at most
    2**20 + 256 · B bits, and to no more numbers: a microsecond or two and up to 20 bytes each, so
    some 2 s and 20 MiB, and 0.5 ms and 5 kB for each byte. The head is at most 4 MiB of JSON, up to
    100 MiB as objects, with at most 10,000 ops: two or three milliseconds and 30 kB to check each;
    and at most 50,000 operands of them together, and 64 axes of each result.

    Args:
      data: of `pack`, or the content of a `.hcz` file; not its path, which `load_any` takes.

    Raises:
      ArtifactError: a ValueError, if the bytes are no such file, or damaged; it says where. Also
        if 64 bits were packed, and `jax_enable_x64` is off.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ArtifactError(
            f"expected the content of a .hcz file as bytes, got {data!r:.60}: give "
            "Path(...).read_bytes(), or call hcjax.load_any(path)"
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
    """The bytes behind the head, one array after another."""

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
        """Raises ArtifactError if there is more."""
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


def _written(value: Any, streams: list[arrays.Encoded], bits: int = 8) -> list:
    """Returns what the head says of an array, and adds its bytes."""
    if isinstance(value, QTensor):
        parts = [value.scale] if value.zero is None else [value.scale, value.zero]
        about = [value.bits, value.axis, _written(value.values, streams, value.bits)]
        return ["q", *about, *(_written(p, streams) for p in parts)]
    array = np.asarray(jnp.asarray(value))  # as jax computes: float64 of NumPy may be float32
    streams.append(arrays.encode(array, bits))
    return [array.dtype.name, list(array.shape), streams[-1].form, len(streams[-1].data)]


def _read(entry: list, streams: _Streams, bits: int = 8) -> Any:
    """Returns the array of an entry of the head."""
    if entry[0] == "q":
        bits, axis, values, scale, *zero = entry[1:]
        if type(bits) is not int or not 2 <= bits <= 8 or len(zero) > 1:
            raise ArtifactError(f"a tensor of {bits!r} bits; 2 to 8 are legal")
        found = [_read(values, streams, bits), *(_read(p, streams) for p in (scale, *zero))]
        if axis is not None and (type(axis) is not int or not 0 <= axis < found[0].ndim):
            raise ArtifactError(f"axis {axis!r} of a tensor of rank {found[0].ndim}")
        q = QTensor(found[0], found[1], found[2] if zero else None, bits, axis)
        try:
            check(q)
        except ValueError as error:
            raise ArtifactError(f"a quantized tensor is damaged: {error}") from error
        return q
    dtype, shape, form, length = entry
    graphs.check_shape(shape, _MOST_NUMBERS)
    data = streams.take(length)
    return jnp.asarray(arrays.decode(form, data, dtype, tuple(shape), bits, streams.budget))


def _model(head: dict, streams: _Streams) -> Model:
    shape, dtype = head["images"]
    graphs.check_shape(shape, _MOST_NUMBERS)
    dtype = arrays.dtype_of(dtype)
    params = [(path, number, _read(entry, streams)) for path, number, *entry in head["params"]]
    constants = [(number, _read(entry, streams)) for number, *entry in head["constants"]]
    streams.take(head.get("padding", 0))
    streams.end()
    if not all(isinstance(text, str) for text in (*head["floats"], *(p for p, _, _ in params))):
        raise ArtifactError("a name is no text")
    graph = graphs.read(head["ops"], head["logits"], params, constants, tuple(shape), dtype)
    return Model(
        graph,
        {path: value for path, _, value in params},
        tuple(sorted(graph.params)),
        tuple(shape),
        dtype,
        floats=tuple(head["floats"]),
        about=head["about"],
    )
