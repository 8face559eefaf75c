"""Trained workdirs at work: score one on any data source, label image files, describe data.

In: a workdir that a run wrote. Out: a table, or one line per image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hcjax import config as configs
from hcjax import data, recipe
from hcjax import workdir as workdirs
from hcjax.errors import ConfigError, DataError
from hcjax.reports import report, tables
from hcjax.training import evaluate as evaluation
from hcjax.training import platform

BATCH = 1000  # images at a time


def evaluate(workdir: str, config: Any = None) -> int:
    """Prints how a trained workdir does on test data, and writes it to WORKDIR/eval-SOURCE.json.

    Args:
      workdir: of a finished run.
      config: its section `data` says on what; None for the data the run was trained on.

    Raises:
      DataError: if the class names or the image shape are not those of the training.
    """
    trained = workdirs.load(workdir)
    reader = configs.Reader(config if config is not None else trained.config)
    cache, _ = recipe.start_platform(reader)
    print("\n".join(platform.describe(cache)))
    dataset, _ = recipe.dataset_of(reader, reader.get("seed"))
    if dataset.class_names != trained.class_names:
        raise DataError(
            f"{workdir} was trained on the classes {_short(trained.class_names)}, the data has "
            f"{_short(dataset.class_names)}; their names and order must be the same"
        )
    if dataset.image_shape != trained.image_shape:
        raise DataError(
            f"{workdir} takes images {list(trained.image_shape)}, the data has "
            f"{list(dataset.image_shape)}; see config.data.image_size and config.data.channels"
        )
    if not len(dataset.test.labels):
        raise DataError(f"{dataset.name} has no test examples")
    dataset = dataclasses.replace(dataset, mean=trained.mean, std=trained.std)
    scored = evaluation.evaluate(
        trained.apply, trained.params, dataset, state=trained.state, batch_size=BATCH
    )
    summary = scored.summary
    result = {
        "data": dataset.name,
        "test_accuracy": summary["accuracy"],
        "test_error": summary["error"],
        "test_examples": summary["examples"],
        "nll": summary["nll"],
        "ece": summary["ece"],
    }
    source = reader.section("data").get("source")
    path = report.write_json(Path(workdir) / f"eval-{source}-{dataset.name}.json", result)
    confusion = scored.sums["confusion"]
    print(tables.end_of_run(result, confusion=confusion, class_names=dataset.class_names))
    print(f"in {path}")
    return 0


def predict(workdir: str, files: Sequence[str]) -> int:
    """Prints file, class and probability for each image file.

    Args:
      workdir: of a finished run.
      files: png or jpeg; each is converted to the network's size and channels.
    """
    if not files:
        raise ConfigError("--predict=WORKDIR needs image files as arguments")
    trained = workdirs.load(workdir)
    recipe.start_platform(configs.Reader(trained.config))
    height, width, channels = trained.image_shape
    for i in range(0, len(files), BATCH):
        names = files[i : i + BATCH]
        images = [data.read_image(f, image_size=(height, width), channels=channels) for f in names]
        logits = np.asarray(trained(np.stack(images)), np.float64)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        for name, row in zip(names, p, strict=True):
            print(f"{name}\t{trained.class_names[row.argmax()]}\t{row.max():.4f}")
    return 0


def report_data(config: Any) -> int:
    """Prints the data report of a config."""
    reader = configs.Reader(config)
    recipe.start_platform(reader)
    dataset, _ = recipe.dataset_of(reader, reader.get("seed"))
    print(data.text(data.report(dataset)))
    return 0


def _short(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''} ({len(names)})"
