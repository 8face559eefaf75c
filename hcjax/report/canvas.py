"""Figures for all pictures: size, colours, safe text, as a PNG, and its atomic writing.

Matplotlib is imported by the function that draws, and only its `Figure` class is used. So pyplot,
a display and the settings of a calling notebook stay untouched; the notebook shows a figure that is
a cell's value as the PNG that `save` would write.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

from hcjax.core import files, text

INK, FAINT = "#222222", "#cccccc"
_DPI = 130


def figure(width: float, height: float, title: str):
    """Creates an empty figure without a display.

    Args:
      width: in inches.
      height: in inches.
      title: of the figure; a dollar sign is printed as it is.

    Returns:
      A `matplotlib.figure.Figure`, which a notebook shows.

    Example:
      >>> figure(4, 3, "price in $").axes
      []
    """
    figure = _picture()(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    figure.suptitle(escape(title), fontsize=12, color=INK)
    return figure


def save(figure, path: str | os.PathLike) -> Path:
    """Writes a figure to a PNG atomically and returns its path.

    Args:
      figure: a `matplotlib.figure.Figure`.
      path: the file; a missing folder is created.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> save(figure(1, 1, ""), tempfile.mkdtemp() + "/blank.png").read_bytes()[1:4]
      b'PNG'
    """
    return files.write_bytes(path, png(figure))


def png(figure) -> bytes:
    """Renders a figure as the bytes of a PNG, the same at every call.

    Args:
      figure: a `matplotlib.figure.Figure`.

    Example:
      >>> blank = figure(1, 1, "")
      >>> png(blank) == png(blank)
      True
    """
    laid_out(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def laid_out(figure):
    """Fixes where the parts of a figure stand, and returns its renderer, which measures text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if figure.get_layout_engine() is not None:
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or every rendering would move the parts a little
    return figure.canvas.get_renderer()


@functools.cache
def _picture() -> type:
    """Returns the class of figures that notebooks show; matplotlib is imported here."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return png(self)

    return Picture


def label(class_names: Sequence[str], k: int) -> str:
    """Shortens the name of class `k`; returns its number if the font lacks a letter of the name.

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
    """Escapes dollar signs, which would start a formula in matplotlib.

    Args:
      words: any text.

    Returns:
      The escaped text.

    Example:
      >>> escape("$5 bills")
      '\\\\$5 bills'
    """
    return words.replace("$", r"\$")
