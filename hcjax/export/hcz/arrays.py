"""Arrays as bytes, in the shortest of four forms.

- raw: little-endian, as in memory;
- packed: integers of 2 to 8 bits, side by side;
- coded: integers, entropy-coded: a zero flag with the elements before and above as its context,
  then sign and magnitude;
- sparse: floats: zero flags coded in the same way, then the raw nonzero elements.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz.coder import Budget, Decoder, Encoder

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "bfloat16", "float32", "float64",
)  # fmt: skip
_MOST_WORK = 2**25  # coded bits of one array, about 8 a nonzero and 1 a zero: a minute


class Encoded(NamedTuple):
    """An array as bytes: its form, the bytes, and the decoded bits, for a `Budget`."""

    form: str
    data: bytes
    cost: int = 0


def encode(array: np.ndarray, bits: int = 8) -> Encoded:
    """Encodes an array in its shortest form.

    Args:
      array: of a dtype in `DTYPES`.
      bits: of its integers, 2 to 8.

    Raises:
      TypeError: if the dtype is not in `DTYPES`.
    """
    array = np.asarray(array)
    if array.dtype.name not in DTYPES:
        raise TypeError(f"a file holds no {array.dtype.name}; it can hold {', '.join(DTYPES)}")
    forms = [Encoded("raw", array.astype(array.dtype.newbyteorder("<")).tobytes())]
    if bits < 8:
        forms.append(Encoded("packed", _packed(array, bits)))
    if 0 < array.size + 7 * np.count_nonzero(array) <= _MOST_WORK:
        shortest = min(len(each.data) for each in forms)
        if array.dtype.kind == "i" and _entropy(array) < 8 * shortest:
            forms.append(_coded(array))
        elif array.dtype.kind in "fV" and 2 * np.count_nonzero(array) < array.size:
            forms.append(_sparse(array))
    return min(forms, key=lambda each: len(each.data))


def decode(
    form: str, data: bytes, dtype: str, shape: tuple[int, ...], bits: int, budget: Budget
) -> np.ndarray:
    """Decodes an array from the bytes of `encode`.

    Args:
      form: the form of the bytes.
      data: the bytes.
      dtype, shape: of the array.
      bits: of packed integers.
      budget: of the file; coded and sparse arrays subtract from it.

    Raises:
      ArtifactError: if the bytes do not encode such an array, or the budget is too small.
    """
    kind, size = dtype_of(dtype), math.prod(shape)
    expected = {"raw": size * kind.itemsize, "packed": -(-size * bits // 8)}.get(form)
    if expected is not None and len(data) != expected:
        raise ArtifactError(
            f"an array of {size:,} {dtype} takes {expected:,} bytes, not {len(data):,}"
        )
    if expected is None and size > budget.left:  # before allocating memory
        raise ArtifactError(f"the file is too short for {size:,} numbers")
    match form:
        case "raw":
            flat = np.frombuffer(data, kind.newbyteorder("<")).astype(kind)
        case "packed":
            flat = _unpacked(data, size, bits)
        case "coded":
            flat = _decoded(Decoder(data, budget), size, _Neighbours(shape), kind)
        case "sparse":
            flat = _filled(data, size, _Neighbours(shape), kind, budget)
        case _:
            raise ArtifactError(f"unknown form {form!r} of an array")
    return flat.reshape(shape)


def dtype_of(name: str) -> np.dtype:
    """Returns the dtype of a name in a file.

    Raises:
      ArtifactError: if the name is not in `DTYPES`, or jax would reduce its 64 bits to 32.
    """
    if name not in DTYPES:
        raise ArtifactError(f"the file holds {name!r}, which is no dtype of this format")
    dtype = jnp.dtype(name)
    if dtype.itemsize == 8 and not jax.config.jax_enable_x64:
        cure = "jax.config.update('jax_enable_x64', True)"
        raise ArtifactError(f"the file holds {name}, which jax has only after {cure}")
    return dtype


def _entropy(array: np.ndarray) -> float:
    """Returns the bits of an array in an ideal code for the frequencies of its elements."""
    _, counts = np.unique(array, return_counts=True)
    return float(-(counts * np.log2(counts / array.size)).sum())


def _packed(array: np.ndarray, bits: int) -> bytes:
    unsigned = (array.reshape(-1).astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return np.packbits(np.unpackbits(unsigned[:, None], axis=1)[:, 8 - bits :]).tobytes()


def _unpacked(data: bytes, size: int, bits: int) -> np.ndarray:
    digits = np.unpackbits(np.frombuffer(data, np.uint8), count=size * bits).reshape(size, bits)
    unsigned = digits.astype(np.int16) @ (1 << np.arange(bits)[::-1]).astype(np.int16)
    return (unsigned - (1 << (bits - 1))).astype(np.int8)


def _coded(array: np.ndarray) -> Encoded:
    encoder, neighbours = Encoder(), _Neighbours(array.shape)
    for value in array.reshape(-1).tolist():
        context = neighbours.context()
        encoder.bit(context, int(value != 0))
        if value:
            encoder.bit("sign", int(value < 0))
            _write_magnitude(encoder, abs(value) - 1, context[1])
        neighbours.add(value)
    return Encoded("coded", encoder.finish(), encoder.count)


def _decoded(decoder: Decoder, size: int, neighbours: _Neighbours, dtype: np.dtype) -> np.ndarray:
    info = np.iinfo(dtype) if dtype.kind == "i" else None
    if info is None:
        raise ArtifactError(f"coded numbers are whole, not {dtype.name}")
    flat = np.zeros(size, dtype)
    for i in range(size):
        context, value = neighbours.context(), 0
        if decoder.bit(context):
            negative = decoder.bit("sign")
            value = 1 + _read_magnitude(decoder, context[1])
            value = -value if negative else value
            if not info.min <= value <= info.max:
                raise ArtifactError(f"the number {value} is no {dtype.name}: the file is damaged")
            flat[i] = value
        neighbours.add(value)
    return flat


def _sparse(array: np.ndarray) -> Encoded:
    encoder, neighbours = Encoder(), _Neighbours(array.shape)
    # compare bits, not values: -0.0 differs from 0.0
    bits = array.reshape(-1).view(f"u{array.dtype.itemsize}")
    for value in (bits != 0).tolist():
        encoder.bit(neighbours.context(), int(value))
        neighbours.add(value)
    mask = encoder.finish()
    nonzero = bits[bits != 0].astype(bits.dtype.newbyteorder("<")).tobytes()
    return Encoded("sparse", len(mask).to_bytes(4, "little") + mask + nonzero, encoder.count)


def _filled(
    data: bytes, size: int, neighbours: _Neighbours, dtype: np.dtype, budget: Budget
) -> np.ndarray:
    if len(data) < 4 or dtype.kind not in "fV":
        raise ArtifactError("a sparse array is damaged")
    length = int.from_bytes(data[:4], "little")
    mask, nonzero = data[4 : 4 + length], data[4 + length :]
    decoder = Decoder(mask, budget)
    flat, filled = np.zeros(size, f"u{dtype.itemsize}"), np.zeros(size, bool)
    for i in range(size):
        filled[i] = bit = decoder.bit(neighbours.context())
        neighbours.add(bit)
    count = np.count_nonzero(filled)
    if len(nonzero) != count * dtype.itemsize:
        raise ArtifactError(f"{count:,} numbers that are not 0 do not take {len(nonzero):,} bytes")
    flat[filled] = np.frombuffer(nonzero, flat.dtype.newbyteorder("<"))
    return flat.view(dtype)


class _Neighbours:
    """Magnitudes, up to 2, of the elements before and above the next one."""

    def __init__(self, shape: tuple[int, ...]):
        self._row = shape[-1] if shape else 1
        # an empty array may claim long rows
        self._above = bytearray(min(self._row, math.prod(shape)))
        self._at = self._before = 0

    def context(self) -> tuple[int, int]:
        """Returns the context of the next element."""
        return (0, self._before * 3 + self._above[self._at])

    def add(self, value: int) -> None:
        """Appends an element."""
        self._before = min(abs(value), 2)
        self._above[self._at] = self._before
        self._at = self._at + 1 if self._at + 1 < self._row else 0


def _write_magnitude(encoder: Encoder, value: int, context: int) -> None:
    """Writes an integer >= 0 as the length of value + 1, in unary, and its lower bits."""
    length = (value + 1).bit_length()
    for i in range(1, length):
        encoder.bit(("more", context if i < 3 else -1, i), 1)
    encoder.bit(("more", context if length < 3 else -1, length), 0)
    low = length - 1
    if low:  # the highest lower bit is not uniform; the others nearly are
        encoder.bit(("high", length), value + 1 >> low - 1 & 1)
        encoder.raw(value + 1, low - 1)


def _read_magnitude(decoder: Decoder, context: int) -> int:
    length = 1
    while decoder.bit(("more", context if length < 3 else -1, length)):
        length += 1
        if length > 64:
            raise ArtifactError("a number of more than 64 bits: the file is damaged")
    if length == 1:
        return 0
    value = 2 | decoder.bit(("high", length))
    return (value << (length - 2) | decoder.raw(length - 2)) - 1
