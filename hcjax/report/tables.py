"""Plain-text tables for the terminal: the end of a run, a sweep, several seeds.

In come metrics by name, as in `report.json`; out goes text, usually no wider than a screen. No
function here prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hcjax.core import formats, text
from hcjax.core.text import table

MAX_CLASSES = 20
_END_OF_RUN = (
    "test_accuracy",
    "test_error",
    "test_examples",
    "nll",
    "ece",
    "parameters",
    "frozen_parameters",
    "weight_bytes",
    "train_seconds",
    "seconds_to_first_step",
    "images_per_second",
    "peak_memory_bytes",
)
_LABELS = {
    "nll": "test loss (nats)",
    "ece": "calibration error",
    "weight_bytes": "weights",
    "train_seconds": "training",
    "seconds_to_first_step": "time to first step",
    "peak_memory_bytes": "peak memory",
}


def end_of_run(
    report: Mapping[str, object],
    *,
    confusion: np.ndarray | None = None,
    class_scores: Sequence[float | None] = (),
    class_names: Sequence[str] = (),
) -> str:
    """Summarizes a finished run on one screen.

    Args:
      report: the content of `report.json`; missing keys are left out of the table.
      confusion: int[K, K] counts, true class by row, predicted class by column; None leaves the
        classes out. Of more than `MAX_CLASSES` classes, the 10 with the lowest accuracy are
        shown.
      class_scores: K fractions of another task's classes, of segmentation the IoU; None for none.
      class_names: K names; empty means 0, 1, 2, ….

    Returns:
      The metrics, and beside them the accuracy by class.

    Example:
      >>> confusion = np.array([[9, 1], [0, 10]])
      >>> print(end_of_run({"test_accuracy": 0.95, "parameters": 54410}, confusion=confusion))
      result           value    class  accuracy  examples  taken for
      -------------  -------    -----  --------  --------  ---------
      test accuracy  95.00 %        0   90.00 %        10  1 (1)
      parameters      54,410        1  100.00 %        10  -
    """
    rows = [
        [_LABELS.get(name, formats.label(name)), formats.value(name, report[name])]
        for name in dict.fromkeys([*_scores(report), *_END_OF_RUN])
        if name in report
    ]
    left = table(rows, ["result", "value"])
    if confusion is not None:
        return text.beside(left, per_class(confusion, class_names))
    if not class_scores:
        return left
    names = class_names or [str(k) for k in range(len(class_scores))]
    pairs = list(zip(names, class_scores, strict=False))[:MAX_CLASSES]
    cells = [[text.cut(name, 16), formats.value("iou", score)] for name, score in pairs]
    return text.beside(left, table(cells, ["class", "score"]))


def _scores(report: Mapping[str, object]) -> list[str]:
    """Returns the names of the test scores of another task than classification."""
    if report.get("task", "classification") == "classification":
        return []
    return [k for k, v in report.items() if k.startswith("test_") and text.is_number(v)]


def per_class(confusion: np.ndarray, class_names: Sequence[str] = ()) -> str:
    """Tabulates the accuracy of every class, or of the 10 worst of many.

    Args:
      confusion: int[K, K] counts, true class by row, predicted class by column.
      class_names: K names; empty means 0, 1, 2, ….

    Returns:
      A table in the order of the classes for K <= `MAX_CLASSES`, else worst first; a class
      without examples has no accuracy and is never among the worst. "taken for" is the most
      frequent wrong class, with its count.

    Raises:
      ValueError: if `confusion` is not square, or there are not K names.

    Example:
      >>> print(per_class(np.array([[9, 1], [0, 0]]), ["cat", "dog"]))
      class  accuracy  examples  taken for
      -----  --------  --------  ---------
      cat     90.00 %        10  dog (1)
      dog           -         0  -
    """
    confusion = np.asarray(confusion)
    num_classes = len(confusion)
    if confusion.shape != (num_classes, num_classes):
        raise ValueError(f"confusion must be int[K, K], got shape {confusion.shape}")
    names = list(class_names) or [str(k) for k in range(num_classes)]
    if len(names) != num_classes:
        raise ValueError(f"confusion has {num_classes} classes, class_names {len(names)}")
    examples, correct = confusion.sum(axis=1), np.diag(confusion)
    mistakes = confusion - np.diag(correct)
    rows = [
        [
            text.cut(names[k], 16),
            correct[k] / examples[k] if examples[k] else None,
            int(examples[k]),
            f"{text.cut(names[mistakes[k].argmax()], 16)} ({mistakes[k].max():,})"
            if mistakes[k].any()
            else "-",
        ]
        for k in range(num_classes)
    ]
    title = ""
    if num_classes > MAX_CLASSES:
        rows = sorted((row for row in rows if row[1] is not None), key=lambda row: row[1])[:10]
        title = f"the {len(rows)} worst of {num_classes} classes"
    return table(rows, ["class", "accuracy", "examples", "taken for"], title=title)


def sweep(
    results: Sequence[tuple[Mapping[str, object], Mapping[str, object]]],
    *,
    best_by: str = "validation_accuracy",
    rising: bool | None = None,
) -> str:
    """Tabulates the runs of a sweep, best first.

    Args:
      results: (settings, metrics) of every run, e.g. `{"optim.learning_rate": 1e-3}` and
        `{"validation_accuracy": 0.98}`; a failed run has fewer metrics, or none.
      best_by: the metric to sort by. Runs without it come last. Never choose by test data.
      rising: whether more of it is better; None: of an accuracy.

    Returns:
      A table with a column per setting and per metric.

    Example:
      >>> runs = [({"optim.learning_rate": rate}, {"validation_accuracy": a})
      ...         for rate, a in ((1e-3, 0.97), (1e-2, 0.98))]
      >>> print(sweep(runs))
      learning rate  validation accuracy
      -------------  -------------------
               0.01              98.00 %
              0.001              97.00 %
    """
    rising = best_by.endswith("accuracy") if rising is None else rising
    sign = -1.0 if rising else 1.0

    def rank(result) -> float:
        score = result[1].get(best_by)
        return math.inf if score is None or math.isnan(score) else sign * float(score)

    results = sorted(results, key=rank)
    keys = list(dict.fromkeys(name for settings, _ in results for name in settings))
    scores = list(dict.fromkeys(name for _, metrics in results for name in metrics))
    short = [name.rsplit(".", 1)[-1] for name in keys]
    heads = [s if short.count(s) == 1 else name for s, name in zip(short, keys, strict=True)]
    rows = [
        [settings.get(name) for name in keys] + [metrics.get(name) for name in scores]
        for settings, metrics in results
    ]
    return table([[_plain(x) for x in row] for row in rows], heads + scores)


def seeds(results: Sequence[Mapping[str, object]]) -> str:
    """Tabulates the runs of several seeds, and their mean ± standard deviation.

    Args:
      results: one mapping per run, with `seed` and metrics by name; keys without a number in the
        first run are left out.

    Returns:
      A table with a row per seed and a last row for all of them.

    Example:
      >>> print(seeds([{"seed": 0, "test_accuracy": 0.98}, {"seed": 1, "test_accuracy": 0.99}]))
      seed         test accuracy
      ----------  --------------
      0                  98.00 %
      1                  99.00 %
      mean (n=2)  98.50 ± 0.71 %
    """
    names = [n for n, x in results[0].items() if n != "seed" and text.is_number(x)]
    rows = [[str(result["seed"]), *(result.get(name) for name in names)] for result in results]
    last: list[object] = [f"mean (n={len(results)})"]
    for name in names:
        mean, std, _ = mean_std([result.get(name) for result in results])
        last.append(_plus_minus(name, mean, std))
    return table([*rows, last], ["seed", *names])


def stages(runs: Sequence[Sequence[Mapping[str, object]]], names: Sequence[str]) -> str:
    """Tabulates the stages of several pipelines, each metric as mean ± standard deviation.

    Args:
      runs: the stages of each run, mappings with `name` and metrics; the same in all runs.
      names: of the metrics to show.

    Example:
      >>> runs = [[{"name": "int8", "difference": d, "ratio": 4.6}] for d in (0.0, -0.001)]
      >>> print(stages(runs, ["difference", "ratio"]))
      mean (n=2)      difference  ratio
      ----------  --------------  -----
      int8        -0.05 ± 0.07 %    4.6
    """
    rows = []
    for each in zip(*runs, strict=True):
        cells = [_plus_minus(n, *mean_std([stage.get(n) for stage in each])[:2]) for n in names]
        rows.append([each[0]["name"], *cells])
    return table(rows, [f"mean (n={len(runs)})", *names])


def mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None, int]:
    """Returns mean, sample standard deviation and count of the values that are numbers.

    std = sqrt(Σ (x - mean)² / (n - 1)), the estimate for all seeds, not only the runs given.

    Args:
      values: numbers; None and NaN are left out.

    Returns:
      Mean (None if n = 0), standard deviation (None if n < 2) and n.

    Example:
      >>> mean_std([1.0, 3.0, None])
      (2.0, 1.4142135623730951, 2)
    """
    x = np.array([x for x in values if x is not None and not math.isnan(x)], np.float64)
    mean = float(x.mean()) if x.size else None
    return mean, float(x.std(ddof=1)) if x.size > 1 else None, x.size


def _plus_minus(name: str, mean: float | None, std: float | None) -> str:
    """Formats mean ± std: two digits of the std, at most four of the mean, the unit once."""
    if mean is None or std is None or std == 0:
        return formats.value(name, mean)
    if name.endswith(formats.FRACTIONS):
        return f"{formats.percent(mean, sign='difference' in name)[:-2]} ± {100 * std:.2f} %"
    digits = min(1 - math.floor(math.log10(std)), 3 - math.floor(math.log10(abs(mean) or std)))
    form = f",.{max(0, digits)}f"
    return f"{mean:{form}} ± {std:{form}}{' s' if 'seconds' in name else ''}"


def _plain(x: object) -> object:
    """Converts a value to a cell that `table` can format."""
    return x if x is None or isinstance(x, int | float | str | np.number) else str(x)
