"""A training without stages: from a config to a trained network, its score and its report."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from hcjax import data, tasks
from hcjax.accelerate import compiler
from hcjax.app import summary
from hcjax.app.claims import claim, finished
from hcjax.app.setup import Setup, set_up, start_platform
from hcjax.config.recipe import Recipe
from hcjax.core import files
from hcjax.devices import platform
from hcjax.errors import ConfigError
from hcjax.runs.workdir import REPORT
from hcjax.train import evaluation, loop, mistakes

PICTURED = 2**24  # numbers in the inputs of the examples that pictures are made of
REPORTED_BYTES = 2**29  # images that the data report at the start may read: seconds, not minutes


def opened(
    recipe: Recipe, workdir: Path, cache: Path | None, *, quiet: bool
) -> tuple[Callable, dict | None]:
    """Says where a run computes and writes, and shows its report if it is finished.

    Args:
      recipe: of the run.
      workdir: of the run.
      cache: folder of compiled programs, of `start_platform`.
      quiet: print nothing.

    Returns:
      (function that prints a line, report); None for a report that is not there yet.
    """
    say = (lambda *_: None) if quiet or jax.process_index() else print
    for line in [*platform.describe(cache), f"workdir {workdir}"]:
        say(line)
    report = finished(workdir, recipe.config)
    if report is not None:
        say(f"this run is finished; its report:\n{summary.table(report)}")
    return say, report


def train(
    recipe: Recipe, workdir: Path, *, quiet: bool = False, started: float | None = None
) -> dict | None:
    """Trains, or goes on with, a network, and returns the report of its training.

    Args:
      recipe: without stages.
      workdir, quiet, started: as of `run`; the workdir is absolute.

    Returns:
      dict, also in `workdir/report.json`; None if the run was preempted (start it again).
    """
    started = time.perf_counter() if started is None else started
    marks = {"imports": time.perf_counter()}
    cache, counts = start_platform(recipe.platform)
    marks["platform"] = time.perf_counter()
    say, report = opened(recipe, workdir, cache, quiet=quiet)
    if report is not None:
        return report
    setup = set_up(recipe)
    say(compiler.describe(recipe.accelerate))
    dataset = setup.dataset
    marks["data and model"] = time.perf_counter()
    if not dataset.test.size:
        raise ConfigError(
            "there are no test examples to score the network by; see config.data.test"
        )
    claim(workdir, recipe.config, command=sys.argv)
    for line in setup.notes:
        say(line)
    if _bytes(dataset) > REPORTED_BYTES:
        say(f"{dataset.name} is large; --report_data reads all of it and says what is in it")
    elif not quiet and jax.process_index() == 0:
        say(data.text(data.report(dataset)))
    marks["data report"] = time.perf_counter()
    fitted = loop.fit(
        setup.network.apply,
        setup.params,
        dataset,
        setup.objective,
        tx=setup.tx,
        steps=setup.steps,
        key=setup.key,
        state=setup.state,
        workdir=workdir,
        quiet=quiet,
        started=started,
        **setup.options,
    )
    if fitted.stopped == "preempted":
        say(f"preempted: step {fitted.step} is saved; start the same command again to go on")
        return None
    parts = summary.start_seconds(started, marks, fitted.seconds_to_first_step)
    say(
        f"first step after {fitted.seconds_to_first_step:.2f} s "
        f"({', '.join(f'{name} {seconds:.2f}' for name, seconds in parts.items())}); "
        f"compilation cache: {counts['hits']} hits, {counts['misses']} misses"
    )
    scored = evaluation.evaluate(
        setup.network.apply,
        fitted.params,
        dataset,
        state=fitted.state,
        batch_size=recipe.train.eval_batch_size,
        accelerate=recipe.accelerate,
        task=setup.task,
    )
    result = summary.summarize(recipe.config, fitted, scored, dataset.class_names) | {
        "start_seconds": parts
    }
    if setup.frozen:
        result["frozen_parameters"] = setup.frozen.parameters
        result["frozen_arrays"] = setup.frozen.arrays
    worst = mistakes.worst(scored.each, _count(setup))
    if jax.process_index() == 0:
        drawn = summary.draw(workdir, dataset, setup.network.apply, fitted, scored, worst)
        files.write_json(workdir / REPORT, result)
        say(summary.table(result))
        say(f"the report and its pictures ({', '.join(drawn)}) are in {workdir}")
    return result


def _count(setup: Setup) -> int:
    """Returns how many examples pictures need: some mistakes; of other tasks all, if they fit."""
    if setup.task is tasks.classification:
        return 32
    sizes = [math.prod(x.shape[1:]) for x in jax.tree.leaves(setup.dataset.train.inputs)]
    return min(max(PICTURED // max(sum(sizes), 1), 32), 2000)


def _bytes(dataset: data.Dataset) -> int:
    """Returns the size of the training inputs."""
    leaves = jax.tree.leaves(dataset.train.inputs)
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves)
