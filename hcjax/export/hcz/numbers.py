"""Integers in the arithmetic coder's bits: a zero flag, then sign and magnitude.

The context of a flag is the magnitudes, up to 2, of the elements before and above.
"""

from __future__ import annotations

import numpy as np

from hcjax.errors import ArtifactError
from hcjax.export.hcz import compiled
from hcjax.export.hcz.coder import Budget, Decoder, Encoder

_FEW = 2**13  # bits that Python codes sooner than a program is compiled


def encode(values: np.ndarray, row: int) -> tuple[bytes, int]:
    """Encodes numbers.

    Args:
      values: int[n]; bool[n] for their zero flags alone.
      row: elements in a row, for which one is above which.

    Returns:
      (the bytes, the count of bits that a `Budget` is to allow).

    Example:
      >>> data, count = encode(np.array([0, 0, 3, 0]), 2)
      >>> decode(data, 4, 2, np.dtype(np.int32), Budget(len(data))).tolist(), len(data), count
      ([0, 0, 3, 0], 2, 8)
    """
    bits = _bits(values.dtype)
    if values.size + 7 * np.count_nonzero(values) >= _FEW and _compiles(bits):
        return compiled.encode(values, row, bits)
    encoder, neighbours = Encoder(), _Neighbours(row, values.size)
    for value in values.tolist():
        context = neighbours.context()
        encoder.bit(context, int(value != 0))
        if value and values.dtype.kind != "b":
            encoder.bit("sign", int(value < 0))
            _write_magnitude(encoder, abs(value) - 1, context[1])
        neighbours.add(value)
    return encoder.finish(), encoder.count


def decode(data: bytes, size: int, row: int, dtype: np.dtype, budget: Budget) -> np.ndarray:
    """Decodes the numbers of `encode`.

    Args:
      data: the bytes.
      size: count of numbers; the caller has seen that the budget allows so many.
      row: elements in a row.
      dtype: of the numbers; bool for zero flags.
      budget: which is subtracted from.

    Raises:
      ArtifactError: if the bytes encode no such numbers, or the budget is too small.
    """
    flags, bits = dtype.kind == "b", _bits(dtype)
    if size + 8 * len(data) >= _FEW and _compiles(bits):
        return compiled.decode(data, size, row, bits, budget, flags=flags).astype(dtype)
    flat, neighbours = np.zeros(size, dtype), _Neighbours(row, size)
    decoder, info = Decoder(data, budget), None if flags else np.iinfo(dtype)
    for i in range(size):
        context = neighbours.context()
        value = decoder.bit(context)
        if value and info:
            negative = decoder.bit("sign")
            value += _read_magnitude(decoder, context[1])
            value = -value if negative else value
            if not info.min <= value <= info.max:
                raise ArtifactError(f"the number {value} is no {dtype.name}: the file is damaged")
        if value:
            flat[i] = value
        neighbours.add(value)
    return flat


def _bits(dtype: np.dtype) -> int:
    return 8 * dtype.itemsize


def _compiles(bits: int) -> bool:
    return bits <= compiled.LONGEST and compiled.cpu() is not None


class _Neighbours:
    """Magnitudes, up to 2, of the elements before and above the next one."""

    def __init__(self, row: int, size: int):
        self._row = row
        # an empty array may claim long rows
        self._above = bytearray(min(row, size))
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
