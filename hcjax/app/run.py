"""`run(config, workdir)`: the table of contents of the project. Config stops in this folder.

In: a config and a folder. Out: a trained network, or the networks of a pipeline, in that folder,
with a report.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hcjax import data
from hcjax.app import pipeline, setup, stages, training
from hcjax.core import files
from hcjax.train import assembly, step


def run(config: Any, workdir: str | Path, *, quiet: bool = False, started: float | None = None):
    """Returns the report of a run: trained, or gone on with, evaluated once, and written down.

    Args:
      config: see `configs/default.py`; ConfigDict or nested dicts.
      workdir: folder of the run. A finished one is read, an unfinished one is gone on with.
      quiet: print nothing.
      started: `time.perf_counter()` from which seconds_to_first_step counts; None for now.

    Returns:
      dict, also in `workdir/report.json`; None if the run was preempted (start it again).

    Raises:
      HcjaxError: for everything that whoever started it can mend.
    """
    started = time.perf_counter() if started is None else started
    workdir = Path(workdir).expanduser().absolute()
    recipe = stages.parse(config)
    work = pipeline.run_stages if recipe.stages else training.train
    return work(recipe, workdir, quiet=quiet, started=started)


def plan(
    config: Any,
    workdir: str | Path,
    topology: str,
    *,
    dataset: data.Dataset | None = None,
    quick: bool = False,
) -> dict:
    """Returns what this config's training and evaluation steps would do on TPUs that are not here.

    Args:
      config: as for `run`. Its data is read, for shapes and classes.
      workdir: folder that plan.json is written to.
      topology: "v5e:2x4", see `hcjax.train.plan.chips`.
      dataset: of the same shapes and classes as the config's, where that is not at hand.
      quick: leave the largest batch and the weak scaling out.
    """
    from hcjax.train.plan import planner

    workdir = Path(workdir).expanduser().absolute()
    recipe = stages.parse(config)
    # the compiler needs no TPU, and one that is here must stay free
    cache, _ = setup.start_platform(recipe.platform._replace(name="cpu"))
    parts, train = setup.set_up(recipe, dataset), recipe.train
    dataset, augment = parts.dataset, parts.options["augment"]
    train_step, eval_step = assembly.make_steps(
        parts.network.apply,
        parts.objective,
        tx=parts.tx,
        mean=dataset.mean,
        std=dataset.std,
        num_classes=dataset.num_classes,
        augment=augment,
        ema_decay=train.ema_decay,
    )
    document = planner.plan(
        train_step,
        eval_step,
        step.init_state(parts.params, parts.state, parts.tx, ema=train.ema_decay is not None),
        setup.batch_shapes(train.batch_size, dataset, augment=augment),
        setup.batch_shapes(train.eval_batch_size, dataset),
        topology=topology,
        largest=not quick,
        scaling=not quick,
        cache=cache,
        say=print,
    )
    print(planner.text(document))
    print(f"in {files.write_json(workdir / 'plan.json', document)}")
    return document
