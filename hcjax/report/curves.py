"""Curves: loss and accuracy over the steps of a run; accuracy over compression levels of a layer.

In come the records of `metrics.jsonl`, the history of `fit`, or plain numbers; out goes a figure,
which `canvas.save` writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hcjax.core import formats, text
from hcjax.report import canvas

NAMED_LAYERS = 24  # of many layers, those whose curve has a name
_TRAIN, _VALIDATION = "#4c78a8", "#e45756"
_ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
_LOW_ACCURACY_TICKS = (10, 20, 30, 40, 60, 70, 85)


def draw_learning_curves(
    records: Sequence[Mapping[str, object]],
    *,
    title: str = "",
    loss: str = "nll",
    score: str = "accuracy",
):
    """Draws loss and accuracy, or another score, over the steps of a run.

    The accuracy axis is logarithmic in the error, so that 99.0 % and 99.5 % are as far apart as
    90 % and 95 %; the loss axis is logarithmic where the loss falls more than fivefold. Training
    points that average fewer steps than most are joined to their neighbours, so that none is noisy
    for that reason alone; many are drawn faintly under their running mean. Where the loss is not
    the cross-entropy, the cross-entropy, which validation measures, is drawn beside it.

    Args:
      records: the `history` of `fit`; or dicts with `step`, `split` ("train" or "validation") and
        `loss` or `nll` (nats per example) and `accuracy` (a fraction) where recorded, as
        `read_metrics` returns them. Other keys, other splits and non-finite numbers are skipped.
      title: of the picture, e.g. the name of the config.
      loss: the key of the mean loss that validation measures.
      score: the key that stands in place of `accuracy`; more of a fraction is better, less of
        others.

    Returns:
      A `matplotlib.figure.Figure`.

    Example:
      >>> history = [{"step": 100, "train_loss": 0.5, "nll": 0.4, "accuracy": 0.9}]
      >>> [ax.get_ylabel() for ax in draw_learning_curves(history).axes]
      ['loss (nats per example)', 'accuracy (%)']
    """
    from matplotlib.ticker import MaxNLocator

    records = _by_split(records)
    figure = canvas.figure(10.5, 4.2, title or "learning curves")
    axes = figure.subplots(1, 2)
    share = score.endswith(formats.FRACTIONS)
    units = (" (nats per example)" if loss == "nll" else "", " (%)" if share else "")
    for ax, name, unit in zip(axes, ("loss", score), units, strict=True):
        train = _training(records, name, loss)
        validation = _series(records, "validation", name, loss)
        minimised = _minimised(records, train) if name == "loss" else (train[0][:0],) * 2
        smooth = _running_mean(*train)
        values = np.concatenate([train[1], smooth[1], validation[1], minimised[1]])
        ax.set(xlabel="step", ylabel=f"{formats.label(name)}{unit}")
        if not values.size:
            ax.set(xticks=[], yticks=[])
            ax.text(0.5, 0.5, f"no {name} was recorded", ha="center", transform=ax.transAxes)
            continue
        rising = name != "loss" and share
        y = _accuracy_axis(ax, values) if rising else _loss_axis(ax, values)
        measured = "cross-entropy" if loss == "nll" else formats.label(loss)
        what = f"train, {measured}" if minimised[0].size else "train"
        if smooth[0].size:
            ax.plot(train[0], y(train[1]), color=_TRAIN, lw=0.6, alpha=0.35)
            width = train[0].size - smooth[0].size + 1
            ax.plot(smooth[0], y(smooth[1]), color=_TRAIN, lw=1.6,
                    label=f"{what} (mean of {width} points)")  # fmt: skip
        elif train[0].size:
            ax.plot(train[0], y(train[1]), ".-", color=_TRAIN, lw=1.2, label=what)
        if minimised[0].size:
            ax.plot(minimised[0], y(minimised[1]), ":", color=_TRAIN, lw=1.2, label="train, loss")
        if validation[0].size:
            label = f"validation, {_best(name, *validation, rising=rising)}"
            ax.plot(validation[0], y(validation[1]), "o-", color=_VALIDATION, ms=3.5, label=label)
        steps = np.unique(np.concatenate([train[0], validation[0]]))
        if steps.size > 1:
            ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        else:  # an axis of one step would show it again and again
            ax.set_xticks(steps)
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
        ax.grid(True, color=canvas.FAINT, lw=0.5, alpha=0.7)
        ax.legend(frameon=False, fontsize=9)
    return figure


def draw_layer_curves(
    levels: Sequence[float] | Any,
    accuracy: Mapping[str, Sequence[float]] | None = None,
    *,
    baseline: float | None = None,
    against: str = "sparsity",
    title: str = "",
    score: str = "accuracy",
):
    """Draws accuracy, or another score, over compression levels, one layer at a time.

    Levels are equally far apart; the accuracy axis is that of `draw_learning_curves`. Of more than
    24 layers those that lose most have colours and names, the others are grey.

    Args:
      levels: sparsities or bits, in order; or the result of `hcjax.sensitivity`, which has all
        but the title.
      accuracy: name of a layer, or of whatever is compared -> accuracy (a fraction) at each level.
      baseline: accuracy of the unchanged network, drawn as a line.
      against: the quantity of the levels; its last word sets their format, see `formats.value`.
      title: above the picture.
      score: the fraction that stands in place of accuracy, e.g. "object_iou".

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if there is nothing to draw, or no baseline.

    Example:
      >>> figure = draw_layer_curves((8, 4), {"conv1": (0.99, 0.98)}, baseline=0.99, against="bits")
      >>> len(figure.axes[0].lines)
      2
    """
    if hasattr(levels, "rows"):
        accuracy = {row.path: row.accuracy for row in levels.rows}
        baseline, against, score = levels.accuracy, levels.against, levels.score
        levels = levels.levels
    if not accuracy or baseline is None:
        raise ValueError("give the scores of each layer, and baseline=, the score without change")
    measure = formats.label(score)
    beside = len(accuracy) > 8  # the names, which would hide the lines
    figure = canvas.figure(
        10.5 if beside else 8.0, 4.6, title or f"{measure} against {against}, one layer at a time"
    )
    ax = figure.subplots()
    places = np.arange(len(levels))
    y = _accuracy_axis(ax, np.array([baseline, *(a for each in accuracy.values() for a in each)]))
    ax.axhline(float(y(baseline)), color=canvas.INK, lw=0.8, ls="--", label="as it is")
    worst = sorted(accuracy, key=lambda name: float(np.mean(accuracy[name])))[:NAMED_LAYERS]
    shown = [name for name in accuracy if name in set(worst)]
    for layer, each in accuracy.items():
        if layer not in worst:
            ax.plot(places, y(np.asarray(each)), "-", color=canvas.FAINT, lw=0.8, zorder=1)
    for i, name in enumerate(shown):
        style = ("o-", "s--", "^:")[i // 10 % 3]  # ten colours, then another line
        label = canvas.escape(text.cut(name, 40))
        ax.plot(places, y(np.asarray(accuracy[name])), style, ms=3.5, lw=1.2, label=label,
                color=f"C{i % 10}")  # fmt: skip
    ax.set_xticks(places, [formats.value(against, level) for level in levels])
    ax.set(xlabel=formats.label(against), ylabel=f"{measure} (%)")
    ax.grid(True, color=canvas.FAINT, lw=0.5, alpha=0.7)
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if beside else {}
    others = len(accuracy) - len(shown)
    ax.legend(frameon=False, fontsize=8 if len(shown) <= 20 else 7, **place,
              title=f"{others:,} other layers are grey" if others else None)  # fmt: skip
    return figure


def _by_split(records: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Returns lines of a history, which hold both splits, as a record for each."""
    found: list[Mapping[str, object]] = []
    for record in records:
        if "split" in record:
            found.append(record)
            continue
        ours = {k.removeprefix("train_"): v for k, v in record.items() if k.startswith("train_")}
        others = {k: v for k, v in record.items() if not k.startswith("train_")}
        found.append({"step": record["step"], "split": "train", **ours})
        found.append(others | {"split": "validation"})
    return found


def _training(
    records: Sequence[Mapping[str, object]], name: str, measured: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of training, each the mean of about equally many steps.

    The loss is the one that validation measures, where it is recorded.
    """
    if name == "loss" and _series(records, "train", measured)[0].size:
        name = measured
    return _windows(*_series(records, "train", name))


def _minimised(
    records: Sequence[Mapping[str, object]], train: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the curve of the training loss; an empty one if it is that of the cross-entropy."""
    steps, loss = _windows(*_series(records, "train", "loss"))
    same = loss.shape == train[1].shape and np.allclose(loss, train[1], rtol=1e-3, atol=1e-6)
    return (steps[:0], loss[:0]) if same else (steps, loss)


def _windows(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins points that average fewer steps than most to their neighbours.

    A point is the mean over the steps since the one before it.
    """
    if steps.size < 2:
        return steps, values
    widths = np.diff(steps, prepend=0.0)
    usual = np.median(widths)
    if not usual > 0 or (widths >= usual).all():
        return steps, values
    found: list[tuple[float, float, float]] = []  # step, width, width * value
    width = total = 0.0
    for step, own, value in zip(steps, widths, values, strict=True):
        width, total = width + own, total + own * value
        if width >= usual:
            found.append((step, width, total))
            width = total = 0.0
    if width and found:
        _, before, sum_before = found.pop()
        found.append((steps[-1], before + width, sum_before + total))
    ends, widths, totals = np.array(found).T
    return ends, totals / widths


def _series(
    records: Sequence[Mapping[str, object]], split: str, name: str, measured: str = "nll"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and finite values of one metric on one split.

    The loss of validation is the one it measures, where no other is recorded.
    """
    mine = [record for record in records if record.get("split") == split]
    if name == "loss" and split == "validation" and not any("loss" in x for x in mine):
        name = measured
    pairs = [(x["step"], float(x[name])) for x in mine if x.get(name) is not None]
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
    if len(ticks) < 2:  # values that are almost equal: their own range
        ticks = [float(f"{100 * (1 - e):.3f}") for e in np.geomspace(top, max(low, floor), 4)[1:3]]
    labels = [f"{t:g}" for t in ticks] + ["100"] * perfect
    ax.set_yscale("log")
    ax.set_ylim(top, low)
    ax.set_yticks([1 - t / 100 for t in ticks] + [floor] * perfect, labels)
    ax.minorticks_off()
    return lambda x: np.maximum(1 - x, floor)


def _best(name: str, steps: np.ndarray, values: np.ndarray, *, rising: bool) -> str:
    """Describes the best point of a curve: its value and step."""
    i = int(values.argmax() if rising else values.argmin())
    return f"best {formats.value(name, float(values[i]))} at step {steps[i]:,.0f}"
