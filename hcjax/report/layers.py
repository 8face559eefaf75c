"""The picture of each layer's quantization error.

In come names and numbers; out goes a PNG, written atomically.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hcjax.core import text
from hcjax.report import canvas

_SQNR, _DROP = "#4c78a8", "#e45756"
_TALLEST = 60  # layers that are drawn at full height


def layer_errors(
    path: str | os.PathLike,
    names: Sequence[str],
    sqnr: Sequence[float],
    drops: Sequence[float],
    *,
    title: str = "",
) -> Path:
    """Draws each layer's SQNR and accuracy drop as bars to a PNG and returns its path.

    Args:
      path: the PNG to write.
      names: of the layers, in order; the first is drawn at the top.
      sqnr: of each layer, in dB; an infinite one is labelled "exact" and has no bar.
      drops: of accuracy if only this layer is quantized, as fractions.
      title: above the picture.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written.
      ValueError: if there are not as many numbers as names, or none.

    Example:
      >>> import tempfile
      >>> layer_errors(tempfile.mkdtemp() + "/layers.png", ["conv1"], [31.5], [0.0004]).name
      'layers.png'
    """
    if not len(names) == len(sqnr) == len(drops) > 0:
        raise ValueError(f"{len(names)} names, {len(sqnr)} SQNRs and {len(drops)} drops")
    rows = np.arange(len(names))
    height = 1.4 + 0.28 * min(len(names), _TALLEST)
    figure = canvas.figure(9.5, height, title or "what quantization does to each layer")
    left, right = figure.subplots(1, 2, sharey=True)
    finite = np.where(np.isfinite(sqnr), sqnr, 0.0)
    left.barh(rows, finite, color=_SQNR, height=0.7)
    for row in np.flatnonzero(~np.isfinite(sqnr)):
        left.text(0, row, " exact", va="center", fontsize=8, color=canvas.INK)
    right.barh(rows, 100 * np.asarray(drops, np.float64), color=_DROP, height=0.7)
    right.axvline(0, color=canvas.INK, lw=0.6)
    left.set(xlabel="SQNR of its output, all layers quantized (dB)")
    right.set(xlabel="accuracy drop, it alone quantized (points)")
    left.set_yticks(rows, [canvas.escape(text.cut(name, 28)) for name in names], fontsize=8)
    left.invert_yaxis()
    for ax in (left, right):
        ax.grid(True, axis="x", color=canvas.FAINT, lw=0.5, alpha=0.7)
        ax.set_axisbelow(True)
    return canvas.save(figure, path)
