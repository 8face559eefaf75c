"""The end of a run: its report as numbers, as a table and as pictures.

In: what was trained and how it scored. Out: a dict for report.json, text, and PNG files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax import data, tasks, trees
from hcjax.core import system
from hcjax.data.dataset import take
from hcjax.devices import environment, memory
from hcjax.prove import cards
from hcjax.report import canvas, curves, plots, tables, writers
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
    task = scored.task
    early = config["train"]["patience"] is not None  # then the best validation's parameters
    validated = fitted.best_step if early else fitted.step
    validation = [x for x in fitted.history if x["step"] == validated and task.best in x][-1:]
    return {
        "config": config,
        "seed": config["seed"],
        **scores(scored),
        "class_names": list(class_names),
        "validation": {k: validation[0][k] for k in task.shown if k in validation[0]}
        if validation
        else None,
        f"validation_{task.best}": validation[0][task.best] if validation else None,
        "parameters": trees.num_parameters(fitted.params),
        "weight_bytes": trees.size_bytes(fitted.params),
        "steps": fitted.step,
        "stopped": fitted.stopped,
        "best_step": fitted.best_step if early else None,
        "train_seconds": fitted.train_seconds,
        "seconds_to_first_step": fitted.seconds_to_first_step,
        "images_per_second": fitted.images_per_second,
        "peak_memory_bytes": memory.peak_memory_bytes(),
        "params_sha256": trees.sha256(fitted.params),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "device": f"{environment.device()}, {system.threads()} threads",
    }


def scores(scored: evaluation.Evaluation) -> dict:
    """Returns the scores of a test part, by their names in a report.

    Of classification "nll" and "ece" have no prefix; every other score has "test_".
    """
    summary, confusion = dict(scored.summary), scored.sums.get("confusion")
    bare = ("per_class", *(("nll", "ece") if scored.task is tasks.classification else ()))
    found = {name if name in bare else f"test_{name}": x for name, x in summary.items()}
    found["task"] = scored.task.name
    found["confusion"] = None if confusion is None else confusion.tolist()
    return found


def table(result: dict) -> str:
    """Returns the report of a finished run for people."""
    if "stages" in result:
        return cards.table(result["stages"])
    confusion, names = result.get("confusion"), result.get("class_names")
    if result.get("task", "classification") != "classification":
        scores = result.get("per_class") or ()
        return tables.end_of_run(result, class_scores=scores, class_names=names)
    if not confusion or not names:
        return tables.end_of_run(result)
    return tables.end_of_run(result, confusion=np.asarray(confusion), class_names=names)


def draw(
    workdir: Path,
    dataset: data.Dataset,
    apply: Callable,
    fitted: loop.Fit,
    scored: evaluation.Evaluation,
    worst: dict,
) -> list[str]:
    """Writes the pictures of a finished run as PNG files into its workdir.

    Args:
      workdir: of the run. dataset, apply: that the network was trained on, and itself.
      fitted, scored: what it has come to. worst: of `mistakes.worst`.

    Returns:
      Names of the files, without ".png".
    """
    task = scored.task
    names, test, drawn = dataset.class_names, dataset.test, []

    def save(figure: Any, name: str) -> None:
        canvas.save(figure, workdir / f"{name}.png")
        drawn.append(name)

    keys = {"loss": task.mean_loss, "score": task.main}
    save(curves.draw_learning_curves(writers.read_metrics(workdir), **keys), "curves")
    if "confusion" in scored.sums:
        save(plots.draw_confusion_matrix(scored.sums["confusion"], class_names=names), "confusion")
    if "prediction" in worst and dataset.form != "arrays":
        images = np.asarray(test.images[worst["index"]])
        columns = [worst[name] for name in ("label", "prediction", "confidence")]
        save(plots.draw_worst_mistakes(images, *columns, class_names=names), "mistakes")
    elif task.pictures is not None and len(worst["index"]):
        shown = _shown(dataset, apply, fitted, task, worst["index"])
        for name, figure in task.pictures(shown).items():
            save(figure, name)
    if dataset.form != "arrays":
        height, width, channels = dataset.image_shape
        pixels = height * width * channels
        shapes = {4: lambda k: k.shape[2] == channels, 2: lambda k: k.shape[0] == pixels}
        kernels = [np.asarray(x) for _, x in trees.paths(fitted.params) if np.ndim(x) in shapes]
        if first := [k for k in kernels if shapes[k.ndim](k)]:
            save(plots.draw_filters(first[0], input_shape=dataset.image_shape), "filters")
    return drawn


def _shown(
    dataset: data.Dataset, apply: Callable, fitted: loop.Fit, task: tasks.Task, index: np.ndarray
) -> tasks.Shown:
    """Returns test examples, and what a trained network says of them."""
    some = take(dataset.test, index)
    facts = {"mean": dataset.mean, "std": dataset.std, "num_classes": dataset.num_classes}
    batch = data.make_prepare(**facts)({"inputs": some.inputs, "labels": some.targets}, None)
    outputs, _ = apply(fitted.params, fitted.state, batch["inputs"], train=False, key=None)
    predictions = jax.tree.map(np.asarray, task.predict(outputs))
    return tasks.Shown(some.inputs, some.targets, predictions, dataset.class_names)
