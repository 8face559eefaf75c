"""Scorecards of models: accuracy, size, work and speed, and one table of several cards.

In: a Model and a dataset. Out: numbers that are counted or measured here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import metrics, tasks
from hcjax.accelerate import compiler
from hcjax.core import brief, files, formats, system, text
from hcjax.data import Dataset, make_prepare
from hcjax.devices import environment
from hcjax.errors import DataError
from hcjax.export.hcz import pack
from hcjax.graph.cost import cost, kernels
from hcjax.graph.model import Model
from hcjax.tasks import Task
from hcjax.train import evaluation

BATCHES = (1, 128)  # images at a time: for the latency, for the throughput


class Scorecard(NamedTuple):
    """A model's accuracy, size, work and speed.

    name: of the stage or file. examples: number of test images. accuracy: on the test set; of
    another task than classification its best score. score: the name of it.
    difference: accuracy minus the baseline's, and difference_error its paired standard error; None
    without a baseline. weights: entries of the kernels of convolutions and dense layers, and of
    tables of embeddings; biases and quantization parameters do not count. nonzeros: weights that
    are not 0. bits_per_weight: 8 · file_bytes / weights of the baseline (of the model itself
    without one). file_bytes: of the whole file. ratio: 4 · weights of the baseline / file_bytes,
    the compression of float32 weights. macs: multiply-accumulates for one image. nonzero_macs: MACs
    with a weight that is not 0; they imply no speed. latency_seconds: of one image.
    images_per_second: at batch 128. device: of both measurements. predictions, labels:
    int32[examples], in the order of the test set.
    """

    name: str
    examples: int
    accuracy: float
    difference: float | None
    difference_error: float | None
    weights: int
    nonzeros: int
    bits_per_weight: float
    file_bytes: int
    ratio: float
    macs: int
    nonzero_macs: int
    latency_seconds: float | None
    images_per_second: float | None
    device: str
    predictions: np.ndarray
    labels: np.ndarray
    score: str = "accuracy"

    __repr__ = brief.record

    @property
    def right(self) -> np.ndarray:
        """bool[examples]: whether the prediction equals the label."""
        return self.predictions == self.labels

    @property
    def error(self) -> float:
        """1 - accuracy."""
        return 1 - self.accuracy


def scorecard(
    model: Model,
    dataset: Dataset,
    *,
    name: str,
    file_bytes: int | None = None,
    baseline: Scorecard | None = None,
    timed: bool = True,
    calls: int = 15,
    batch_size: int = 1000,
    task: Task | str = "classification",
) -> Scorecard:
    """Scores a model on the whole test set, counts its weights and MACs, and measures its speed.

    Args:
      model: float or int8. A fake-quantized model cannot be packed: give its `int8`.
      dataset: the test set to score, with the mean and std that the network was trained with.
      name: for tables and pictures.
      file_bytes: of the model's file; None packs the model.
      baseline: card of the original model, of the same dataset.
      timed: whether to measure speed; `tune` compiles several programs, which takes seconds.
      calls: number of timed calls, >= 1; their median is reported.
      batch_size: of the scoring.
      task: what the network is for, see `hcjax.tasks`, or its name there. Of another task than
        classification `accuracy` is its best score, differences have no error, and there are no
        predictions and labels.

    Returns:
      Scorecard.

    Raises:
      DataError: if the dataset has other images or classes than the model, or if the baseline was
        scored on other examples.
      TypeError: if the model cannot be packed.

    Example:
      >>> import hcjax
      >>> data = hcjax.data.load("mnist", limit=100)
      >>> params = {"kernel": np.eye(784, 10, dtype=np.float32)}
      >>> model = hcjax.trace(lambda p, x: x.reshape(x.shape[0], -1) @ p["kernel"], params,
      ...                     np.zeros((1, 28, 28, 1), np.float32))
      >>> card = scorecard(model, data, name="ten pixels", timed=False)
      >>> card.examples, card.weights, card.nonzeros, card.macs, card.nonzero_macs
      (100, 7840, 10, 7840, 10)
    """

    def apply(params, inputs):
        if model.alone and jnp.issubdtype(model.image_dtype, jnp.floating):
            inputs = inputs.astype(model.image_dtype)
        arguments = tuple(inputs) if len(model.inputs) > 1 else (inputs,)
        return model.apply(params, *arguments)

    task = tasks.get(task)
    _check(model, dataset, task)
    options = {"batch_size": batch_size, "task": task}
    scores = evaluation.evaluate(apply, model.params, dataset, **options)
    accuracy = scores.summary[task.best]
    order = np.argsort(scores.each["index"], kind="stable")
    nothing = np.zeros(len(order), np.int32)
    predictions, labels = (scores.each.get(k, nothing)[order] for k in ("prediction", "label"))
    difference = difference_error = None
    if baseline is not None:
        if not np.array_equal(labels, baseline.labels):
            raise DataError(
                f"{baseline.name} was scored on {baseline.examples:,} other examples than {name}'s "
                f"{len(labels):,}: score both on one dataset"
            )
        difference = accuracy - baseline.accuracy
        if "prediction" in scores.each:
            difference, difference_error = metrics.paired(predictions == labels, baseline.right)
    weights, nonzeros, nonzero_macs = kernels(model)
    original = weights if baseline is None else baseline.weights
    file_bytes = len(pack(model)) if file_bytes is None else file_bytes
    latency = batch = None
    if timed:
        latency, batch = (_seconds(apply, model.params, dataset, n, calls) for n in BATCHES)
    return Scorecard(
        name=name,
        examples=len(labels),
        accuracy=accuracy,
        difference=difference,
        difference_error=difference_error,
        weights=weights,
        nonzeros=nonzeros,
        bits_per_weight=8 * file_bytes / max(original, 1),
        file_bytes=file_bytes,
        ratio=4 * original / file_bytes,
        macs=cost(model).macs,
        nonzero_macs=nonzero_macs,
        latency_seconds=latency,
        images_per_second=BATCHES[1] / batch if batch else None,
        device=f"{environment.device()}, {system.threads()} threads",
        predictions=predictions,
        labels=labels,
        score=task.best,
    )


def as_json(cards: Sequence[Scorecard | Mapping]) -> list[dict[str, Any]]:
    """Converts cards to dicts for JSON, without predictions and labels.

    Args:
      cards: from `scorecard`; dicts of an earlier call are returned as they are.
    """
    left_out = ("predictions", "labels")
    return [
        dict(card)
        if isinstance(card, Mapping)
        else {k: files.jsonable(v) for k, v in card._asdict().items() if k not in left_out}
        for card in cards
    ]


def table(cards: Sequence[Scorecard | Mapping], *, what: str = "stage") -> str:
    """Tabulates cards, the baseline first; empty columns are left out.

    Args:
      cards: from `scorecard`, or from `as_json` with an optional "validation_accuracy", and
        "dead" where a network is as good as guessing.
      what: head of the first column, e.g. "file".

    Example:
      >>> card = dict(name="int8", examples=100, accuracy=0.99, difference=-0.01,
      ...             difference_error=0.01, weights=8000, nonzeros=800, bits_per_weight=1.5,
      ...             file_bytes=1500, ratio=21.3, macs=8000, nonzero_macs=800,
      ...             latency_seconds=None, images_per_second=None, device="1 x cpu (cpu)")
      >>> print(table([card]))
      stage  accuracy  difference      non-zeros  bits/weight  file bytes  ratio   MACs
      -----  --------  --------------  ---------  -----------  ----------  -----  -----
      int8    99.00 %  -1.00 ± 1.00 %        800         1.50       1,500  21.3×  8,000
    """
    rows = as_json(cards)
    scores = {row.get("score", "accuracy") for row in rows}
    head = formats.label(scores.pop()) if len(scores) == 1 else "score"
    latency = "CPU latency" if all(" cpu " in row["device"] for row in rows) else "latency"
    columns = {
        what: lambda r: f"{r['name']} (dead)" if r.get("dead") else r["name"],
        head: lambda r: formats.value(r.get("score", "accuracy"), r["accuracy"]),
        "validation": _validation,
        "difference": _difference,
        "non-zeros": lambda r: f"{r['nonzeros']:,}",
        "bits/weight": lambda r: f"{r['bits_per_weight']:.2f}",
        "file bytes": lambda r: f"{r['file_bytes']:,}",
        "ratio": lambda r: f"{r['ratio']:,.1f}×",
        "MACs": lambda r: f"{r['macs']:,}",
        latency: lambda r: _format(r["latency_seconds"], "{:.3g} ms", 1e3),
        "images/s": lambda r: _format(r["images_per_second"], "{:,.0f}"),
    }
    cells = {head: [cell(row) for row in rows] for head, cell in columns.items()}
    filled = {head: column for head, column in cells.items() if any(c is not None for c in column)}
    return text.table(list(zip(*filled.values(), strict=True)), list(filled))


def _validation(row: Mapping) -> str | None:
    value = row.get("validation_accuracy")
    return None if value is None else formats.value(row.get("score", "accuracy"), value)


def _difference(row: Mapping) -> str | None:
    d, error = row["difference"], row["difference_error"]
    if d is None:
        return None
    if not row.get("score", "accuracy").endswith(formats.FRACTIONS):
        return f"{d:+.4g}"
    return f"{100 * d:+.2f} %" if error is None else f"{100 * d:+.2f} ± {100 * error:.2f} %"


def _format(number: float | None, form: str, unit: float = 1) -> str | None:
    return None if number is None else form.format(unit * number)


def _check(model: Model, dataset: Dataset, task: Task) -> None:
    """Raises DataError unless a model and a dataset have the same image shape and classes."""
    if dataset.form == "arrays":
        return  # the network checks its inputs itself
    if dataset.image_shape != model.image_shape:
        raise DataError(
            f"the network takes images {list(model.image_shape)}, {dataset.name} has "
            f"{list(dataset.image_shape)}: name its own data"
        )
    if task is tasks.classification and model.classes != dataset.num_classes:
        raise DataError(
            f"the network tells {model.classes} classes apart, {dataset.name} has "
            f"{dataset.num_classes}: name its own data"
        )


def _seconds(apply: Any, params: Any, dataset: Dataset, count: int, calls: int) -> float:
    """Measures the median time of one call with `count` test images."""
    index = np.arange(count) % dataset.test.size
    prepare = make_prepare(mean=dataset.mean, std=dataset.std, num_classes=dataset.num_classes)
    inputs, labels = (jax.tree.map(lambda x: x[index], tree) for tree in dataset.test)
    inputs = prepare({"inputs": inputs, "labels": labels}, None)["inputs"]
    run = compiler.tune(lambda inputs: apply(params, inputs), inputs)
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        jax.block_until_ready(run(inputs))
        times.append(time.perf_counter() - started)
    return statistics.median(times)
