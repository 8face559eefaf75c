"""`run(config, workdir)`: the table of contents of the project. Config stops here.

In: a config and a folder. Out: a trained network in that folder, with its report; everything
called from here takes plain arguments.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from hcjax import data
from hcjax.accelerate import compiler
from hcjax.app import pipeline, recipe, summary
from hcjax.config.reader import Reader, to_dict
from hcjax.core import files
from hcjax.devices import environment, platform
from hcjax.errors import ConfigError
from hcjax.graph.model import Model
from hcjax.prove import cards
from hcjax.report import pareto
from hcjax.runs.workdir import REPORT, claim, finished
from hcjax.train import evaluation, loop, mistakes, step, steps

REPORTED_BYTES = 2**29  # images that the data report at the start may read: seconds, not minutes


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
    plain = to_dict(config)
    marks = {"imports": time.perf_counter()}
    cache, counts = recipe.start_platform(Reader(plain))
    marks["platform"] = time.perf_counter()
    say = (lambda *_: None) if quiet or jax.process_index() else print
    for line in [*platform.describe(cache), f"workdir {workdir}"]:
        say(line)
    done = finished(workdir, plain)
    if done is not None:
        say(f"this run is finished; its report:\n{summary.table(done)}")
        return done

    if plain["stages"]:
        return compressed(plain, workdir, say=say, quiet=quiet, started=started)
    reader = Reader(plain)
    made = recipe.build(reader)
    reader.check_unread()
    say(compiler.describe(made.fit["accelerate"]))
    dataset = made.dataset
    marks["data and model"] = time.perf_counter()
    if not len(dataset.test.labels):
        raise ConfigError(
            "there are no test examples to score the network by; see config.data.test"
        )
    claim(workdir, plain, command=sys.argv)
    for line in made.notes:
        say(line)
    if math.prod(dataset.train.images.shape) > REPORTED_BYTES:
        say(f"{dataset.name} is large; --report_data reads all of it and says what is in it")
    elif not quiet and jax.process_index() == 0:
        say(data.text(data.report(dataset)))
    marks["data report"] = time.perf_counter()
    fitted = loop.fit(
        made.network.apply,
        made.params,
        dataset,
        state=made.state,
        steps=made.steps,
        workdir=workdir,
        quiet=quiet,
        started=started,
        **made.fit,
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
        made.network.apply,
        fitted.params,
        dataset,
        state=fitted.state,
        batch_size=reader.section("train").get("eval_batch_size"),
        accelerate=made.fit["accelerate"],
    )
    result = summary.summarize(plain, fitted, scored, dataset.class_names) | {
        "start_seconds": parts
    }
    worst = mistakes.worst(scored.each)
    if jax.process_index() == 0:
        summary.draw(workdir, dataset, fitted.params, scored.sums["confusion"], worst)
        files.write_json(workdir / REPORT, result)
    say(summary.table(result))
    say(f"report, curves, confusion matrix, worst mistakes and filters are in {workdir}")
    return result


def compressed(plain: dict, workdir: Path, *, say: Callable, quiet: bool, started: float):
    """Returns the report of a config with stages: `stages` holds a card of each network.

    Args:
      plain: the config, as nested dicts.
      workdir: of the run; for which there is no report yet.
      say: prints a line. quiet, started: as of `run`.

    Returns:
      dict, also in `workdir/report.json`; None if the run was preempted.
    """
    claim(workdir, plain, command=sys.argv)
    train = partial(run, quiet=quiet, started=started)
    made = pipeline.compress(plain, workdir, train=train, say=say, quiet=quiet)
    if made is None:
        say("preempted: what was trained is saved; start the same command again to go on")
        return None
    found: list[cards.Scorecard] = []
    rows: list[dict] = []
    for name, path in made.files.items():
        about = {"name": name, "file_bytes": path.stat().st_size}
        baseline = found[0] if found else None
        found.append(cards.scorecard(made.models[name], made.dataset, baseline=baseline, **about))
        rows += [{"file": path.name, **row} for row in cards.as_json(found[-1:])]
        rows[-1]["validation_accuracy"] = _validated(made.models[name], made.dataset, **about)
    last, seconds = found[-1], time.perf_counter() - started
    result = {
        "config": plain,
        "seed": plain["seed"],
        "stages": rows,
        "validation_accuracy": rows[-1]["validation_accuracy"],
        "file_bytes": last.file_bytes,
        "test_accuracy": last.accuracy,
        "test_error": last.error,
        "test_examples": last.examples,
        "seconds": seconds,
        "peak_memory_bytes": platform.peak_memory_bytes(),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "device": last.device,
    }
    if jax.process_index() == 0:
        points = [(card.name, card.file_bytes, card.error) for card in found]
        pareto.pareto(workdir / "pareto.png", points)
        files.write_json(workdir / REPORT, result)
    say(cards.table(rows))
    say(f"{seconds:,.0f} s; the networks, their report and pareto.png are in {workdir}")
    return result


def _validated(model: Model, dataset: data.Dataset, **about: Any) -> float | None:
    """Returns the accuracy on the validation part, to choose by; None where there is none."""
    if not len(dataset.validation.labels):
        return None
    kept = dataclasses.replace(dataset, test=dataset.validation)
    return cards.scorecard(model, kept, timed=False, **about).accuracy


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
