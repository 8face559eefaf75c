"""The picture of each layer's quantization error.

In come names and numbers; out goes a figure, which `canvas.save` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hcjax.core import text
from hcjax.report import canvas

_SQNR, _DROP = "#4c78a8", "#e45756"
_MOST = 120  # layers that are drawn


def draw_layer_errors(
    names: Sequence[str] | Any,
    sqnr: Sequence[float] = (),
    drops: Sequence[float] = (),
    *,
    title: str = "",
):
    """Draws each layer's SQNR and accuracy drop as bars.

    Args:
      names: of the layers, in order; the first is drawn at the top. Of more than 120 layers those
        with the largest drops are drawn. Or the result of `hcjax.error_analysis`, alone.
      sqnr: of each layer, in dB; an infinite one is labelled "exact" and has no bar.
      drops: of accuracy if only this layer is quantized, as fractions.
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if there are not as many numbers as names, or none.

    Example:
      >>> len(draw_layer_errors(["conv1"], [31.5], [0.0004]).axes)
      2
    """
    if hasattr(names, "rows"):
        rows = names.rows
        names, sqnr, drops = ([getattr(r, k) for r in rows] for k in ("name", "sqnr", "drop"))
    if not len(names) == len(sqnr) == len(drops) > 0:
        raise ValueError(f"{len(names)} names, {len(sqnr)} SQNRs and {len(drops)} drops")
    title = title or "what quantization does to each layer"
    sqnr, drops = np.asarray(sqnr, np.float64), np.asarray(drops, np.float64)
    if len(names) > _MOST:
        title += f": the {_MOST} of {len(names):,} that cost most"
        worst = np.sort(np.argsort(-drops, kind="stable")[:_MOST])
        names, sqnr, drops = [names[i] for i in worst], sqnr[worst], drops[worst]
    rows = np.arange(len(names))
    figure = canvas.figure(9.5, 1.4 + (0.28 if len(names) <= 60 else 0.18) * len(names), title)
    left, right = figure.subplots(1, 2, sharey=True)
    finite = np.where(np.isfinite(sqnr), sqnr, 0.0)
    left.barh(rows, finite, color=_SQNR, height=0.7)
    for row in np.flatnonzero(~np.isfinite(sqnr)):
        left.text(0, row, " exact", va="center", fontsize=8, color=canvas.INK)
    if not finite.any():  # an axis of nothing would run from -0.05 to 0.05
        left.set_xlim(0, 1)
    right.barh(rows, 100 * drops, color=_DROP, height=0.7)
    right.axvline(0, color=canvas.INK, lw=0.6)
    if not drops.any():
        right.set_xlim(-1, 1)
    left.set(xlabel="SQNR of its output, all layers quantized (dB)")
    right.set(xlabel="accuracy drop, it alone quantized (points)")
    left.set_yticks(rows, [canvas.escape(text.cut(name, 28)) for name in names], fontsize=8)
    left.set_ylim(len(names) - 0.5, -0.5)
    for ax in (left, right):
        ax.grid(True, axis="x", color=canvas.FAINT, lw=0.5, alpha=0.7)
        ax.set_axisbelow(True)
    return figure
