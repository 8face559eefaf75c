"""From a trained network to a smaller one: the stages of a config, each kept as a `.hcz` file.

In: a recipe with stages, and a folder. Out: a file for each network that the stages make, and a
report. A file that is there is not made again, so a pipeline that was cut goes on, bit for bit.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from hcjax import data, models, prune, tasks
from hcjax.app import teachers, training
from hcjax.app.claims import claim
from hcjax.app.setup import Setup, frozen_of, optimizer_of, set_up, start_platform, steps_of
from hcjax.app.stages import STAGES, Work, advice, check_order
from hcjax.app.stages.work import normalised
from hcjax.config.recipe import Recipe
from hcjax.core import files
from hcjax.devices import environment, hosts, memory
from hcjax.errors import ArtifactError
from hcjax.export.hcz import pack
from hcjax.graph.fold import fold
from hcjax.graph.model import Model, is_quantized, unused_name
from hcjax.graph.tracing.trace import trace
from hcjax.models import inference
from hcjax.prove import alive, cards
from hcjax.report import canvas, pareto
from hcjax.runs.saved import about_of, load_any
from hcjax.runs.workdir import REPORT, network_of
from hcjax.tasks import Task
from hcjax.train import loop


class Networks(NamedTuple):
    """What `compress` returns.

    files, models: name -> path, or Model, of every network, in order, the one that the stages begin
    with first. dataset: normalised as that network has learned it. validated: name -> accuracy, or
    the task's best score, on the validation part; empty where there is none. dead: name -> why a
    network counts as dead. task: what they are for.
    """

    files: dict[str, Path]
    models: dict[str, Model]
    dataset: data.Dataset
    validated: dict[str, float]
    dead: dict[str, str]
    task: Task


class Preempted(Exception):
    """Says that the process was asked to stop, after what it was training was saved."""


def run_stages(
    recipe: Recipe, workdir: Path, *, quiet: bool = False, started: float | None = None
) -> dict | None:
    """Runs the stages of a recipe and returns its report: `stages` holds a card of each network.

    Args:
      recipe: with stages.
      workdir, quiet, started: as of `run`; the workdir is absolute.

    Returns:
      dict, also in `workdir/report.json`; None if the run was preempted (start it again).
    """
    started = time.perf_counter() if started is None else started
    cache, _ = start_platform(recipe.platform)
    say, report = training.opened(recipe, workdir, cache, quiet=quiet)
    if report is not None:
        return report
    claim(workdir, recipe.config, command=sys.argv)
    networks = compress(recipe, workdir, say=say, quiet=quiet, started=started)
    if networks is None:
        say("preempted: what was trained is saved; start the same command again to go on")
        return None
    scored: list[cards.Scorecard] = []
    rows: list[dict] = []
    for name, path in networks.files.items():
        model, facts = networks.models[name], {"name": name, "file_bytes": path.stat().st_size}
        baseline = scored[0] if scored else None
        facts |= {"baseline": baseline, "task": networks.task}
        scored.append(cards.scorecard(model, networks.dataset, **facts))
        rows += [{"file": path.name, **row} for row in cards.as_json(scored[-1:])]
        rows[-1]["validation_accuracy"] = networks.validated.get(name)
        if not networks.validated:  # the first chance to notice
            accuracies = {card.name: card.accuracy for card in scored}
            _notice(networks, accuracies, "test", recipe, say)
        if name in networks.dead:
            rows[-1]["dead"] = True
    last, seconds = scored[-1], time.perf_counter() - started
    result = {
        "config": recipe.config,
        "task": networks.task.name,
        "score": networks.task.best,
        "seed": recipe.seed,
        "stages": rows,
        "validation_accuracy": rows[-1]["validation_accuracy"],
        "file_bytes": last.file_bytes,
        "test_accuracy": last.accuracy,
        "test_error": last.error,
        "test_examples": last.examples,
        "seconds": seconds,
        "peak_memory_bytes": memory.peak_memory_bytes(),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "device": last.device,
    }
    if networks.dead:
        result["dead"] = networks.dead
    if jax.process_index() == 0:
        points = [(card.name, card.file_bytes, card.error) for card in scored]
        dead = [i for i, card in enumerate(scored) if card.name in networks.dead]
        canvas.save(
            pareto.draw_pareto(points, dead=dead, score=networks.task.best), workdir / "pareto.png"
        )
        files.write_json(workdir / REPORT, result)
    say(cards.table(rows))
    say(f"{seconds:,.0f} s; the networks, their report and pareto.png are in {workdir}")
    return result


def _validated(model: Model, dataset: data.Dataset, **facts: Any) -> float | None:
    """Returns the accuracy on the validation part, to choose by; None where there is none."""
    if not dataset.validation.size:
        return None
    validation = dataclasses.replace(dataset, test=dataset.validation)
    return cards.scorecard(model, validation, timed=False, **facts).accuracy


def _notice(
    networks: Networks,
    accuracies: dict[str, float],
    part: str,
    recipe: Recipe,
    say: Callable,
) -> None:
    """Marks the newest network if it is dead, and says what to change.

    Args:
      networks: whose `dead` gets the newest network.
      accuracies: name -> accuracy on the same examples, the newest last.
      part: of the dataset that these are.
      recipe: with stages.
      say: prints a line.
    """
    if networks.task is not tasks.classification:
        return  # what guessing is worth is only known of labels
    name, accuracy = list(accuracies.items())[-1]
    labels = getattr(networks.dataset, part).labels
    before = [x for other, x in accuracies.items() if other not in networks.dead][-2:-1]
    why = alive.dead(accuracy, before[0], labels, networks.dataset.num_classes) if before else ""
    if why:
        networks.dead[name] = why
        say(f"WARNING: {name} is dead: {why}. {advice(name, recipe.stages)}")


def compress(
    recipe: Recipe,
    workdir: Path,
    *,
    say: Callable = print,
    quiet: bool = False,
    started: float | None = None,
) -> Networks | None:
    """Makes the networks that the stages of a recipe describe, as files.

    Args:
      recipe: with stages.
      workdir: of the pipeline.
      say: prints a line. quiet: show no progress of trainings. started: as of `run`.

    Returns:
      Networks; None if a training was preempted and saved: call again to go on.
    """
    stages = [STAGES[name].function(**options) for name, options in recipe.stages.items()]
    setup = set_up(recipe)
    steps = partial(steps_of, batch_size=recipe.train.batch_size, dataset=setup.dataset)
    for name, options in recipe.stages.items():
        steps(f"{name}.epochs", options.get("epochs", 0))
    student = _student(recipe, setup.dataset)
    others = teachers.beside(recipe.teaching.beside, setup.dataset)
    start = _first(recipe, setup.dataset, workdir, quiet=quiet, started=started)
    if start is None:
        return None
    check_order(list(recipe.stages), integers="config.teacher" if is_quantized(start) else "")
    # the file's own numbers: float32 must not round them when they are written again
    learned = {k: start.about[k] for k in ("mean", "std") if setup.dataset.mean is not None}
    normalisation = {k: np.float32(v) for k, v in learned.items()}
    setup = setup._replace(dataset=dataclasses.replace(setup.dataset, **normalisation))
    about = about_of(setup.dataset, recipe.config) | learned
    teach = teachers.objectives(recipe, setup, teachers.together(start, others))
    steps = partial(steps, "epochs")  # of each stage, checked by now
    work = _work(recipe, setup, steps, teach, student, workdir, quiet, say)
    networks = Networks({}, {}, setup.dataset, {}, {}, setup.task)

    def saved(name, make):
        path = workdir / f"{len(networks.files)}-{name}.hcz"
        if not hosts.gather(path.exists())[0]:
            model = make().replace(about=about)
            if jax.process_index() == 0:
                files.write_bytes(path, pack(model))
            hosts.gather(0)  # none reads it before it is there
        say(f"{name}: {path.stat().st_size:,} bytes in {path}")
        try:
            networks.files[name], networks.models[name] = path, load_any(path)[0]
        except ArtifactError as error:
            raise ArtifactError(f"{error}; remove it to make it again") from error
        facts = {"name": name, "file_bytes": path.stat().st_size, "task": setup.task}
        accuracy = _validated(networks.models[name], setup.dataset, **facts)
        if accuracy is not None:
            networks.validated[name] = accuracy
            _notice(networks, networks.validated, "validation", recipe, say)
        return networks.models[name]

    try:
        model = saved("float", lambda: start)
        for stage in stages:
            begun = model
            for name, make in stage:
                unused = unused_name(name, networks.files)
                model = saved(unused, partial(make, work, begun, model))
    except Preempted:
        return None
    return networks


def _first(recipe: Recipe, dataset: data.Dataset, workdir: Path, **options: Any) -> Model | None:
    """Returns the folded network that a pipeline starts from; None if its training was preempted.

    Args:
      recipe, dataset: of the pipeline.
      workdir: of the pipeline; the network is trained in its sub-folder `train`.
      **options: of `training.train`.
    """
    own = teachers.training_of(recipe)
    if own is None:
        return teachers.loaded("teacher", recipe.teacher, dataset)
    if training.train(own, workdir / "train", **options) is None:
        return None
    return load_any(workdir / "train")[0]


def _work(
    recipe: Recipe,
    setup: Setup,
    steps: Callable[[float], int],
    teach: Callable,
    student: models.Network | None,
    workdir: Path,
    quiet: bool,
    say: Callable,
) -> Work:
    """Returns what the stages share."""
    dataset, options = setup.dataset, setup.options | {"patience": None}

    def fitted(
        name, apply, params, *, epochs, learning_rate, state=None, around=None, penalty=None,
        teacher=None,
    ):  # fmt: skip
        key = _key(setup.key, name)
        count = setup.steps if epochs is None else steps(epochs)
        tx = optimizer_of(recipe.optim, count, learning_rate=learning_rate)
        if frozen := frozen_of(recipe.optim, params):
            say(f"{name}: {frozen.text}")
        objective = teach(key, teacher)
        if penalty:
            objective = objective._replace(penalty=_total(objective.penalty, penalty))
        result = loop.fit(
            apply,
            params,
            dataset,
            objective,
            tx=around(tx) if around else tx,
            steps=count,
            key=key,
            state=state,
            workdir=workdir / name,
            quiet=quiet,
            **options,
        )
        if result.stopped == "preempted":
            raise Preempted
        return result

    def tune(model, name, *, epochs, learning_rate=None, around=None, penalty=None):
        def keeping(tx):
            return optax.chain(tx, prune.masked(prune.nonzero(model.params)))

        training = {"epochs": epochs, "learning_rate": learning_rate, "penalty": penalty}
        result = fitted(name, model.apply, model.params, around=around or keeping, **training)
        return model.replace(params=result.params)

    def learn(name, *, epochs, learning_rate, teacher=None):
        params, state = jax.jit(student.init)(_key(setup.key, f"{name} parameters"))
        training = {"epochs": epochs, "learning_rate": learning_rate, "teacher": teacher}
        result = fitted(name, student.apply, params, state=state, **training)
        example = normalised(dataset, 1)
        return fold(trace(inference(student.apply, result.state), result.params, example))

    return Work(setup.task, dataset, steps, tune, learn, say)


def _total(first: Callable | None, second: Callable) -> Callable:
    """Returns the sum of two penalties of parameters."""
    return (lambda params: first(params) + second(params)) if first else second


def _student(recipe: Recipe, dataset: data.Dataset) -> models.Network | None:
    """Returns the network that stage `distill` trains; None if the recipe names none."""
    if recipe.student is None:
        return None
    return network_of(recipe.student, dataset.input_shape, dataset.num_outputs, dataset.about)


def _key(key: jax.Array, name: str) -> jax.Array:
    """Returns a key of its own for each training of a pipeline."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
