"""The Pareto picture of compressed models: test error over file size.

In come names, bytes and errors; out goes a figure, which `canvas.save` writes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from hcjax.core import formats, text
from hcjax.report import canvas, placing

_BEST, _OTHER = "#e45756", "#4c78a8"
_MANY = 12  # models, beyond which a name stands alone, without its numbers
Point = tuple[str, float, float]  # name, bytes, error as a fraction


def draw_pareto(
    points: Sequence[Point] | Sequence[Any],
    *,
    dead: Collection[int] = (),
    title: str = "",
    score: str | None = None,
):
    """Draws error over bytes with the Pareto front.

    The axis of the bytes is logarithmic; so is that of the errors where they differ more than
    tenfold and none is 0. The line joins the models of the front. Equal points have one label; of
    many models those are named for whose names there is room, those of the front first.

    Args:
      points: (name, bytes > 0, error as a fraction) of each model; or its `Scorecard`.
      dead: indices of the models that tell no classes apart: they are hollow and not on the front.
      title: above the picture.
      score: of which the errors are what is missing to 1; None for that of the scorecards, or the
        accuracy.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if there are no points.

    Example:
      >>> ax = draw_pareto([("float", 1000, 0.01), ("int8", 250, 0.02), ("a", 20, 0.9)], dead=[2])
      >>> ax.axes[0].lines[0].get_xdata().tolist()
      [250, 1000]
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    if not points:
        raise ValueError("no models to draw")
    if hasattr(points[0], "file_bytes"):
        score = score or points[0].score
        points = [(card.name, card.file_bytes, card.error) for card in points]
    score = score or "accuracy"
    many = len(points) > _MANY
    size = (11.0, 7.0) if many else (8.0, 5.0)
    error_name = "error" if score == "accuracy" else f"1 - {formats.label(score)}"
    figure = canvas.figure(*size, title or f"{error_name} against the size of the file")
    ax = figure.subplots()
    alive = [i for i in range(len(points)) if i not in dead]
    front = [alive[i] for i in frontier([points[i] for i in alive])]
    line = [points[i] for i in front]
    ax.plot([p[1] for p in line], [100 * p[2] for p in line], "-", color=_BEST, lw=1.2, zorder=1)
    for i, (_, size_bytes, error) in enumerate(points):
        colour = _BEST if i in front else _OTHER
        inner = "white" if i in dead else colour
        over = 3 if i in front else 2  # of equal points the one on the front is seen
        ax.plot([size_bytes], [100 * error], "o", color=colour, mfc=inner, ms=5, zorder=over)
    sizes, errors = [p[1] for p in points], [100 * p[2] for p in points]
    ax.set(xscale="log", xlim=(min(sizes) / 4, max(sizes) * 4))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    if min(errors) > 0 and max(errors) > 10 * min(errors):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}" if 0 <= v <= 100 else "")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(y=0.25)
    ax.set(xlabel="bytes of the file", ylabel=f"{error_name} (%)")
    ax.grid(True, color=canvas.FAINT, lw=0.5, alpha=0.7)
    labels = _labels(points, dead, names_only=many)
    named = placing.place(figure, ax, np.array([sizes, errors]).T, labels, first=front, near=many)
    wanted = sum(map(bool, labels))
    if len(named) < wanted:
        ax.set_title(f"{len(named)} of {wanted} names, where there is room", fontsize=8,
                     color=canvas.INK, loc="right")  # fmt: skip
    return figure


def _labels(points: Sequence[Point], dead: Collection[int], *, names_only: bool) -> list[str]:
    """Returns the text at each point; at points where several stand, that of the first has all."""
    together: dict[tuple[float, float], list[int]] = {}
    for i, (_, size_bytes, error) in enumerate(points):
        together.setdefault((size_bytes, error), []).append(i)
    labels = [""] * len(points)
    for (size_bytes, error), group in together.items():
        names = ", ".join(text.cut(points[i][0], 24) for i in group[:3])
        names += f" and {len(group) - 3} more" if len(group) > 3 else ""
        names += " (dead)" if any(i in dead for i in group) else ""
        numbers = "" if names_only else f"\n{size_bytes:,} bytes, {formats.percent(error)}"
        labels[group[0]] = canvas.escape(f"{names}{numbers}")
    return labels


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
