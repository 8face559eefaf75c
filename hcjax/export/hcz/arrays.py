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
from hcjax.export.hcz import numbers
from hcjax.export.hcz.coder import Budget

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "bfloat16", "float32", "float64",
)  # fmt: skip
_LARGEST = 2**31  # size of an axis, and numbers of an array
_MOST_WORK = 2**28  # coded bits of one array, about 8 a nonzero and 1 a zero: 15 seconds


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
    row = shape[-1] if shape else 1
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
            flat = _decoded(data, size, row, kind, budget)
        case "sparse":
            flat = _filled(data, size, row, kind, budget)
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
    row = array.shape[-1] if array.ndim else 1
    return Encoded("coded", *numbers.encode(array.reshape(-1), row))


def _decoded(data: bytes, size: int, row: int, dtype: np.dtype, budget: Budget) -> np.ndarray:
    if dtype.kind != "i":
        raise ArtifactError(f"coded numbers are whole, not {dtype.name}")
    return numbers.decode(data, size, row, dtype, budget)


def _sparse(array: np.ndarray) -> Encoded:
    # compare bits, not values: -0.0 differs from 0.0
    bits = array.reshape(-1).view(f"u{array.dtype.itemsize}")
    mask, count = numbers.encode(bits != 0, array.shape[-1] if array.ndim else 1)
    nonzero = bits[bits != 0].astype(bits.dtype.newbyteorder("<")).tobytes()
    return Encoded("sparse", len(mask).to_bytes(4, "little") + mask + nonzero, count)


def _filled(data: bytes, size: int, row: int, dtype: np.dtype, budget: Budget) -> np.ndarray:
    if len(data) < 4 or dtype.kind not in "fV":
        raise ArtifactError("a sparse array is damaged")
    length = int.from_bytes(data[:4], "little")
    mask, nonzero = data[4 : 4 + length], data[4 + length :]
    flat = np.zeros(size, f"u{dtype.itemsize}")
    filled = numbers.decode(mask, size, row, np.dtype(bool), budget)
    count = np.count_nonzero(filled)
    if len(nonzero) != count * dtype.itemsize:
        raise ArtifactError(f"{count:,} numbers that are not 0 do not take {len(nonzero):,} bytes")
    flat[filled] = np.frombuffer(nonzero, flat.dtype.newbyteorder("<"))
    return flat.view(dtype)


def check_shape(shape: object) -> None:
    """Raises ArtifactError unless a shape is a list of up to 16 sizes, of up to 2**31 numbers."""
    sizes = isinstance(shape, list) and all(type(n) is int and 0 <= n <= _LARGEST for n in shape)
    if not sizes or len(shape) > 16 or math.prod(shape) > _LARGEST:
        raise ArtifactError(
            f"{shape!r} is no shape of an array in a file: 16 axes and {_LARGEST:,} numbers are "
            "legal"
        )
