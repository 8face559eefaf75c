"""Trained workdirs scored on any data source, and data described.

In: a workdir that a run wrote, or a config. Out: a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FieldReference

from hcjax import data
from hcjax.app import setup, summary
from hcjax.app.setup import start_platform
from hcjax.config import configfile
from hcjax.config.reader import PRACTICAL, to_dict
from hcjax.config.recipe import Data, data_of, platform_of
from hcjax.core.files import write_json
from hcjax.data.images import size_pair
from hcjax.devices import platform
from hcjax.errors import CheckpointError, ConfigError, DataError
from hcjax.runs import saved
from hcjax.runs.workdir import CHECKPOINTS, Trained, load
from hcjax.train import evaluation

BATCH = 1000  # images at a time
# types of keys of the section `data` that a run's own config may not show, being None there
KINDS = {"name": str, "path": str, "channels": int, "limit": int}
RUN_KEYS = ("platform", "deterministic", "cache_dir")
Changes = Sequence[tuple[str, str]]


def evaluate(workdir: str, config: Any = None, *, changes: Changes = ()) -> int:
    """Prints how a trained workdir does on test data, and writes it to WORKDIR/eval-SOURCE.json.

    Args:
      workdir: of a finished run.
      config: its section `data` says on what; None for the data the run was trained on.
      changes: (key, value as text) of the command line: keys of the section `data`, `platform`
        and `cache_dir`. Without a config they change the run's own; naming a source then forgets
        what belonged to the run's.

    Raises:
      DataError: if the class names are not those of the training.
      ConfigError: if a change is of a key that evaluation does not read.

    Note:
      Images are fitted to the size that the network takes, unless `data.image_size` says
      otherwise, and normalised as in training. A source without a test part is split as in
      training: by the run's seed, and `data.test` says how much is scored.
    """
    trained = _trained(workdir)
    values = chosen(trained.config, config, changes, f"--eval={workdir}")
    cache, _ = start_platform(platform_of(values))
    print("\n".join(platform.describe(cache)))
    source = data_of(values)
    shape, known = trained.example.shape[1:], trained.facts.get("about")
    dataset = normalised(
        data_for(source, workdir, shape, about=known),
        workdir,
        image_shape=shape,
        class_names=trained.class_names,
        mean=trained.mean,
        std=trained.std,
    )
    scored = evaluation.evaluate(
        trained.apply,
        trained.params,
        dataset,
        state=trained.state,
        batch_size=BATCH,
        task=trained.config.get("task", "classification"),
    )
    result = {"data": dataset.name, **summary.scores(scored)}
    name = f"eval-{source.source}-{dataset.name}.json"
    path = write_json(Path(workdir).expanduser() / name.replace("/", "-"), result)
    print(summary.table(result | {"class_names": dataset.class_names}))
    print(f"in {path}")
    return 0


def chosen(own: dict, config: Any, changes: Changes, what: str) -> ConfigDict:
    """Returns the keys of a run's config that say where its network is scored, and on what.

    Args:
      own: of the run: its section `data`, `seed`, `platform`, `deterministic` and `cache_dir`.
      config: its section `data` takes the place of the run's own; None: it stays.
      changes: (key, value as text), see `evaluate`.
      what: asks for it, for messages.

    Raises:
      ConfigError: if a change is of a key that nothing reads here, or a value has the wrong type.
    """
    values = ConfigDict(own)
    if config is not None:
        values.data = ConfigDict(to_dict(config)["data"])
    elif any(key == "data.source" for key, _ in changes):
        unchanged = (*PRACTICAL, "data.source", "data.validation")
        values.data.update({k: None for k in values.data if f"data.{k}" not in unchanged})
    for key, value in values.data.items():
        kind = KINDS.get(key, type(value) if isinstance(value, str) else object)
        try:
            values.data[key] = FieldReference(value, field_type=kind)
        except TypeError as error:  # a file may say anything
            raise ConfigError(
                f"{what}: config.data.{key} must be {kind.__name__}, got {value!r}"
            ) from error
    change(values, changes, what, ("data.", *RUN_KEYS))
    values.data.validation = 0  # it only takes training examples away
    return values


def data_for(
    source: Data, what: str, image_shape: Sequence[int], *, about: dict | None = None
) -> data.Dataset:
    """Loads the dataset that a network is scored on, its images fitted to the network's.

    Args:
      source: what `chosen` says.
      what: is scored, for messages.
      image_shape: (H, W, C) that the network takes, or the shape of its other input.
      about: of the training, for other inputs, see `data.load`.

    Raises:
      DataError: if `source` asks for other images: before they take memory, of whatever size.
    """
    if source.source in data.OTHERS:
        options = source.options | ({"about": about} if about else {})
        return setup.load(source._replace(options=options))
    if len(image_shape) != 3:
        raise DataError(f"{what} takes {list(image_shape)}, which is no image [H, W, C]")
    height, width, channels = image_shape
    fitted = {"image_size": (height, width)}
    if channels in (1, 3):
        fitted["channels"] = channels
    options = fitted | source.options
    shape = (*size_pair(options["image_size"]), options.get("channels") or channels)
    _check_images(what, image_shape, shape)
    return setup.load(source._replace(options=options))


def normalised(
    dataset: data.Dataset,
    what: str,
    *,
    image_shape: Sequence[int],
    class_names: Sequence[str] | None,
    mean: Any,
    std: Any,
) -> data.Dataset:
    """Returns a dataset with the normalisation of a network's training, once it is fit for it.

    Args:
      dataset: that it is scored on.
      what: is scored, for messages.
      image_shape: (H, W, C) that it takes.
      class_names: of its training; None: not known.
      mean, std: float32[C], where a pixel is 0..1; None: those of the dataset's training part.

    Raises:
      DataError: if the dataset has other classes or images, or no test examples.
    """
    if class_names is not None and dataset.class_names != tuple(class_names):
        raise DataError(
            f"{what} was trained on the classes {_short(class_names)}, the data has "
            f"{_short(dataset.class_names)}; their names and order must be the same"
        )
    _check_images(what, image_shape, dataset.input_shape)
    if not dataset.test.size:
        raise DataError(f"{dataset.name} has no test examples")
    own = {"mean": mean, "std": std}
    given = {k: np.asarray(v, np.float32) for k, v in own.items() if v is not None}
    return dataclasses.replace(dataset, **given)


def _check_images(what: str, takes: Sequence[int], shape: Sequence[int]) -> None:
    """Raises DataError unless images are of the shape that a network takes."""
    if tuple(shape) != tuple(takes):
        if len(takes) != 3:
            raise DataError(f"{what} takes {list(takes)}, the data has {list(shape)}")
        raise DataError(
            f"{what} takes images {list(takes)}, the data has {list(shape)}; see "
            "config.data.image_size and config.data.channels"
        )


def report_data(config: Any) -> int:
    """Prints the data report of a config."""
    config.data.memory_limit_bytes = 0  # a streamed image that cannot be read is listed, not fatal
    start_platform(platform_of(config))
    print(data.text(data.report(setup.load(data_of(config)))))
    return 0


def _trained(workdir: str) -> Trained:
    """Returns the trained network of a workdir; packed ones are another command's."""
    path = Path(workdir).expanduser()
    run = (path / CHECKPOINTS).is_dir()
    if path.suffix == saved.SUFFIX or (any(path.glob(f"*{saved.SUFFIX}")) and not run):
        raise CheckpointError(
            f"{workdir} holds no run but packed networks: `hcjax verify {workdir}` scores them "
            "(or python -m hcjax.verify), and --predict labels images with one"
        )
    return load(workdir)


def change(values: ConfigDict, changes: Changes, what: str, readable: Sequence[str]) -> None:
    """Changes keys of a config, in place, of which only some are read here.

    Args:
      values: the config. changes: (key, value as text). what: asks for it, for messages.
      readable: beginnings of the keys that are read.

    Raises:
      ConfigError: if a change is of another key, or a value has the wrong type.
    """
    for key, text in changes:
        if not key.startswith(tuple(readable)):
            raise ConfigError(f"{what} takes everything else from its run; config.{key} has no use")
        configfile.override(values, key, text)


def _short(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''} ({len(names)})"
