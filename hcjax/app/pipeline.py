"""From a trained network to a smaller one: the stages of a config, each kept as a `.hcz` file.

In: a config with stages, and a folder. Out: a file for each network that the stages make, and a
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

from hcjax import data, models, prune
from hcjax.app import recipe, teachers, training
from hcjax.app.claims import claim
from hcjax.app.stages import STAGES, Made, Work, check_order, check_sections
from hcjax.config.reader import Reader
from hcjax.core import files, registry
from hcjax.devices import environment, hosts, platform
from hcjax.errors import ArtifactError, ConfigError
from hcjax.export.hcz import pack
from hcjax.graph.fold import fold
from hcjax.graph.model import Model, is_quantized, unused_name
from hcjax.graph.tracing.trace import trace
from hcjax.models import inference
from hcjax.prove import cards
from hcjax.report import pareto
from hcjax.runs.saved import about_of, load_any
from hcjax.runs.workdir import REPORT, network_of
from hcjax.train import loop


class Compressed(NamedTuple):
    """What `compress` returns.

    files, models: name -> path, or Model, of every network, in order, the one that the stages begin
    with first. dataset: normalised as that network has learned it.
    """

    files: dict[str, Path]
    models: dict[str, Model]
    dataset: data.Dataset


class Preempted(Exception):
    """Says that the process was asked to stop, after what it was training was saved."""


def run_stages(plain: dict, workdir: Path, *, say: Callable, quiet: bool, started: float):
    """Runs the stages of a config and returns its report: `stages` holds a card of each network.

    Args:
      plain: the config, as nested dicts.
      workdir: of the run; for which there is no report yet.
      say: prints a line. quiet, started: as of `run`.

    Returns:
      dict, also in `workdir/report.json`; None if the run was preempted.
    """
    claim(workdir, plain, command=sys.argv)
    made = compress(plain, workdir, say=say, quiet=quiet, started=started)
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


def compress(
    config: dict,
    workdir: Path,
    *,
    say: Callable = print,
    quiet: bool = False,
    started: float | None = None,
) -> Compressed | None:
    """Returns the networks that the stages of a config make, as files.

    Args:
      config: as nested dicts, with stages.
      workdir: of the pipeline.
      say: prints a line. quiet: show no progress of trainings. started: as of `run`.

    Returns:
      Compressed; None if a training was preempted and saved: call again to go on.
    """
    reader = Reader(config)
    made = recipe.build(reader)
    teaching, student = teachers.teaching(reader), _student(reader, made.dataset)
    steps = partial(recipe.steps_of, batch_size=made.fit["batch_size"], dataset=made.dataset)
    stages = _stages(reader, steps)
    if student is None and "distill" in config["stages"]:
        raise ConfigError("stage 'distill' needs config.student.name, the network to be taught")
    check_sections(config)
    reader.check_unread()
    check_order(config["stages"])
    others = teachers.beside(teaching.beside, made.dataset)
    start = _first(config, made.dataset, workdir, quiet=quiet, started=started)
    if start is None:
        return None
    check_order(config["stages"], integers="config.teacher" if is_quantized(start) else "")
    given = {k: start.about[k] for k in ("mean", "std")}
    dataset = dataclasses.replace(made.dataset, **{k: np.float32(v) for k, v in given.items()})
    about = about_of(dataset, config) | given  # as they were written, whatever float32 makes of it
    taught = teachers.taught(made, teaching, teachers.together(start, others))
    steps = partial(steps, "epochs")  # of each stage, checked by now
    work = _work(made, dataset, steps, taught, student, workdir, quiet, say)
    found = Compressed({}, {}, dataset)

    def kept(name, make):
        path = workdir / f"{len(found.files)}-{name}.hcz"
        if not hosts.gather(path.exists())[0]:
            model = make().replace(about=about)
            if jax.process_index() == 0:
                files.write_bytes(path, pack(model))
            hosts.gather(0)  # none reads it before it is there
        say(f"{name}: {path.stat().st_size:,} bytes in {path}")
        try:
            found.files[name], found.models[name] = path, load_any(path)[0]
        except ArtifactError as error:
            raise ArtifactError(f"{error}; remove it to make it again") from error
        return found.models[name]

    try:
        model = kept("float", lambda: start)
        for stage in stages:
            begun = model
            for name, make in stage:
                model = kept(unused_name(name, found.files), partial(make, work, begun, model))
    except Preempted:
        return None
    return found


def _first(config: dict, dataset: data.Dataset, workdir: Path, **options: Any) -> Model | None:
    """Returns the folded network that a pipeline starts from; None if its training was preempted.

    Args:
      config: of the pipeline. dataset: of the pipeline.
      workdir: of the pipeline; the network is trained in its sub-folder `train`.
      **options: of `training.train`.
    """
    own = teachers.training_of(config)
    if own is None:
        return teachers.loaded("teacher", config["teacher"], dataset)
    if training.train(own, workdir / "train", **options) is None:
        return None
    return load_any(workdir / "train")[0]


def _work(made, dataset, steps, taught, student, workdir, quiet, say) -> Work:
    """Returns what the stages share."""
    fit = made.fit | {"patience": None, "quiet": quiet}

    def fitted(
        name, apply, params, *, epochs, learning_rate, around=lambda tx: tx, teacher=None, **changes
    ):
        key = _key(fit["key"], name)
        count = made.steps if epochs is None else steps(epochs)
        tx = recipe.optimizer_of(made.optim, count, learning_rate=learning_rate)
        done = loop.fit(
            apply,
            params,
            dataset,
            steps=count,
            workdir=workdir / name,
            **fit | taught(key, teacher) | {"tx": around(tx), "key": key} | changes,
        )
        if done.stopped == "preempted":
            raise Preempted
        return done

    def tune(model, name, *, epochs, learning_rate=None, around=None, penalty=None):
        def keeping(tx):
            return optax.chain(tx, prune.masked(prune.nonzero(model.params)))

        options = {"epochs": epochs, "learning_rate": learning_rate, "around": around or keeping}
        terms = [term for term in (fit["penalty"], penalty) if term]
        if terms:
            options["penalty"] = lambda params: sum(term(params) for term in terms)
        done = fitted(name, model.apply, model.params, **options)
        return model.replace(params=done.params)

    def learn(name, *, epochs, learning_rate, teacher=None):
        params, state = jax.jit(student.init)(_key(fit["key"], f"{name} parameters"))
        options = {"epochs": epochs, "learning_rate": learning_rate, "teacher": teacher}
        done = fitted(name, student.apply, params, state=state, **options)
        images = np.zeros((1, *dataset.image_shape), np.float32)
        return fold(trace(inference(student.apply, done.state), done.params, images))

    return Work(dataset, steps, tune, learn, say)


def _stages(reader: Reader, steps: Callable[[str, float], int]) -> list[Made]:
    """Returns what each stage makes, by what of its section was not read before.

    Args:
      reader: the config.
      steps: (key, its epochs) -> steps, or ConfigError.
    """
    found, names = [], reader.get("stages")
    for name in names:
        stage = registry.choose("stage", STAGES, name)
        recipe.check("stages", names, names.count(name) == 1, "a list of different stages")
        given = reader.section(stage.section).rest() if stage.section else {}
        registry.check(f"stage '{name}'", stage.function, given)
        steps(f"{name}.epochs", given.get("epochs", 0))
        found.append(stage.function(**given))
    return found


def _student(reader: Reader, dataset: data.Dataset) -> models.Network | None:
    """Returns the network that stage `distill` trains; None if the config names none."""
    given = reader.section("student").rest()
    if not given:
        return None
    shared = {k: reader.section("model").get(k) for k in ("dtype", "sync_batchnorm")}
    return network_of(shared | given, dataset.image_shape, dataset.num_classes)


def _key(key: jax.Array, name: str) -> jax.Array:
    """Returns a key of its own for each training of a pipeline."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
