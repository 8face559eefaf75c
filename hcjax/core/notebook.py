"""Tables as data: what a notebook's cell shows, a CSV file, and LaTeX of any record with a grid.

A record takes them over by three lines of its class, `_repr_html_ = notebook.to_html` and so on,
and a property `grid`.
"""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcjax.core import files, text

_RIGHT = ' style="text-align: right"'
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", **{c: f"\\{c}" for c in "&%$#_{}"},
})  # fmt: skip


class Grid(NamedTuple):
    """Rows of cells under a head; numbers as they are, not rounded.

    head: names of the columns, each with the unit of its numbers. rows: each as long as the head;
    None for an empty cell. caption: plain text above.
    """

    head: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


def to_html(self: Any) -> str:
    """Writes a record's grid as an HTML table, numbers flush right; all its text is escaped.

    Args:
      self: a record with a `grid`.

    Example:
      >>> class Record(NamedTuple):
      ...     grid: Grid
      >>> to_html(Record(Grid(("a<b", "n"), [("x & y", 1200)])))  # doctest: +ELLIPSIS
      '<table><tr><th>a&lt;b</th>...<td>x &amp; y</td><td style="text-align: right">1,200</td>...'
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in self.grid.head)
    lines = [f"<tr>{head}</tr>"]
    for row in self.grid.rows:
        cells = [(_RIGHT if text.is_number(x) else "", html.escape(_cell(x))) for x in row]
        lines.append(f"<tr>{''.join(f'<td{style}>{cell}</td>' for style, cell in cells)}</tr>")
    caption = self.grid.caption and f"<p>{html.escape(self.grid.caption)}</p>"
    return f"{caption}<table>{''.join(lines)}</table>"


def to_csv(self: Any, path: str | os.PathLike) -> Path:
    """Writes a record's grid to a CSV file (UTF-8, commas), atomically, and returns its path.

    Args:
      self: a record with a `grid`.
      path: the file; a missing folder is created. Numbers are written with all their digits.

    Raises:
      CheckpointError: if the file cannot be written.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(self.grid.head)
    for row in self.grid.rows:
        writer.writerow(x.item() if isinstance(x, np.generic) else x for x in row)
    return files.write_bytes(path, lines.getvalue().encode())


def to_latex(self: Any) -> str:
    r"""Writes a record's grid as a LaTeX tabular, which needs no package; its text is escaped.

    Args:
      self: a record with a `grid`.

    Example:
      >>> class Record(NamedTuple):
      ...     grid: Grid
      >>> print(to_latex(Record(Grid(("layer", "MACs"), [("conv_1", 1200)]))))
      \begin{tabular}{lr}
      layer & MACs \\
      \hline
      conv\_1 & 1,200 \\
      \end{tabular}
    """
    columns = zip(*self.grid.rows, strict=True) if self.grid.rows else [()] * len(self.grid.head)
    kinds = "".join("r" if any(map(text.is_number, column)) else "l" for column in columns)
    lines = [
        [" ".join(_cell(x).split()).translate(_LATEX) for x in row]
        for row in (self.grid.head, *self.grid.rows)
    ]
    head, *rows = (f"{' & '.join(line)} \\\\" for line in lines)
    return "\n".join([f"\\begin{{tabular}}{{{kinds}}}", head, r"\hline", *rows, r"\end{tabular}"])


def _cell(x: Any) -> str:
    """Formats a cell for people: a whole number with commas, another with four digits."""
    if x is None:
        return ""
    if not text.is_number(x):
        return str(x)
    return f"{x:,}" if isinstance(x, int | np.integer) else f"{x:.4g}"
