"""`run(config, workdir)`: the table of contents of the project. Config stops in this folder.

In: a config and a folder. Out: a trained network, or the networks of a pipeline, in that folder,
with a report.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hcjax import data
from hcjax.app import pipeline, recipe, training
from hcjax.config.reader import Reader, to_dict
from hcjax.core import files
from hcjax.train import step, steps


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
    plain = to_dict(config)
    if not plain["stages"]:
        return training.train(plain, workdir, quiet=quiet, started=started)
    started = time.perf_counter() if started is None else started
    workdir = Path(workdir).expanduser().absolute()
    cache, _ = recipe.start_platform(Reader(plain))
    say, report = training.opened(plain, workdir, cache, quiet=quiet)
    if report is not None:
        return report
    return pipeline.run_stages(plain, workdir, say=say, quiet=quiet, started=started)


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
    plain = to_dict(config)
    # the compiler needs no TPU, and one that is here must stay free
    cache, _ = recipe.start_platform(Reader({**plain, "platform": "cpu"}))
    reader = Reader(plain)
    made = recipe.build(reader, dataset)
    reader.check_unread()
    dataset, fit = made.dataset, made.fit
    options = ("loss", "tx", "augment", "penalty", "class_weights", "ema_decay")
    train_step, eval_step = steps.make_steps(
        made.network.apply,
        mean=dataset.mean,
        std=dataset.std,
        num_classes=dataset.num_classes,
        **{name: fit[name] for name in options},
    )
    found = planner.plan(
        train_step,
        eval_step,
        step.init_state(made.params, made.state, fit["tx"], ema=fit["ema_decay"] is not None),
        recipe.batch_shapes(fit["batch_size"], dataset, augment=fit["augment"]),
        recipe.batch_shapes(fit["eval_batch_size"], dataset),
        topology=topology,
        largest=not quick,
        scaling=not quick,
        cache=cache,
        say=print,
    )
    print(planner.text(found))
    print(f"in {files.write_json(workdir / 'plan.json', found)}")
    return found
