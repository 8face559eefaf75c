"""`run(config, workdir)`: the table of contents of the project. Config stops in this folder.

In: a config and a folder. Out: a trained network, or the networks of a pipeline, in that folder,
with a report.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hcjax.app import pipeline, stages, training


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
