"""Scorecards of models: accuracy, size, work and speed, and one table of several cards.

In: a Model and a dataset. Out: numbers that are counted or measured here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax import metrics
from hcjax.accelerate import compiler
from hcjax.core import brief, files, system, text
from hcjax.data import Dataset, make_prepare
from hcjax.devices import environment
from hcjax.errors import DataError
from hcjax.export.hcz import pack
from hcjax.graph.cost import cost, kernels
from hcjax.graph.model import Model
from hcjax.train import evaluation

BATCHES = (1, 128)  # images at a time: for the latency, for the throughput


class Scorecard(NamedTuple):
    """A model's accuracy, size, work and speed.

    name: of the stage or file. examples: number of test images. accuracy: on the test set.
    difference: accuracy minus the baseline's, and difference_error its paired standard error; None
    without a baseline. weights: entries of the kernels of convolutions and dense layers; biases
    and quantization parameters do not count. nonzeros: weights that are not 0.
    bits_per_weight: 8 · file_bytes / weights of the baseline (of the model itself without one).
    file_bytes: of the whole file. ratio: 4 · weights of the baseline / file_bytes, the compression
    of float32 weights. macs: multiply-accumulates for one image. nonzero_macs: MACs with a weight
    that is not 0; they imply no speed. latency_seconds: of one image. images_per_second: at batch
    128. device: of both measurements. predictions, labels: int32[examples], in the order of the
    test set.
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

    def apply(params, images):
        return model.apply(params, images.astype(model.image_dtype))

    _check(model, apply, dataset)
    scores = evaluation.evaluate(apply, model.params, dataset, batch_size=batch_size)
    order = np.argsort(scores.each["index"], kind="stable")
    predictions, labels = scores.each["prediction"][order], scores.each["label"][order]
    difference = difference_error = None
    if baseline is not None:
        if not np.array_equal(labels, baseline.labels):
            raise DataError(
                f"{baseline.name} was scored on {baseline.examples:,} other examples than {name}'s "
                f"{len(labels):,}: score both on one dataset"
            )
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
        accuracy=scores.summary["accuracy"],
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
    latency = "CPU latency" if all(" cpu " in row["device"] for row in rows) else "latency"
    columns = {
        what: lambda r: f"{r['name']} (dead)" if r.get("dead") else r["name"],
        "accuracy": lambda r: r["accuracy"],
        "validation": lambda r: _format(r.get("validation_accuracy"), "{:.2f} %", 100),
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


def _difference(row: Mapping) -> str | None:
    d, error = row["difference"], row["difference_error"]
    if d is None:
        return None
    return f"{100 * d:+.2f} %" if error is None else f"{100 * d:+.2f} ± {100 * error:.2f} %"


def _format(number: float | None, form: str, unit: float = 1) -> str | None:
    return None if number is None else form.format(unit * number)


def _check(model: Model, apply: Any, dataset: Dataset) -> None:
    """Raises DataError unless a model and a dataset have the same image shape and classes."""
    if dataset.image_shape != model.image_shape:
        raise DataError(
            f"the network takes images {list(model.image_shape)}, {dataset.name} has "
            f"{list(dataset.image_shape)}: name its own data"
        )
    one = jax.ShapeDtypeStruct((1, *model.image_shape), np.float32)
    logits = jax.eval_shape(apply, model.params, one)
    if logits.shape[1] != dataset.num_classes:
        raise DataError(
            f"the network tells {logits.shape[1]} classes apart, {dataset.name} has "
            f"{dataset.num_classes}: name its own data"
        )


def _seconds(apply: Any, params: Any, dataset: Dataset, count: int, calls: int) -> float:
    """Measures the median time of one call with `count` test images."""
    test = dataset.test
    index = np.arange(count) % len(test.labels)
    prepare = make_prepare(mean=dataset.mean, std=dataset.std, num_classes=dataset.num_classes)
    images = prepare({"image": test.images[index], "label": test.labels[index]}, None)["image"]
    run = compiler.tune(lambda images: apply(params, images), images)
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        jax.block_until_ready(run(images))
        times.append(time.perf_counter() - started)
    return statistics.median(times)
