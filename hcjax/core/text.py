"""Text in columns: tables, and blocks side by side, in a terminal's fixed pitch.

`formats` says how one number is written, this file how cells are laid out.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np

from hcjax.core import formats

MAX_CELL = 32


def aligned(lines: Sequence[Sequence[str | int]], right: Sequence[bool] | None = None) -> str:
    """Lays out rows of cells in columns, two blanks apart.

    Args:
      lines: one sequence of cells per line, all of one length. A whole number is written with
        commas between its thousands.
      right: of each column, whether it is flush right; None for every column but the first.

    Returns:
      Lines joined by newlines, without one at the end.

    Example:
      >>> print(aligned([("layer", "MACs"), ("fc", 1200)]))
      layer   MACs
      fc     1,200
    """
    cells = [[x if isinstance(x, str) else f"{x:,}" for x in line] for line in lines]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    right = [i > 0 for i in range(len(widths))] if right is None else right
    return "\n".join("  ".join(map(_pad, line, widths, right)).rstrip() for line in cells)


def table(rows: Sequence[Sequence[object]], columns: Sequence[str], *, title: str = "") -> str:
    """Lays out a table with a head and a rule; a column's name decides how its numbers look.

    Args:
      rows: one sequence of cells per row, as long as `columns`. None is written as `-`.
      columns: names, e.g. `"test_accuracy"`, each with the unit that `formats.value` gives it.
      title: a line above.

    Returns:
      Lines joined by newlines, without one at the end. Columns of numbers are flush right.

    Raises:
      ValueError: if a row is not as long as `columns`.

    Example:
      >>> print(table([["lenet5", 0.9942], ["nin", 0.9]], ["model", "accuracy"]))
      model   accuracy
      ------  --------
      lenet5   99.42 %
      nin      90.00 %
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells, the table {len(columns)} columns")
    cells = [[cut(formats.value(c, x)) for c, x in zip(columns, row, strict=True)] for row in rows]
    heads = [cut(formats.label(c)) for c in columns]
    right = [
        all(
            row[i] is None or is_number(row[i]) or cell[i][:1].isdecimal()
            for row, cell in zip(rows, cells, strict=True)
        )
        for i in range(len(columns))
    ]
    rule = ["-" * max(map(_width, column)) for column in zip(heads, *cells, strict=True)]
    text = aligned([heads, rule, *cells], right)
    return f"{title}\n{text}" if title else text


def beside(left: str, right: str, *, gap: int = 4) -> str:
    """Puts two blocks of text side by side.

    Args:
      left: lines joined by newlines.
      right: the same; the blocks need not have the same height.
      gap: blanks between them.

    Returns:
      Lines joined by newlines.

    Example:
      >>> print(beside("a\\nbc", "d", gap=1))
      a  d
      bc
    """
    blocks = left.split("\n"), right.split("\n")
    width = max(map(_width, blocks[0])) + gap
    pairs = itertools.zip_longest(*blocks, fillvalue="")
    return "\n".join((_pad(a, width) + b).rstrip() for a, b in pairs)


def cut(text: str, size: int = MAX_CELL) -> str:
    """Puts a text on one line and shortens it if it is long.

    Args:
      text: any text, e.g. the name of a class.
      size: the most characters.

    Returns:
      At most `size` characters.

    Example:
      >>> cut("great white shark", 10)
      'great w...'
    """
    text = " ".join(text.split())
    return text if len(text) <= size else text[: size - 3] + "..."


def is_number(x: object) -> bool:
    """Tells whether `x` is a Python or NumPy number; a bool is not.

    Args:
      x: anything.

    Returns:
      True or False.

    Example:
      >>> is_number(np.float32(1)), is_number(True), is_number("1")
      (True, False, False)
    """
    return isinstance(x, int | float | np.number) and not isinstance(x, bool)


def _width(text: str) -> int:
    """Returns the width of a text in a terminal; Chinese and Japanese letters take two columns."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _pad(text: str, width: int, right: bool = False) -> str:
    blanks = " " * (width - _width(text))
    return blanks + text if right else text + blanks
