"""Short texts of large values, so that a notebook's page is not flooded by arrays.

In: any value. Out: one line: the type and shape of an array, the count of a long sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

SHOWN = 6  # items of a sequence, at most
LENGTH = 60  # characters of a text, at most


def value(x: Any) -> str:
    """Describes a value in one short line.

    Args:
      x: anything. Arrays are described by dtype and shape, long sequences and mappings by their
        first items and their count, records by their own `repr`.

    Example:
      >>> import numpy as np
      >>> value(np.zeros((2, 3))), value({"w": np.zeros(3, np.float32), "b": 0.5})
      ('float64[2, 3]', "{'w': float32[3], 'b': 0.5}")
      >>> value(list(range(100)))
      '[0, 1, 2, ... 100 items]'
    """
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        shape, name = tuple(x.shape), str(x.dtype)
        plain = type(x).__name__ in ("ndarray", "ArrayImpl", "DynamicJaxprTracer") or shape == ()
        if shape == () and type(x).__module__ == "numpy":
            return f"{x:.6g}" if x.dtype.kind == "f" else str(x)
        return f"{name}[{', '.join(map(str, shape))}]" + ("" if plain else f" ({type(x).__name__})")
    if isinstance(x, float):
        return f"{x:.6g}"
    if isinstance(x, Mapping):
        pairs = [f"{k!r}: {value(v)}" for k, v in list(x.items())[:SHOWN]]
        return _within("{", pairs, len(x), "}")
    if type(x) in (tuple, list):
        items = [value(v) for v in x[:SHOWN]]
        ends = "[]" if type(x) is list else ("(", ",)" if len(x) == 1 else ")")
        return _within(ends[0], items, len(x), ends[1])
    if callable(x) and hasattr(x, "__name__"):
        return x.__name__
    # the repr that every NamedTuple gets, e.g. an optimiser's state, prints whole arrays
    generated = getattr(type(x).__repr__, "__module__", "") == "collections"
    text = record(x) if generated and hasattr(x, "_fields") else " ".join(repr(x).split())
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 3]}..."


def record(self: Any) -> str:
    """Describes a record, a NamedTuple or a dataclass, by its fields; for its `__repr__`.

    Args:
      self: the record.

    Example:
      >>> import numpy as np
      >>> from typing import NamedTuple
      >>> class Pair(NamedTuple):
      ...     images: np.ndarray
      ...     name: str
      ...     __repr__ = record
      >>> Pair(np.zeros((2, 3)), "mine")
      Pair(images=float64[2, 3], name='mine')
    """
    if dataclasses.is_dataclass(self):
        names = [field.name for field in dataclasses.fields(self)]
    else:
        names = list(self._fields)
    fields = ", ".join(f"{name}={value(getattr(self, name))}" for name in names)
    return f"{type(self).__name__}({fields})"


def _within(left: str, items: list[str], count: int, right: str) -> str:
    """Joins items, as many as are short, with the count of all if some are left out."""
    while len(", ".join(items)) > LENGTH and items:
        items = items[:-1]
    if len(items) == count:
        return left + ", ".join(items) + right
    items = items[: SHOWN // 2]
    return f"{left}{', '.join([*items, ''])}... {count:,} items{right.lstrip(',')}"
