"""Saved models scored on data: what `verify` and `compare` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from hcjax import data
from hcjax.app import score
from hcjax.app.setup import start_platform
from hcjax.config import configfile
from hcjax.config.reader import to_dict
from hcjax.config.recipe import data_of, platform_of
from hcjax.core import files, registry
from hcjax.devices import platform
from hcjax.errors import ArtifactError, ConfigError, DataError, HcjaxError
from hcjax.graph.model import Model
from hcjax.prove import cards

MNIST = (28, 28, 1)  # shape of an image for which mnist is taken where nothing names the data


def define(values: flags.FlagValues) -> None:
    """Adds the flags that scoring any saved model has."""

    def string(name, text):
        flags.DEFINE_string(name, None, text, flag_values=values)

    string("config", "Config file whose section `data` is scored on.")
    string("json", "File that the numbers are written to.")
    text = "Measure latency and images/s; --notimed is quicker."
    flags.DEFINE_bool("timed", True, text, flag_values=values)


def problem(path: Path, name: str, error: HcjaxError) -> dict[str, str]:
    """Returns the row of a file that cannot be scored, as JSON would hold it.

    Args:
      path, name: of the file. error: why.
    """
    text = str(error) if str(path) in str(error) else f"{path}: {error}"
    return {"file": str(path), "name": name, "problem": text}


def start(values, arguments: Sequence[str], changes: score.Changes) -> Any:
    """Returns the config of the flags, None without one, after choosing where to compute.

    Args:
      values: flags.
      arguments: paths; there must be some.
      changes: (key, value as text).

    Raises:
      CheckpointError: if a file that a flag names cannot be written: now, not after the scoring.
    """
    if not arguments:
        raise ConfigError("name a .hcz file or a workdir (see --help)")
    for name in ("json", "plot"):
        if name in values and values[name].value:
            files.check_writable(values[name].value)
    config = configfile.load(values.config) if values.config else None
    where = score.chosen(_own({}, config), config, changes, "scoring a saved model")
    cache, _ = start_platform(platform_of(where))
    print("\n".join(platform.describe(cache)))
    return config


def dataset_of(path: Path, model: Model, config: Any, changes: score.Changes) -> data.Dataset:
    """Returns the dataset that a saved model is scored on.

    Args:
      path: of the model, for messages.
      model: of `saved.load_any`.
      config: whose section `data` goes before the model's own; None: that.
      changes: (key, value as text) of its keys.

    Raises:
      ConfigError: if nothing says which data, or it cannot be loaded as it is said.
    """
    about = model.about
    said = config is not None or any(key == "data.source" for key, _ in changes)
    if not model.alone:
        raise DataError(
            f"{path} takes several inputs, and data here has one: score it by hcjax.cards"
        )
    if not said and not about.get("data"):
        if model.image_shape != MNIST:
            raise ConfigError(
                f"{path} does not say what data it was trained on; say it: --config=configs/NAME.py"
                " or --config.data.source=NAME"
            )
        print(f"{path} does not say what data it was trained on: mnist is taken")
    try:
        values = score.chosen(_own(about, config), config, changes, f"scoring {path}")
        known = about.get("inputs")
        return score.data_for(data_of(values), str(path), model.image_shape, about=known)
    except (TypeError, ValueError, MemoryError) as error:  # a file may say anything of its data
        if isinstance(error, HcjaxError):
            raise
        raise ConfigError(f"{path}: the data it names cannot be loaded: {error}") from error


def card_of(path: Path, model: Model, dataset: data.Dataset, **about: Any) -> cards.Scorecard:
    """Returns the card of a saved model, scored on images normalised as in its training.

    Args:
      path: of the model; a file's own length is its size.
      model: of `saved.load_any`.
      dataset: of `dataset_of`.
      **about: further arguments of `cards.scorecard`.

    Raises:
      DataError: if the dataset's images or classes are not the model's.
      ArtifactError: if the model cannot be applied to them.
    """
    dataset = score.normalised(
        dataset,
        str(path),
        image_shape=model.image_shape,
        class_names=model.about.get("class_names"),
        mean=model.about.get("mean"),
        std=model.about.get("std"),
    )
    size = path.stat().st_size if path.is_file() else None
    about["task"] = model.about.get("task", "classification")
    try:
        return cards.scorecard(model, dataset, file_bytes=size, **about)
    except HcjaxError:
        raise
    except Exception as error:  # a file may compute anything, of any size
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        raise ArtifactError(f"{path} cannot be applied to images: {reason}") from error


def _own(about: dict, config: Any) -> dict:
    """Returns what a run's config says of its data, from what a file, or a config, says of it."""
    plain = {} if config is None else to_dict(config)
    where = {"platform": "", "deterministic": False, "cache_dir": "", "seed": 0}
    where |= {key: plain[key] for key in where if key in plain}
    keys = dict.fromkeys(["source", "threads", *registry.legal(data.load)])
    section = keys | {"source": "mnist", "threads": 0} | about.get("data", {})
    del section["seed"]
    return where | {"seed": about.get("seed", where["seed"]), "data": section}
