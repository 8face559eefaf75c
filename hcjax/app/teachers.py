"""Who teaches in a pipeline: the network that its stages begin with, and others beside it.

In: a config. Out: Models, and what `fit` takes to be taught by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from hcjax import distill
from hcjax.app import recipe
from hcjax.app.stages import sections
from hcjax.config import configfile
from hcjax.config.reader import Reader, to_dict
from hcjax.core import registry
from hcjax.data import Dataset, order
from hcjax.errors import ConfigError
from hcjax.export.hcz import pack
from hcjax.graph.model import Model
from hcjax.runs.saved import about_of, load_any

# of a pipeline's config, taken over by the config of its teacher: several seeds are several
# teachers, and the machine is the same
_SHARED = ("seed", "platform", "deterministic", "accelerate", "cache_dir")


class Teaching(NamedTuple):
    """How a pipeline's trainings are taught.

    loss: how the teachers' logits teach, see `distill.taught`. weight: of that in the loss.
    temperature: theirs. beside: paths of the networks
    that teach beside the first. logits: folder that keeps the teachers' logits; None keeps none.
    """

    loss: str
    weight: float
    temperature: float
    beside: tuple[str, ...]
    logits: Path | None


def teaching(reader: Reader) -> Teaching:
    """Returns what the section `distill` says of every stage; what is left is its own stage's."""
    section = reader.section("distill")
    loss = section.get("loss")
    registry.choose("distill.loss", distill.TEACH, loss)
    weight, temperature, others = (section.get(k) for k in ("weight", "temperature", "beside"))
    recipe.check("distill.weight", weight, 0 <= weight <= 1, "in [0, 1]")
    recipe.check("distill.temperature", temperature, temperature > 0, "> 0")
    paths = isinstance(others, list) and all(isinstance(p, str) and p for p in others)
    recipe.check("distill.beside", others, paths, "a tuple of workdirs and .hcz files, ('a.hcz',)")
    folder = section.get("logits")
    folder = Path(folder).expanduser() if folder else None
    return Teaching(loss, weight, temperature, tuple(others), folder)


def training_of(config: dict) -> dict | None:
    """Returns the config of the training that comes before the stages of a pipeline.

    Args:
      config: of the pipeline, as nested dicts.

    Returns:
      Nested dicts, without stages; None if the config names a network that is trained already.

    Raises:
      ConfigError: if a config file that it names has stages or a teacher.
    """
    teacher = config["teacher"]
    if teacher and not teacher.endswith(".py"):
        return None
    return _without_stages(_following(teacher, config) if teacher else config)


def beside(paths: Sequence[str], dataset: Dataset) -> dict[str, Model]:
    """Returns the networks that teach beside the first, by path.

    Args:
      paths: workdirs or `.hcz` files.
      dataset: of the pipeline.

    Raises:
      ConfigError: if one of them is of other classes or images than the dataset.
    """
    return {path: loaded("distill.beside", path, dataset) for path in paths}


def together(start: Model, others: Mapping[str, Model]) -> list[Model]:
    """Returns the network that the stages begin with, and the others that teach beside it.

    Args:
      start: of `first`.
      others: of `beside`.

    Raises:
      ConfigError: if one of them has other classes, or sees images normalised otherwise.
    """
    for path, model in others.items():
        for key in ("mean", "std", "class_names"):
            if model.about.get(key) != start.about.get(key):
                raise ConfigError(
                    f"config.distill.beside: {path} has {key} {model.about.get(key)!r:.80}, "
                    f"expected that of the network beside it, {start.about.get(key)!r:.80}"
                )
    return [start, *others.values()]


def taught(made: recipe.Recipe, teaching: Teaching, teachers: Sequence[Model]) -> Callable:
    """Returns (key of a training, its own teacher or None) -> what `fit` takes to be taught.

    Args:
      made: whose loss is handed on, and whose batches the logits are of.
      teaching: of `teaching`.
      teachers: where a training has none of its own.
    """

    def given(key: jax.Array, teacher: Model | None) -> dict:
        if not teaching.weight:
            return {}
        models = teachers if teacher is None else [teacher]
        tell = [partial(model.apply, model.params) for model in models]
        weighing = {k: getattr(teaching, k) for k in ("weight", "temperature")}
        found = {
            "loss": distill.taught(made.fit["loss"], by=teaching.loss, **weighing),
            "teacher": tell[0] if len(tell) == 1 else distill.ensemble(tell),
        }
        if teaching.logits:
            facts = (order.seed_of(key), made.fit["batch_size"], made.fit["augment"])
            digest = hashlib.sha256(repr(facts).encode())
            for model in models:
                digest.update(pack(model))
            found["teacher_logits"] = teaching.logits / f"{digest.hexdigest()[:16]}.logits"
        return found

    return given


def loaded(key: str, path: str, dataset: Dataset) -> Model:
    """Returns the network that a key of the config names, if it is of a dataset's classes.

    What it does not say of its images and classes is as the dataset has it.
    """
    model, about = load_any(path)
    ours, theirs = list(dataset.class_names), about.get("class_names")
    if theirs is not None and theirs != ours:
        raise ConfigError(
            f"config.{key}: {path} was trained on the classes {theirs!r:.80}, the data has "
            f"{ours!r:.80}; name the data that it was trained on, see config.data"
        )
    if model.image_shape != dataset.image_shape:
        raise ConfigError(
            f"config.{key}: {path} takes images {list(model.image_shape)}, the data has "
            f"{list(dataset.image_shape)}; see config.data.image_size and config.data.channels"
        )
    return model.replace(about=about_of(dataset, {}) | about)


def _following(teacher: str, config: dict) -> dict:
    """Returns the config of a teacher's file on the machine and data of a pipeline's config."""
    own = to_dict(configfile.load(teacher))
    for key in ("stages", "teacher"):  # its training alone would be that of another network
        if own.get(key):
            raise ConfigError(
                f"config.teacher: {teacher} has {key} of its own, {own[key]!r}: run it first, and "
                f"name the last .hcz file of its workdir as config.teacher"
            )
    # what each keeps to choose by is its own: a recipe that was fitted to all images stays so
    kept = {k: v for k, v in own.get("data", {}).items() if k == "validation"}
    shared = {key: config[key] for key in _SHARED}
    return own | shared | {"data": config["data"] | kept}


def _without_stages(config: dict) -> dict:
    """Returns the config of the training that comes before the stages."""
    emptied = {name: dict.fromkeys(config[name]) for name in sections() if name in config}
    return config | emptied | {"stages": [], "teacher": ""}
