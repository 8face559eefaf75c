"""The Pareto picture of compressed models: test error over file size.

In come names, bytes and errors; out goes a PNG, written atomically.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hcjax.core import formats
from hcjax.report import canvas

_BEST, _OTHER = "#e45756", "#4c78a8"
Point = tuple[str, float, float]  # name, bytes, error as a fraction


def pareto(path: str | os.PathLike, points: Sequence[Point], *, title: str = "") -> Path:
    """Draws error over bytes with the Pareto front to a PNG and returns its path.

    The axis of the bytes is logarithmic; so is that of the errors where they differ more than
    tenfold and none is 0. The line joins the models of the front.

    Args:
      path: the PNG to write.
      points: (name, bytes > 0, error as a fraction) of each model.
      title: above the picture.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written.
      ValueError: if there are no points.

    Example:
      >>> import tempfile
      >>> points = [("float", 1_724_320, 0.0045), ("int8", 310_000, 0.0046)]
      >>> pareto(tempfile.mkdtemp() + "/pareto.png", points).name
      'pareto.png'
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    if not points:
        raise ValueError("no models to draw")
    figure = canvas.figure(8.0, 5.0, title or "error against the size of the file")
    ax = figure.subplots()
    front = frontier(points)
    line = [points[i] for i in front]
    ax.plot([p[1] for p in line], [100 * p[2] for p in line], "-", color=_BEST, lw=1.2, zorder=1)
    for i, (name, size_bytes, error) in enumerate(points):
        on_front = i in front
        colour = _BEST if on_front else _OTHER
        ax.plot([size_bytes], [100 * error], "o", color=colour, ms=5, zorder=2)
        # the line runs along the lower left: its names stand below it, the others' above
        ax.annotate(
            canvas.escape(f"{name}\n{size_bytes:,} bytes, {formats.percent(error)}"),
            (size_bytes, 100 * error),
            xytext=(-5, -5) if on_front else (5, 5),
            textcoords="offset points",
            ha="right" if on_front else "left",
            va="top" if on_front else "bottom",
            fontsize=8,
            color=canvas.INK,
        )
    sizes, errors = [p[1] for p in points], [100 * p[2] for p in points]
    ax.set(xscale="log", xlim=(min(sizes) / 4, max(sizes) * 4))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    if min(errors) > 0 and max(errors) > 10 * min(errors):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(y=0.25)
    ax.set(xlabel="bytes of the file", ylabel="error (%)")
    ax.grid(True, color=canvas.FAINT, lw=0.5, alpha=0.7)
    return canvas.save(figure, path)


def frontier(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the points on the Pareto front, in the order of their bytes.

    A point dominates another if neither its bytes nor its error is greater, and one of them is
    less. Of equal points the first is on the front.

    Args:
      points: (name, bytes, error).

    Example:
      >>> frontier([("a", 100, 0.02), ("b", 10, 0.03), ("c", 50, 0.04), ("d", 200, 0.02)])
      [1, 0]
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i][1:]):
        if not front or points[i][2] < points[front[-1]][2]:
            front.append(i)
    return front
