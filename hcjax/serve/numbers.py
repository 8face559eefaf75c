"""The numbers of a tensor in JSON, looked at one by one before they become an array.

NumPy makes an array of anything: of texts one whose every element is as long as the longest, so
that a request of some megabytes takes terabytes; of true and 1.5 the numbers 1 and 1.5.
"""

from __future__ import annotations

import itertools
import math
from array import array
from typing import Any

import numpy as np

from hcjax.serve.limits import RequestError
from hcjax.serve.signature import DATATYPES

_DEEP = 32  # lists in lists
_KINDS = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}


def numbers_of(data: list, shape: list[int], datatype: str, name: str) -> np.ndarray:
    """Returns the array of a JSON list, flat or nested, whose numbers the datatype can hold.

    Args:
      data: of a tensor. shape, datatype: that the client says, checked. name: for messages.

    Raises:
      RequestError: if these are not as many numbers, in that shape or flat.

    Example:
      >>> numbers_of([[1, 2], [3, 4]], [2, 2], "FP32", "x").tolist()
      [[1.0, 2.0], [3.0, 4.0]]
      >>> numbers_of([True, 1.5], [2], "FP32", "x")
      Traceback (most recent call last):
      hcjax.serve.limits.RequestError: `data` of x must be numbers of FP32[2], flat or nested; \
found bool
    """
    dtype = np.dtype(DATATYPES[datatype])
    expected = f"`data` of {name} must be numbers of {datatype}{shape}, flat or nested"
    flat, sizes = _flat(data, expected)
    if sizes not in (shape, [math.prod(shape)]):
        raise RequestError(f"{expected}; found {sizes}")
    if other := set(map(type, flat)) - _KINDS[dtype.kind]:
        names = {str: "text", type(None): "null", dict: "an object", list: "lists in some places"}
        found = other.pop()
        raise RequestError(f"{expected}; found {names.get(found, found.__name__)}")
    if dtype.kind in "ui" and flat:
        legal = np.iinfo(dtype)
        if min(flat) < legal.min or max(flat) > legal.max:
            raise RequestError(f"{expected}, {legal.min}..{legal.max}; found others")
    with np.errstate(over="ignore"):  # what becomes infinite is refused later
        # an array of Python's own is made in a third of the time
        wide = np.frombuffer(array("d", flat)) if dtype.kind == "f" else np.asarray(flat, dtype)
        return wide.astype(dtype).reshape(shape)


def _flat(data: list, expected: str) -> tuple[list[Any], list[int]]:
    """Returns what stands in lists in lists, and their sizes."""
    sizes = [len(data)]
    while data and type(data[0]) is list and len(sizes) < _DEEP:
        if set(map(type, data)) != {list} or len(set(map(len, data))) != 1:
            raise RequestError(f"{expected}; found lists of several lengths")
        sizes.append(len(data[0]))
        data = list(itertools.chain.from_iterable(data))
    return data, sizes
