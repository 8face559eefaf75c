"""Who teaches in a pipeline: the network that its stages begin with, and others beside it.

In: a recipe. Out: Models, and the objectives of trainings that they teach.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from hcjax import distill, tasks
from hcjax.app.setup import Setup
from hcjax.app.stages import parse, sections
from hcjax.config import configfile
from hcjax.config.reader import to_dict
from hcjax.config.recipe import Recipe, emptied
from hcjax.data import Dataset, order
from hcjax.errors import ConfigError
from hcjax.export.hcz import pack
from hcjax.graph import interface
from hcjax.graph.model import Model
from hcjax.runs.saved import about_of, load_any
from hcjax.train.objective import Objective

# of a pipeline's config, taken over by the config of its teacher: several seeds are several
# teachers, and the machine is the same
_SHARED = ("seed", "platform", "deterministic", "accelerate", "cache_dir")


def training_of(recipe: Recipe) -> Recipe | None:
    """Returns the recipe of the training that comes before the stages of a pipeline.

    Args:
      recipe: of the pipeline.

    Returns:
      Recipe without stages; None if the pipeline's names a network that is trained already.

    Raises:
      ConfigError: if a config file that it names has stages or a teacher.
    """
    config = recipe.config
    if recipe.teacher:
        if not recipe.teacher.endswith(".py"):
            return None
        config = _following(recipe.teacher, config)
    return parse(emptied(config, sections()))


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


def objectives(recipe: Recipe, setup: Setup, teachers: Sequence[Model]) -> Callable:
    """Returns (key of a training, its own teacher or None) -> the Objective of that training.

    Args:
      recipe: how the teachers teach.
      setup: whose objective is taught, and whose batches the logits are of.
      teachers: where a training has none of its own.
    """
    teaching = recipe.teaching
    by = teaching.loss or setup.task.teach
    if by == "decoupled" and setup.task is not tasks.classification:
        raise ConfigError(
            f"config.distill.loss: decoupled needs one label an example, and config.task is "
            f"{recipe.task}: leave it unset, for {setup.task.teach}"
        )

    def objective(key: jax.Array, teacher: Model | None) -> Objective:
        if not teaching.weight:
            return setup.objective
        models = teachers if teacher is None else [teacher]
        logits = [partial(model.apply, model.params) for model in models]
        cache = None
        if teaching.logits:
            facts = (order.seed_of(key), recipe.train.batch_size, setup.options["augment"])
            digest = hashlib.sha256(repr(facts).encode())
            for model in models:
                digest.update(pack(model))
            cache = teaching.logits / f"{digest.hexdigest()[:16]}.logits"
        loss = distill.taught(
            setup.objective.loss,
            by=by,
            weight=teaching.weight,
            temperature=teaching.temperature,
        )
        return setup.objective._replace(
            loss=loss,
            teacher=logits[0] if len(logits) == 1 else distill.ensemble(logits),
            teacher_logits=cache,
        )

    return objective


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
    if not model.alone or model.image_shape != dataset.input_shape:
        raise ConfigError(
            f"config.{key}: {path} takes {_taken(model)}, the data has "
            f"{list(dataset.input_shape)}; see config.data.image_size and config.data.channels"
        )
    return model.replace(about=about_of(dataset, {}) | about)


def _taken(model: Model) -> str:
    if model.alone and len(model.image_shape) == 3:
        return f"images {list(model.image_shape)}"
    return interface.describe(model.inputs)


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
    own_validation = {k: v for k, v in own.get("data", {}).items() if k == "validation"}
    shared = {key: config[key] for key in _SHARED}
    return own | shared | {"data": config["data"] | own_validation}
