"""`plan(config, workdir, topology)`: what a config's steps would do on TPUs that are not here.

In: a config, a folder and a topology. Out: plan.json in that folder, and the same as text. No data
is needed: a plan depends on the images' shape and the number of classes alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax.app import setup, stages, teachers
from hcjax.config.recipe import Data, Recipe
from hcjax.core import files
from hcjax.data import Description, describe
from hcjax.errors import ConfigError, DataError, DependencyError
from hcjax.runs.workdir import network_of
from hcjax.train import assembly, step

# What stands for numbers that only the data has. They are constants of the compiled programs,
# neither 0 nor 1, which the compiler would leave out.
STEPS, MEAN, STD = 10**6, 0.4, 0.3


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
    # the compiler needs no TPU, and one that is here must stay free
    cache, _ = setup.start_platform(recipe.platform._replace(name="cpu"))
    described = parse_shape(shape) if shape else _described(recipe.data)
    height, width, channels = described.image_shape
    print(
        f"planning {recipe.model['name']} for images {height} x {width} x {channels} of "
        f"{described.num_classes} classes ({described.origin})"
    )
    facts = {
        "mean": np.full(channels, MEAN, np.float32),
        "std": np.full(channels, STD, np.float32),
        "num_classes": described.num_classes,
    }
    image = jax.ShapeDtypeStruct(described.image_shape, described.dtype)
    augment = setup.augmentations_of(recipe.augment, image, **facts)
    network = network_of(recipe.model, described.image_shape, described.num_classes)
    tx, train = setup.optimizer_of(recipe.optim, STEPS), recipe.train
    train_step, eval_step = assembly.make_steps(
        network.apply,
        setup.objective_of(recipe.loss, np.arange(1, described.num_classes + 1)),
        tx=tx,
        augment=augment,
        ema_decay=train.ema_decay,
        **facts,
    )

    def start(key):
        return step.init_state(*network.init(key), tx, ema=train.ema_decay is not None)

    document = planner.plan(
        train_step,
        eval_step,
        jax.eval_shape(start, jax.random.key(0)),
        setup.batch_shapes(train.batch_size, image, augment=augment),
        setup.batch_shapes(train.eval_batch_size, image),
        topology=topology,
        largest=not quick,
        scaling=not quick,
        quick=quick,
        cache=cache,
        say=print,
    )
    document |= {"model": recipe.model["name"], "data": described._asdict()}
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


def _described(source: Data) -> Description:
    """Returns what is known of the data that a section `data` names."""
    try:
        return describe(source.source, **source.options)
    except (DataError, DependencyError) as error:
        raise type(error)(
            f"{error}\nA plan needs no data, only its shape; say it by --plan_data=HxWxC:K (images "
            f"H x W x C of K classes, e.g. --plan_data=224x224x3:1000)"
        ) from error


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
