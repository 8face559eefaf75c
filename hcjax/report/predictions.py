"""The pictures of other tasks than classification: masks beside their images, numbers predicted.

In come NumPy arrays; out goes a figure, which `canvas.save` writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hcjax.core import text
from hcjax.report import canvas

_SHARE = 0.6  # of a class's colour over the image
MAX_PANELS = 6  # columns of numbers that have a panel of their own
MAX_POINTS = 4000  # of a panel


def draw_masks(
    images: np.ndarray,
    masks: np.ndarray,
    predicted: np.ndarray,
    *,
    class_names: Sequence[str] = (),
    title: str = "",
):
    """Draws images, and over them the true and the predicted class of every pixel.

    Class 0, the background, has no colour; pixels that do not count, below 0, are white.

    Args:
      images: uint8[n, H, W, C], or floats in 0..1, n >= 1, usually worst first.
      masks, predicted: int[n, H, W], 0..K-1.
      class_names: K names; empty means 0, 1, 2, ….
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if masks are not of the images' size.

    Example:
      >>> image, mask = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), int)
      >>> len(draw_masks(image, mask, mask).axes)
      6
    """
    images, masks, predicted = (np.asarray(x) for x in (images, masks, predicted))
    if masks.shape != images.shape[:3] or predicted.shape != masks.shape:
        raise ValueError(
            f"masks {list(masks.shape)} and {list(predicted.shape)} are not of images "
            f"{list(images.shape)}"
        )
    pictures = _rgb(images)
    known = max(int(masks.max(initial=0)), int(predicted.max(initial=0))) + 1
    colours = _colours(max(known, len(class_names), 2))
    per_row = 3 if len(images) > 4 else 1  # triples beside each other
    rows = math.ceil(len(images) / per_row)
    figure = canvas.figure(
        1.35 * 3 * per_row + 0.4, 1.45 * rows + 1.0, title or "the worst masks of the test part"
    )
    axes = np.atleast_2d(figure.subplots(rows, 3 * per_row))
    for ax in axes.ravel():
        ax.axis("off")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, per_row)
        panels = {"image": None, "true": masks[i], "predicted": predicted[i]}
        for j, (name, mask) in enumerate(panels.items()):
            ax = axes[row, 3 * column + j]
            ax.imshow(picture if mask is None else _over(picture, mask, colours))
            if row == 0:
                ax.set_title(name, fontsize=9, color=canvas.INK, pad=3)
    shown = [k for k in range(1, known) if (masks == k).any() or (predicted == k).any()]
    if shown:
        from matplotlib.patches import Patch

        handles = [Patch(color=colours[k], label=canvas.label(class_names, k)) for k in shown[:12]]
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False,
                      fontsize=8)  # fmt: skip
    return figure


def _rgb(images: np.ndarray) -> np.ndarray:
    """Returns float[n, H, W, 3] in 0..1; of other channels than three the first, in grey."""
    scaled = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
    return np.clip(scaled if images.shape[-1] == 3 else np.repeat(scaled[..., :1], 3, -1), 0, 1)


def _colours(count: int) -> np.ndarray:
    """Returns float[count, 3], the first of the background."""
    from matplotlib import colormaps

    palette = np.asarray(colormaps["tab20"].colors)
    order = np.concatenate([palette[::2], palette[1::2]])
    return np.concatenate([np.zeros((1, 3)), order[(np.arange(count - 1) + 1) % len(order)]])


def _over(picture: np.ndarray, mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns an image in grey under the colours of its classes."""
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    tinted = (1 - _SHARE) * grey + _SHARE * colours[np.clip(mask, 0, None)]
    return np.where((mask < 0)[..., None], 1.0, np.where((mask > 0)[..., None], tinted, grey))


def draw_numbers(
    true: np.ndarray, predicted: np.ndarray, *, names: Sequence[str] = (), title: str = ""
):
    """Draws predicted numbers over true ones; on the line they are equal.

    Args:
      true, predicted: float[n, ...], n >= 1; each column has a panel, of the first `MAX_PANELS`.
      names: of the columns; empty means 0, 1, 2, ….
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> draw_numbers(np.zeros((4, 1)), np.ones((4, 1))).axes[0].get_ylabel()
      'predicted'
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape:
        raise ValueError(f"shapes must be equal, got {true.shape} and {predicted.shape}")
    true, predicted = (x.reshape(len(x), -1) for x in (true, predicted))
    count = min(true.shape[1], MAX_PANELS)
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = canvas.figure(3.6 * columns + 0.6, 3.5 * rows + 0.6, title or "predicted and true")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes[count:]:
        ax.axis("off")
    for k, ax in enumerate(axes[:count]):
        x, y = true[:MAX_POINTS, k], predicted[:MAX_POINTS, k]
        ends = [np.nanmin([x, y]), np.nanmax([x, y])]
        ax.plot(ends, ends, color=canvas.FAINT, lw=1.2, zorder=1)
        ax.plot(x, y, ".", ms=4, alpha=0.5, color="#4c78a8", zorder=2)
        ax.set(xlabel="true", ylabel="predicted")
        if count > 1 or len(names):
            name = text.cut(names[k], 20) if k < len(names) else str(k)
            ax.set_title(canvas.escape(name), fontsize=9, color=canvas.INK)
    return figure
