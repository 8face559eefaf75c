"""Arrays as bytes: as they are, packed to their bits, or entropy-coded, whichever is shortest.

- raw: little-endian, as in memory;
- packed: whole numbers of 2 to 8 bits, side by side;
- coded: whole numbers, zero or not by what stands before and above, then sign and magnitude;
- sparse: floats, zero or not coded likewise, then those that are not, raw.
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
_MOST_WORK = 2**25  # bits of one array that are coded, about 8 for a number, 1 for a zero: a minute


class Encoded(NamedTuple):
    """An array as bytes: its form, the bytes, and the bits that a `Budget` must allow."""

    form: str
    data: bytes
    cost: int = 0


def encode(array: np.ndarray, bits: int = 8) -> Encoded:
    """Returns an array as bytes, in its shortest form.

    Args:
      array: of a dtype in `DTYPES`.
      bits: of the whole numbers in it, 2 to 8.

    Raises:
      TypeError: if the dtype is another one.
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
    """Returns the array of `encode`.

    Args:
      form: of the bytes.
      data: the bytes.
      dtype, shape: of the array.
      bits: of packed numbers.
      budget: of the file, which coded and sparse arrays take from.

    Raises:
      ArtifactError: if the bytes are not those of such an array, or the budget does not suffice.
    """
    kind, size = dtype_of(dtype), math.prod(shape)
    expected = {"raw": size * kind.itemsize, "packed": -(-size * bits // 8)}.get(form)
    if expected is not None and len(data) != expected:
        raise ArtifactError(
            f"an array of {size:,} {dtype} takes {expected:,} bytes, not {len(data):,}"
        )
    if expected is None and size > budget.left:  # before memory is taken for them
        raise ArtifactError(f"the file is too short for {size:,} numbers")
    match form:
        case "raw":
            flat = np.frombuffer(data, kind.newbyteorder("<")).astype(kind)
        case "packed":
            flat = _unpacked(data, size, bits)
        case "coded":
            flat = _decoded(Decoder(data, budget), size, _Near(shape), kind)
        case "sparse":
            flat = _filled(data, size, _Near(shape), kind, budget)
        case _:
            raise ArtifactError(f"unknown form {form!r} of an array")
    return flat.reshape(shape)


def dtype_of(name: str) -> np.dtype:
    """Returns the dtype of a name in a file.

    Raises:
      ArtifactError: if it is none of `DTYPES`, or of 64 bits that jax would make 32.
    """
    if name not in DTYPES:
        raise ArtifactError(f"the file holds {name!r}, which is no dtype of this format")
    dtype = jnp.dtype(name)
    if dtype.itemsize == 8 and not jax.config.jax_enable_x64:
        cure = "jax.config.update('jax_enable_x64', True)"
        raise ArtifactError(f"the file holds {name}, which jax has only after {cure}")
    return dtype


def _entropy(array: np.ndarray) -> float:
    """Returns the bits that an array's numbers take, each coded by how often it occurs."""
    _, counts = np.unique(array, return_counts=True)
    return float(-(counts * np.log2(counts / array.size)).sum())


def _packed(array: np.ndarray, bits: int) -> bytes:
    unsigned = (array.reshape(-1).astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return np.packbits(np.unpackbits(unsigned[:, None], axis=1)[:, 8 - bits :]).tobytes()


def _unpacked(data: bytes, size: int, bits: int) -> np.ndarray:
    every = np.unpackbits(np.frombuffer(data, np.uint8), count=size * bits).reshape(size, bits)
    whole = every.astype(np.int16) @ (1 << np.arange(bits)[::-1]).astype(np.int16)
    return (whole - (1 << (bits - 1))).astype(np.int8)


def _coded(array: np.ndarray) -> Encoded:
    encoder, near = Encoder(), _Near(array.shape)
    for value in array.reshape(-1).tolist():
        around = near.context()
        encoder.bit(around, int(value != 0))
        if value:
            encoder.bit("sign", int(value < 0))
            _write_magnitude(encoder, abs(value) - 1, around[1])
        near.add(value)
    return Encoded("coded", encoder.finish(), encoder.count)


def _decoded(decoder: Decoder, size: int, near: _Near, dtype: np.dtype) -> np.ndarray:
    info = np.iinfo(dtype) if dtype.kind == "i" else None
    if info is None:
        raise ArtifactError(f"coded numbers are whole, not {dtype.name}")
    flat = np.zeros(size, dtype)
    for i in range(size):
        around, value = near.context(), 0
        if decoder.bit(around):
            negative = decoder.bit("sign")
            value = 1 + _read_magnitude(decoder, around[1])
            value = -value if negative else value
            if not info.min <= value <= info.max:
                raise ArtifactError(f"the number {value} is no {dtype.name}: the file is damaged")
            flat[i] = value
        near.add(value)
    return flat


def _sparse(array: np.ndarray) -> Encoded:
    encoder, near = Encoder(), _Near(array.shape)
    # by bits, not by value: -0.0 is another number than 0.0
    bits = array.reshape(-1).view(f"u{array.dtype.itemsize}")
    for value in (bits != 0).tolist():
        encoder.bit(near.context(), int(value))
        near.add(value)
    mask = encoder.finish()
    kept = bits[bits != 0].astype(bits.dtype.newbyteorder("<")).tobytes()
    return Encoded("sparse", len(mask).to_bytes(4, "little") + mask + kept, encoder.count)


def _filled(data: bytes, size: int, near: _Near, dtype: np.dtype, budget: Budget) -> np.ndarray:
    if len(data) < 4 or dtype.kind not in "fV":
        raise ArtifactError("a sparse array is damaged")
    length = int.from_bytes(data[:4], "little")
    mask, kept = data[4 : 4 + length], data[4 + length :]
    decoder = Decoder(mask, budget)
    flat, filled = np.zeros(size, f"u{dtype.itemsize}"), np.zeros(size, bool)
    for i in range(size):
        filled[i] = found = decoder.bit(near.context())
        near.add(found)
    count = np.count_nonzero(filled)
    if len(kept) != count * dtype.itemsize:
        raise ArtifactError(f"{count:,} numbers that are not 0 do not take {len(kept):,} bytes")
    flat[filled] = np.frombuffer(kept, flat.dtype.newbyteorder("<"))
    return flat.view(dtype)


class _Near:
    """Magnitudes, up to 2, of the numbers before and above the next one."""

    def __init__(self, shape: tuple[int, ...]):
        self._row = shape[-1] if shape else 1
        # an empty array may have long rows
        self._seen = bytearray(min(self._row, math.prod(shape)))
        self._at = self._before = 0

    def context(self) -> tuple[int, int]:
        """Returns what the next number's contexts are chosen by."""
        return (0, self._before * 3 + self._seen[self._at])

    def add(self, value: int) -> None:
        """Goes on to the next number."""
        self._before = min(abs(value), 2)
        self._seen[self._at] = self._before
        self._at = self._at + 1 if self._at + 1 < self._row else 0


def _write_magnitude(encoder: Encoder, value: int, around: int) -> None:
    """Writes a number >= 0 as the length of value + 1, in unary, and its lower bits."""
    length = (value + 1).bit_length()
    for i in range(1, length):
        encoder.bit(("more", around if i < 3 else -1, i), 1)
    encoder.bit(("more", around if length < 3 else -1, length), 0)
    low = length - 1
    if low:  # the highest of the lower bits is not even, the others nearly
        encoder.bit(("high", length), value + 1 >> low - 1 & 1)
        encoder.raw(value + 1, low - 1)


def _read_magnitude(decoder: Decoder, around: int) -> int:
    length = 1
    while decoder.bit(("more", around if length < 3 else -1, length)):
        length += 1
        if length > 64:
            raise ArtifactError("a number of more than 64 bits: the file is damaged")
    if length == 1:
        return 0
    value = 2 | decoder.bit(("high", length))
    return (value << (length - 2) | decoder.raw(length - 2)) - 1
