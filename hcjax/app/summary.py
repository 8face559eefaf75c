"""The end of a run: its report as numbers, as a table and as pictures.

In: what was trained and how it scored. Out: a dict for report.json, text, and PNG files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hcjax import data, trees
from hcjax.core import system
from hcjax.devices import environment, platform
from hcjax.prove import cards
from hcjax.report import curves, plots, tables, writers
from hcjax.train import evaluation, loop


def start_seconds(started: float, marks: dict[str, float], total: float) -> dict[str, float]:
    """Returns what the time to the first step is made of, in seconds.

    Args:
      started: when the process started.
      marks: when each part ended, in order, on the same clock.
      total: seconds to the end of the first step; the last part is what is left.

    Example:
      >>> start_seconds(1.0, {"imports": 3.0, "data": 3.5}, 4.0)
      {'imports': 2.0, 'data': 0.5, 'first step': 1.5}
    """
    ends = [started, *marks.values()]
    parts = {name: end - begin for name, begin, end in zip(marks, ends, ends[1:], strict=False)}
    return parts | {"first step": started + total - ends[-1]}


def summarize(
    config: dict, fitted: loop.Fit, scored: evaluation.Evaluation, class_names: tuple[str, ...]
) -> dict:
    """Returns the report of a finished run."""
    score = scored.summary
    early = config["train"]["patience"] is not None  # then the best validation's parameters
    validated = fitted.best_step if early else fitted.step
    validation = [x for x in fitted.history if x["step"] == validated and "accuracy" in x]
    return {
        "config": config,
        "seed": config["seed"],
        "test_accuracy": score["accuracy"],
        "test_error": score["error"],
        "test_examples": score["examples"],
        "nll": score["nll"],
        "ece": score["ece"],
        "per_class": score["per_class"],
        "confusion": scored.sums["confusion"].tolist(),
        "class_names": list(class_names),
        "validation": {k: validation[-1][k] for k in ("nll", "accuracy", "ece")}
        if validation
        else None,
        "validation_accuracy": validation[-1]["accuracy"] if validation else None,
        "parameters": trees.num_parameters(fitted.params),
        "weight_bytes": trees.size_bytes(fitted.params),
        "steps": fitted.step,
        "stopped": fitted.stopped,
        "best_step": fitted.best_step if early else None,
        "train_seconds": fitted.train_seconds,
        "seconds_to_first_step": fitted.seconds_to_first_step,
        "images_per_second": fitted.images_per_second,
        "peak_memory_bytes": platform.peak_memory_bytes(),
        "params_sha256": trees.sha256(fitted.params),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "device": f"{environment.device()}, {system.threads()} threads",
    }


def table(result: dict) -> str:
    """Returns the report of a finished run for people."""
    if "stages" in result:
        return cards.table(result["stages"])
    confusion, names = result.get("confusion"), result.get("class_names")
    if not confusion or not names:
        return tables.end_of_run(result)
    return tables.end_of_run(result, confusion=np.asarray(confusion), class_names=names)


def draw(
    workdir: Path, dataset: data.Dataset, params: Any, confusion: np.ndarray, worst: dict
) -> None:
    """Writes the pictures of a finished run as PNG files into its workdir."""
    names, test = dataset.class_names, dataset.test
    curves.learning_curves(workdir / "curves.png", writers.read_metrics(workdir))
    plots.confusion_matrix(workdir / "confusion.png", confusion, class_names=names)
    plots.worst_mistakes(
        workdir / "mistakes.png",
        np.asarray(test.images[worst["index"]]),
        worst["label"],
        worst["prediction"],
        worst["confidence"],
        class_names=names,
    )
    height, width, channels = dataset.image_shape
    pixels = height * width * channels
    shapes = {4: lambda k: k.shape[2] == channels, 2: lambda k: k.shape[0] == pixels}
    kernels = [np.asarray(leaf) for _, leaf in trees.paths(params) if np.ndim(leaf) in shapes]
    if first := [k for k in kernels if shapes[k.ndim](k)]:
        plots.filters(workdir / "filters.png", first[0], input_shape=dataset.image_shape)
