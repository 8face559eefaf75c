"""A blank figure, its fonts and colours, and how it reaches the disk: shared by the pictures.

Matplotlib is imported by the function that draws, only through its `Figure` class: nothing
touches pyplot, a display, or the settings of a notebook that calls this.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from hcjax.core import files, text

INK, FAINT = "#222222", "#cccccc"
_DPI = 130


def figure(width: float, height: float, title: str):
    """Returns an empty figure that no display knows of.

    Args:
      width: in inches.
      height: in inches.
      title: above everything; a dollar sign is just that.

    Returns:
      A `matplotlib.figure.Figure`.

    Example:
      >>> figure(4, 3, "price in $").axes
      []
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    figure.suptitle(escape(title), fontsize=12, color=INK)
    return figure


def save(figure, path: str | os.PathLike) -> Path:
    """Returns `path` after replacing it, in one move, by the figure as a PNG.

    Args:
      figure: a `matplotlib.figure.Figure`.
      path: the file; its folder is made if it is missing.

    Returns:
      The path that was written.

    Raises:
      CheckpointError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> save(figure(1, 1, ""), tempfile.mkdtemp() + "/blank.png").read_bytes()[1:4]
      b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return files.write_bytes(path, buffer.getvalue())


def label(class_names: Sequence[str], k: int) -> str:
    """Returns a short name of class `k`, its number if the font cannot write the name.

    Args:
      class_names: names of all classes; empty means 0, 1, 2, ….
      k: the class.

    Returns:
      At most 16 characters that matplotlib draws as they are.

    Example:
      >>> label(["cat", "great white shark"], 1), label([], 7), label(["お"], 0)
      ('great white s...', '7', '0')
    """
    from matplotlib import font_manager

    name = text.cut(class_names[k], 16) if len(class_names) else str(k)
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return escape(name) if all(font.get_char_index(ord(c)) for c in name) else str(k)


def escape(words: str) -> str:
    """Returns text in which a dollar sign does not start a formula.

    Args:
      words: any text.

    Returns:
      The text for matplotlib.

    Example:
      >>> escape("$5 bills")
      '\\\\$5 bills'
    """
    return words.replace("$", r"\$")
