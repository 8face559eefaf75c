"""`plan(config, workdir, topology)`: what a config's steps would do on TPUs that are not here.

In: a config, a folder and a topology. Out: plan.json in that folder, and the same as text. A plan
depends on the shapes of examples alone: of images with a class each no data is needed, since the
set's own description tells them; other data is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax import tasks
from hcjax.app import setup, stages, teachers
from hcjax.config.recipe import Data, Recipe
from hcjax.core import files
from hcjax.data import OTHERS, Dataset, Description, describe
from hcjax.data.dataset import shapes_of
from hcjax.errors import ConfigError, DataError, DependencyError
from hcjax.graph import interface
from hcjax.runs.workdir import network_of
from hcjax.train import assembly, step

# What stands for numbers that only the data has. They are constants of the compiled programs,
# neither 0 nor 1, which the compiler would leave out.
STEPS, MEAN, STD = 10**6, 0.4, 0.3


class Known(NamedTuple):
    """What a plan must know of the data.

    example: trees of the shapes of one example's inputs and targets. facts: mean, std and
    num_classes, as of `make_prepare`. outputs: numbers that the network gives. about: of the
    Dataset. counts: int[K], any, of classes; None without. text: for people. document: for JSON.
    """

    example: tuple[Any, Any]
    facts: dict[str, Any]
    outputs: int
    about: dict | None
    counts: np.ndarray | None
    text: str
    document: dict[str, Any]


def plan(
    config: Any,
    workdir: str | Path,
    topology: str,
    *,
    shape: str | None = None,
    quick: bool = False,
) -> dict:
    """Returns what this config's training and evaluation steps would do on TPUs that are not here.

    Args:
      config: as for `run`. Of one with stages, the training that comes before them is planned.
      workdir: folder that plan.json is written to.
      topology: "v5e:2x4", see `hcjax.train.plan.chips`.
      shape: of the data, "HxWxC:K" for images (H, W, C) of K classes; None for what is known of it.
      quick: a first answer: compile with less search, and leave the largest batch and the weak
        scaling out.

    Raises:
      HcjaxError: for everything that whoever started it can mend.
    """
    from hcjax.train.plan import planner

    workdir = Path(workdir).expanduser().absolute()
    recipe = _trained(stages.parse(config))
    task = tasks.get(recipe.task)
    # the compiler needs no TPU, and one that is here must stay free
    cache, _ = setup.start_platform(recipe.platform._replace(name="cpu"))
    known = _of_images(parse_shape(shape)) if shape else _known(recipe.data)
    print(f"planning {recipe.model['name']} for {known.text}")
    example, facts = known.example, known.facts
    augment = setup.augmentations_of(recipe.augment, *example, **facts)
    network = network_of(recipe.model, example[0].shape, known.outputs, about=known.about)
    tx, train = setup.optimizer_of(recipe.optim, STEPS), recipe.train
    train_step, eval_step = assembly.make_steps(
        network.apply,
        setup.objective_of(recipe.loss, task, known.counts, mean=facts["mean"], std=facts["std"]),
        tx=tx,
        augment=augment,
        ema_decay=train.ema_decay,
        task=task,
        **facts,
    )

    def start(key):
        return step.init_state(*network.init(key), tx, ema=train.ema_decay is not None)

    document = planner.plan(
        train_step,
        eval_step,
        jax.eval_shape(start, jax.random.key(0)),
        setup.batch_shapes(train.batch_size, *example, augment=augment),
        setup.batch_shapes(train.eval_batch_size, *example),
        topology=topology,
        largest=not quick,
        scaling=not quick,
        quick=quick,
        cache=cache,
        say=print,
    )
    document |= {"model": recipe.model["name"], "data": known.document}
    print(planner.text(document))
    print(f"in {files.write_json(workdir / 'plan.json', document)}")
    return document


def parse_shape(text: str) -> Description:
    """Parses "HxWxC:K".

    Raises:
      ConfigError: if it is written otherwise, a number is 0, or C is neither 1 nor 3.

    Example:
      >>> parse_shape("224x224x3:1000")[:2]
      ((224, 224, 3), 1000)
    """
    match = re.fullmatch(r"(\d+)x(\d+)x([13]):(\d+)", text.strip())
    numbers = [int(number) for number in match.groups()] if match else [0]
    if not all(numbers):
        raise ConfigError(
            f"--plan_data must be HxWxC:K, the images' height, width and channels (1 or 3) and the "
            f"number of classes, e.g. 224x224x3:1000, got {text!r}"
        )
    return Description(tuple(numbers[:3]), numbers[3], "as --plan_data says")


def _known(source: Data) -> Known:
    """Returns what is known of the data that a section `data` names."""
    if source.source in OTHERS:
        try:
            return _of_dataset(setup.load(source))
        except DataError as error:
            raise DataError(f"{error}\nA plan of source {source.source} reads the data") from error
    try:
        return _of_images(describe(source.source, **source.options))
    except (DataError, DependencyError) as error:
        raise type(error)(
            f"{error}\nA plan needs no data, only its shape; say it by --plan_data=HxWxC:K (images "
            f"H x W x C of K classes, e.g. --plan_data=224x224x3:1000)"
        ) from error


def _of_images(described: Description) -> Known:
    """Returns what is known of images with a class each."""
    height, width, channels = described.image_shape
    classes = described.num_classes
    return Known(
        (jax.ShapeDtypeStruct(described.image_shape, described.dtype), setup.LABEL),
        _facts(channels, classes),
        classes,
        None,
        np.arange(1, classes + 1),  # any that are no constants
        f"images {height} x {width} x {channels} of {classes} classes ({described.origin})",
        described._asdict(),
    )


def _of_dataset(dataset: Dataset) -> Known:
    """Returns what is known of data that is at hand."""
    inputs, targets = setup.shapes_of(dataset)
    channels = None if dataset.mean is None else len(dataset.mean)
    shape, outputs = dataset.input_shape, dataset.num_outputs
    counts = setup.counts_of(dataset)
    taken, aimed = (interface.describe((shapes_of(tree),)) for tree in dataset.train)
    return Known(
        (inputs, targets),
        _facts(channels, dataset.num_classes),
        outputs,
        dataset.about,
        None if counts is None else np.arange(1, len(counts) + 1),
        f"inputs {taken} and targets {aimed} (the data at hand)",
        {"input_shape": shape, "num_outputs": outputs, "origin": "the data at hand"},
    )


def _facts(channels: int | None, num_classes: int) -> dict[str, Any]:
    """Returns mean, std and num_classes; the first two of images alone."""
    known = [None if channels is None else np.full(channels, x, np.float32) for x in (MEAN, STD)]
    return {"mean": known[0], "std": known[1], "num_classes": num_classes}


def _trained(recipe: Recipe) -> Recipe:
    """Returns the recipe of the training that is planned, and says so where there are others."""
    if not recipe.stages:
        return recipe
    first = teachers.training_of(recipe)
    later = "what " + ", ".join(recipe.stages) + " trains is not planned"
    if first is None:
        raise ConfigError(
            f"a plan is of a training, and config.teacher={recipe.teacher} is trained already; "
            f"{later}. Plan a config without stages, such as the one that trained it"
        )
    print(f"the training before the stages is planned; {later}")
    return first
