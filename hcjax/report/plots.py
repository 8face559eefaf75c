"""The pictures of a run's results: confusion matrix, worst mistakes, first filters.

In come NumPy arrays; out goes a figure, which `canvas.save` writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hcjax.core import formats
from hcjax.report import canvas

MAX_NUMBERED_CLASSES = 30
MAX_CELLS = 250  # of a confusion matrix, in a row: smaller ones cannot be seen
LISTED_MISTAKES = 25
MAX_FILTERS = 64


def draw_confusion_matrix(
    confusion: np.ndarray, *, class_names: Sequence[str] = (), title: str = ""
):
    """Draws the confusion matrix.

    Colour is the share of the true class, on a logarithmic scale, so that a few mistakes among
    thousands are visible. Up to `MAX_NUMBERED_CLASSES` classes have names and counts; of more, the
    most frequent mistakes are listed beside the matrix. Of more than `MAX_CELLS` classes a cell is
    the largest share among several classes, or a single mistake would be too small to be seen.

    Args:
      confusion: int[K, K] counts, true class by row, predicted class by column, e.g.
        `evaluate(...).sums["confusion"]`.
      class_names: K names; empty means 0, 1, 2, ….
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if `confusion` is not square.

    Example:
      >>> draw_confusion_matrix(np.eye(3, dtype=int)).axes[0].get_xlabel()
      'predicted class'
    """
    from matplotlib.colors import LogNorm

    confusion = np.asarray(confusion)
    num_classes = len(confusion)
    if confusion.shape != (num_classes, num_classes):
        raise ValueError(f"confusion must be int[K, K], got shape {confusion.shape}")
    numbered = num_classes <= MAX_NUMBERED_CLASSES
    side = 2.4 + 0.52 * num_classes if numbered else 8.0
    wide = max(side, 4.6) + (0.7 if numbered else 3.6)
    figure = canvas.figure(wide, max(side, 4.2), title or "confusion matrix")
    ax = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    block = -(-num_classes // MAX_CELLS)
    nonzero = np.ma.masked_equal(_largest(share, block), 0)
    # a third, so that the rarest mistake is not as white as none
    low = min(0.01, nonzero.min()) / 3 if nonzero.count() else 0.01
    image = ax.imshow(nonzero, cmap="Blues", norm=LogNorm(low, 1), interpolation="nearest",
                      extent=_extent(nonzero.shape[0] * block) if block > 1 else None)  # fmt: skip
    bar = figure.colorbar(image, ax=ax, fraction=0.045, pad=0.03)
    bar.ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:g} %")
    most = f", the most of {block} x {block} classes" if block > 1 else ""
    bar.set_label(f"share of the true class (none: white){most}")
    bar.outline.set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class")
    if numbered:
        names = [canvas.label(class_names, k) for k in range(num_classes)]
        ax.set_xticks(range(num_classes), names, rotation=0 if max(map(len, names)) < 4 else 90)
        ax.set_yticks(range(num_classes), names)
        ax.tick_params(length=0)
        for i, j in zip(*np.nonzero(confusion), strict=True):
            dark = math.log(share[i, j] / low) > 0.6 * math.log(1 / low)
            count = _short(confusion[i, j])
            ax.text(j, i, count, ha="center", va="center", color="white" if dark else canvas.INK,
                    fontsize=9 if len(count) < 5 else 7)  # fmt: skip
    else:
        ax.set(xlim=(-0.5, num_classes - 0.5), ylim=(num_classes - 0.5, -0.5))
        bar.ax.text(6.5, 1.0, _frequent(confusion, class_names), fontsize=8, color=canvas.INK,
                    va="top", transform=bar.ax.transAxes)  # fmt: skip
    return figure


def _largest(share: np.ndarray, block: int) -> np.ndarray:
    """Returns the largest of every `block` x `block` cells."""
    if block == 1:
        return share
    size = -(-len(share) // block)
    padded = np.zeros((size * block, size * block))
    padded[: len(share), : len(share)] = share
    return padded.reshape(size, block, size, block).max((1, 3))


def _extent(size: int) -> tuple[float, float, float, float]:
    """Returns (left, right, bottom, top) of a matrix whose cells are several classes."""
    return (-0.5, size - 0.5, size - 0.5, -0.5)


def _short(count: int) -> str:
    """Formats a count so that it fits a cell: 12,345 as 12k, 1,234,567 as 1.2M."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * unit or (count >= unit and unit > 1000):
            return f"{count / unit:.{1 if count < 10 * unit else 0}f}{letter}"
    return f"{count:,}"


def _frequent(confusion: np.ndarray, class_names: Sequence[str]) -> str:
    """Lists the most frequent mistakes."""
    mistakes = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED_MISTAKES]
    pairs = [np.unravel_index(i, mistakes.shape) for i in order]
    lines = [
        f"{mistakes[i, j]:,}  {canvas.label(class_names, i)} as {canvas.label(class_names, j)}"
        for i, j in pairs
        if mistakes[i, j]
    ]
    return "\n".join(["the most frequent mistakes", *(lines or ["none"])])


def draw_worst_mistakes(
    images: np.ndarray,
    labels: Sequence[int],
    predicted: Sequence[int],
    confidence: Sequence[float],
    *,
    class_names: Sequence[str] = (),
    title: str = "",
):
    """Draws misclassified images, in the given order, in as many columns as they fill.

    Args:
      images: uint8[n, H, W, C], or floats in 0..1, usually n = 32, worst first; C is 1 (grey), 3
        (RGB), or the first channel is shown. n = 0 draws the words "no mistakes".
      labels: n true classes.
      predicted: n predicted classes.
      confidence: n probabilities of the predicted class.
      class_names: names of all classes; empty means 0, 1, 2, ….
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Example:
      >>> image = np.zeros((1, 28, 28, 1), np.uint8)
      >>> draw_worst_mistakes(image, [7], [1], [0.99]).axes[0].get_title()
      '7 taken for 1\\n99.00 %'
    """
    images, count = np.asarray(images), len(images)
    default = {0: "mistakes", 1: "the one mistake, with the confidence in it"}.get(
        count, f"the {count} worst mistakes, with the confidence in the wrong class"
    )
    if not count:
        figure = canvas.figure(4.0, 1.2, title or default)
        figure.text(0.5, 0.3, "no mistakes", ha="center", color=canvas.INK)
        return figure
    rows = math.ceil(count / 8)
    columns = math.ceil(count / rows)
    cell = 2.6 if count == 1 else 1.3  # inches
    tall = cell * min(images.shape[1] / images.shape[2], 3.0)
    figure = canvas.figure(max(columns * cell, 4.2), 0.7 + (tall + 0.25) * rows, title or default)
    axes = np.atleast_2d(figure.subplots(rows, columns)).ravel()
    for ax in axes:
        ax.axis("off")
    white = 255 if images.dtype == np.uint8 else 1
    for i in range(count):
        true, wrong = canvas.label(class_names, labels[i]), canvas.label(class_names, predicted[i])
        one_line = len(true) + len(wrong) <= 11
        words = f"{true} taken for {wrong}" if one_line else f"{true}\ntaken for {wrong}"
        axes[i].set_title(f"{words}\n{formats.percent(float(confidence[i]))}", fontsize=8,
                          color=canvas.INK, pad=3)  # fmt: skip
        rgb = images.shape[-1] == 3
        axes[i].imshow(images[i] if rgb else images[i, :, :, 0], cmap="gray", vmin=0, vmax=white)
    return figure


def draw_filters(
    kernel: np.ndarray, *, input_shape: tuple[int, int, int] | None = None, title: str = ""
):
    """Draws the filters of a first layer.

    Args:
      kernel: float[H, W, I, O] of a convolution, or float[H·W·C, O] of a dense layer. With
        three input channels a filter is shown in colour (mid-grey is 0), else in blue (negative)
        and red (positive), the mean over the input channels if there are several. Of more than
        `MAX_FILTERS` filters, those with the largest norm are shown, in the order of channels.
      input_shape: (H, W, C) of the images, for a dense kernel.
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if the kernel has another rank, or is dense and does not fit `input_shape`.

    Example:
      >>> len(draw_filters(np.ones((3, 3, 1, 8))).axes)
      9
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim == 2 and input_shape and kernel.shape[0] == math.prod(input_shape):
        kernel = kernel.reshape(*input_shape, -1)
    if kernel.ndim != 4:
        raise ValueError(
            "kernel must be float[H, W, I, O], or float[H*W*C, O] with input_shape (H, W, C); got "
            f"shape {kernel.shape} and input_shape {input_shape}"
        )
    total = kernel.shape[-1]
    norms = np.linalg.norm(kernel.reshape(-1, total), axis=0)
    largest = np.sort(np.argsort(-norms, kind="stable")[:MAX_FILTERS])
    colour = kernel.shape[2] == 3
    kernel = kernel[..., largest] if colour else kernel[..., largest].mean(axis=2, keepdims=True)
    rows, columns = max(1, math.ceil(len(largest) / 8)), min(8, len(largest))
    shown = f"{total}" if total <= MAX_FILTERS else f"the {len(largest)} largest of {total}"
    default = (
        f"first layer: {shown} filter{'s' * (total > 1)} of {kernel.shape[0]}×{kernel.shape[1]}"
    )
    figure = canvas.figure(columns + (0.2 if colour else 1.6), 0.6 + rows, title or default)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    # a few extreme weights would leave everything else pale
    finite = np.abs(kernel[np.isfinite(kernel)])
    limit = float(np.percentile(finite, 99.5)) if finite.any() else 1.0
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for i in range(len(largest)):
        if colour:
            axes[i].imshow(np.clip(0.5 + kernel[..., i] / (2 * limit), 0, 1))
        else:
            image = axes[i].imshow(kernel[:, :, 0, i], cmap="RdBu_r", vmin=-limit, vmax=limit)
    if not colour:
        bar = figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02, aspect=25)
        bar.set_label("weight")
        bar.outline.set_visible(False)
    return figure
