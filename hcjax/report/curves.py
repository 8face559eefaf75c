"""Curves: loss and accuracy over the steps of a run; accuracy over compression levels of a layer.

In come the records of `metrics.jsonl`, or plain numbers; out goes a PNG, written atomically.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hcjax.core import formats
from hcjax.report import canvas

_TRAIN, _VALIDATION = "#4c78a8", "#e45756"
_ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
_LOW_ACCURACY_TICKS = (10, 20, 30, 40, 60, 70, 85)


def learning_curves(
    path: str | os.PathLike, records: Sequence[Mapping[str, object]], *, title: str = ""
) -> Path:
    """Draws loss and accuracy over the steps of a run to a PNG and returns its path.

    The accuracy axis is logarithmic in the error, so that 99.0 % and 99.5 % are as far apart as
    90 % and 95 %; the loss axis is logarithmic where the loss falls more than fivefold. Many
    training points are drawn faintly under their running mean.

    Args:
      path: the PNG to write.
      records: dicts with `step`, `split` ("train" or "validation") and `loss` (nats per
        example) and `accuracy` (a fraction) where recorded, as `read_metrics` returns them.
        Other keys, other splits and non-finite numbers are skipped.
      title: of the picture, e.g. the name of the config.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> records = [{"step": s, "split": "train", "loss": 1 / s, "accuracy": 0.9} for s in (1, 2)]
      >>> learning_curves(tempfile.mkdtemp() + "/curves.png", records).name
      'curves.png'
    """
    from matplotlib.ticker import MaxNLocator

    figure = canvas.figure(10.5, 4.2, title or "learning curves")
    axes = figure.subplots(1, 2)
    for ax, name, unit in zip(axes, ("loss", "accuracy"), ("nats per example", "%"), strict=True):
        train, validation = (_series(records, split, name) for split in ("train", "validation"))
        smooth = _running_mean(*train)
        values = np.concatenate([train[1], smooth[1], validation[1]])
        ax.set(xlabel="step", ylabel=f"{name} ({unit})")
        if not values.size:
            ax.set(xticks=[], yticks=[])
            ax.text(0.5, 0.5, f"no {name} was recorded", ha="center", transform=ax.transAxes)
            continue
        y = _accuracy_axis(ax, values) if name == "accuracy" else _loss_axis(ax, values)
        if smooth[0].size:
            ax.plot(train[0], y(train[1]), color=_TRAIN, lw=0.6, alpha=0.35)
            width = train[0].size - smooth[0].size + 1
            label = f"train (mean of {width} points)"
            ax.plot(smooth[0], y(smooth[1]), color=_TRAIN, lw=1.6, label=label)
        elif train[0].size:
            ax.plot(train[0], y(train[1]), ".-", color=_TRAIN, lw=1.2, label="train")
        if validation[0].size:
            label = f"validation, {_best(name, *validation)}"
            ax.plot(validation[0], y(validation[1]), "o-", color=_VALIDATION, ms=3.5, label=label)
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
        ax.grid(True, color=canvas.FAINT, lw=0.5, alpha=0.7)
        ax.legend(frameon=False, fontsize=9)
    return canvas.save(figure, path)


def layer_curves(
    path: str | os.PathLike,
    levels: Sequence[float],
    accuracy: Mapping[str, Sequence[float]],
    *,
    baseline: float,
    against: str = "sparsity",
    title: str = "",
) -> Path:
    """Draws accuracy over compression levels, one layer at a time, to a PNG; returns its path.

    Levels are equally far apart; the accuracy axis is that of `learning_curves`.

    Args:
      path: the PNG to write.
      levels: sparsities or bits, in order, e.g. `levels` of `hcjax.sensitivity`'s result.
      accuracy: layer name -> accuracy (a fraction) at each level, e.g.
        `{row.path: row.accuracy for row in result.rows}`.
      baseline: accuracy of the unchanged network, drawn as a line.
      against: the quantity of the levels; its last word sets their format, see `formats.value`.
      title: above the picture.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> layer_curves(tempfile.mkdtemp() + "/layers.png", (8, 4, 2), {"conv1": (0.99, 0.98, 0.5)},
      ...              baseline=0.99, against="bits").name
      'layers.png'
    """
    figure = canvas.figure(8.0, 4.6, title or f"accuracy against {against}, one layer at a time")
    ax = figure.subplots()
    places = np.arange(len(levels))
    y = _accuracy_axis(ax, np.array([baseline, *(a for each in accuracy.values() for a in each)]))
    ax.axhline(float(y(baseline)), color=canvas.INK, lw=0.8, ls="--", label="as it is")
    for i, (name, each) in enumerate(accuracy.items()):
        style = ("o-", "s--", "^:")[i // 10 % 3]  # ten colours, then another line
        ax.plot(places, y(np.asarray(each)), style, ms=3.5, lw=1.2, label=canvas.escape(name))
    ax.set_xticks(places, [formats.value(against, level) for level in levels])
    ax.set(xlabel=formats.label(against), ylabel="accuracy (%)")
    ax.grid(True, color=canvas.FAINT, lw=0.5, alpha=0.7)
    ax.legend(frameon=False, fontsize=8, ncols=1 + len(accuracy) // 12)
    return canvas.save(figure, path)


def _series(
    records: Sequence[Mapping[str, object]], split: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and finite values of one metric on one split."""
    pairs = [
        (record["step"], float(record[name]))
        for record in records
        if record.get("split") == split and record.get(name) is not None
    ]
    pairs = np.array([p for p in pairs if math.isfinite(p[1])], np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _running_mean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooths a curve over a thirtieth of its points; returns an empty one for few points."""
    if steps.size <= 60:
        return steps[:0], values[:0]
    width = steps.size // 30
    weights = np.full(width, 1 / width)
    return np.convolve(steps, weights, "valid"), np.convolve(values, weights, "valid")


def _loss_axis(ax, loss: np.ndarray) -> Callable:
    """Makes the axis logarithmic if the loss falls fivefold; returns the map loss -> height."""
    if loss.min() > 0 and loss.max() > 5 * loss.min():
        few = loss.max() < 50 * loss.min()
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        ax.yaxis.set_minor_formatter(lambda v, _: f"{v:g}" if few and f"{v:.0e}"[0] in "25" else "")
    return lambda x: x


def _accuracy_axis(ax, accuracy: np.ndarray) -> Callable:
    """Makes the axis logarithmic in the error; returns the map accuracy -> height."""
    error = np.round(1 - accuracy, 9)  # a mean of ones is not always one
    wrong = error[error > 0]
    perfect = bool((error <= 0).any())
    # no logarithm reaches 100 %: it is drawn where half of the smallest error would be
    floor = wrong.min() / 2 if wrong.size else 1e-3
    top = min(1.0, 1.25 * max(error.max(), 2 * floor))
    low = 0.8 * floor if perfect else 1.6 * floor
    ticks = _ACCURACY_TICKS + (_LOW_ACCURACY_TICKS if top > 0.3 and low > 0.02 else ())
    ticks = [t for t in ticks if (1.2 * floor if perfect else low) <= 1 - t / 100 <= top]
    labels = [f"{t:g}" for t in ticks] + ["100"] * perfect
    ax.set_yscale("log")
    ax.set_ylim(top, low)
    ax.set_yticks([1 - t / 100 for t in ticks] + [floor] * perfect, labels)
    ax.minorticks_off()
    return lambda x: np.maximum(1 - x, floor)


def _best(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    """Describes the best point of a curve: its value and step."""
    i = int(values.argmin() if name == "loss" else values.argmax())
    return f"best {formats.value(name, float(values[i]))} at step {steps[i]:,.0f}"
