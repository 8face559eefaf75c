"""From a trained network to a smaller one: the stages of a config, each kept as a `.hcz` file.

In: a config with stages, and a folder. Out: a file for each network that the stages make. What a
file holds already is not made again, so a pipeline that was cut goes on, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from hcjax import config as configs
from hcjax import configfile, data, models, options, recipe
from hcjax import workdir as workdirs
from hcjax.artifact import pack, unpack
from hcjax.data import order
from hcjax.errors import ConfigError
from hcjax.graph import Model, fold, trace
from hcjax.graph.model import free
from hcjax.models import inference
from hcjax.reports import report
from hcjax.saved import load_any
from hcjax.stages import STAGES, Made, Work
from hcjax.training import hosts, loop
from hcjax.transforms import distill, prune

# of a config that only stages read
_SECTIONS = ("distill", "student", "prune", "shrink", "quantize")


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


def compress(
    config: dict, workdir: Path, *, train: Callable, say: Callable = print, quiet: bool = False
) -> Compressed | None:
    """Returns the networks that the stages of a config make, as files.

    Args:
      config: as nested dicts, with stages.
      workdir: of the pipeline.
      train: `(config, workdir) -> report` of a run without stages; None if it was preempted.
      say: prints a line. quiet: show no progress of trainings.

    Returns:
      Compressed; None if a training was preempted and saved: call again to go on.
    """
    reader = configs.Reader(config)
    made = recipe.build(reader)
    (weighing, beside, kept_in), student = _distillation(reader), _student(reader, made.dataset)
    stages = _stages(reader)
    if student is None and "distill" in config["stages"]:
        raise ConfigError("stage 'distill' needs config.student.name, the network to be taught")
    reader.check_unread()
    try:
        start = _start(config, workdir, train)
        given = {k: np.float32(start.about[k]) for k in ("mean", "std") if k in start.about}
        dataset = dataclasses.replace(made.dataset, **given)
        taught = _taught(made, weighing, _teachers(start, beside), kept_in)
        work = _work(config, made, dataset, taught, student, workdir, quiet, say)
        found = Compressed({}, {}, dataset)

        def kept(name, make):
            path = workdir / f"{len(found.files)}-{name}.hcz"
            if not hosts.gather(path.exists())[0]:
                model = make().replace(about=start.about)
                if jax.process_index() == 0:
                    report.write_bytes(path, pack(model))
                hosts.gather(0)  # none reads it before it is there
            say(f"{name}: {path.stat().st_size:,} bytes in {path}")
            found.files[name], found.models[name] = path, unpack(path.read_bytes())
            return found.models[name]

        model = kept("float", lambda: start)
        for stage in stages:
            begun = model
            for name, make in stage:
                model = kept(free(name, found.files), partial(make, work, begun, model))
    except Preempted:
        return None
    return found


def _work(config, made, dataset, taught, student, workdir, quiet, say) -> Work:
    """Returns what the stages share."""
    batch_size = made.fit["batch_size"]
    fit = made.fit | {"patience": None, "quiet": quiet}

    def steps(epochs):
        return round(epochs * len(dataset.train.labels) / batch_size)

    def fitted(
        name, apply, params, *, epochs, learning_rate, around=lambda tx: tx, teacher=None, **changes
    ):
        key = _key(fit["key"], name)
        count = made.steps if epochs is None else steps(epochs)
        tx = recipe.optimizer_of(configs.Reader(config), count, learning_rate=learning_rate)
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


def _distillation(
    reader: configs.Reader,
) -> tuple[tuple[float, float], tuple[str, ...], Path | None]:
    """Returns ((weight, temperature), other teachers, folder of their logits) of `distill`."""
    section = reader.section("distill")
    weight, temperature, beside = (section.get(k) for k in ("weight", "temperature", "beside"))
    recipe.check("distill.weight", weight, 0 <= weight <= 1, "in [0, 1]")
    recipe.check("distill.temperature", temperature, temperature > 0, "> 0")
    folder = section.get("logits")
    return (weight, temperature), tuple(beside), Path(folder).expanduser() if folder else None


def _taught(made, weighing, teachers: Sequence[Model], folder: Path | None) -> Callable:
    """Returns (key of a training, its own teacher or None) -> what `fit` takes to be taught."""
    weight, temperature = weighing

    def taught(key, teacher):
        if not weight:
            return {}
        models = teachers if teacher is None else [teacher]
        tell = [partial(model.apply, model.params) for model in models]
        given = {
            "loss": distill.taught(made.fit["loss"], weight=weight, temperature=temperature),
            "teacher": tell[0] if len(tell) == 1 else distill.ensemble(tell),
        }
        if folder:
            facts = (order.seed_of(key), made.fit["batch_size"], made.fit["augment"])
            digest = hashlib.sha256(repr(facts).encode())
            for model in models:
                digest.update(pack(model))
            given["teacher_logits"] = folder / f"{digest.hexdigest()[:16]}.logits"
        return given

    return taught


def _teachers(start: Model, beside: Sequence[str]) -> list[Model]:
    """Returns the network that the stages begin with, and the others that teach beside it."""
    models = [start]
    for path in beside:
        model, about = load_any(path)
        for key in ("mean", "std", "class_names"):
            if about.get(key) != start.about.get(key):
                raise ConfigError(
                    f"config.distill.beside: {path} has {key} {about.get(key)!r:.80}, expected "
                    f"that of the network beside it, {start.about.get(key)!r:.80}"
                )
        models.append(model)
    return models


def _stages(reader: configs.Reader) -> list[Made]:
    """Returns what each stage makes, by what of its section was not read before."""
    found, names = [], reader.get("stages")
    for name in names:
        function = options.choose("stage", STAGES, name)
        recipe.check("stages", names, names.count(name) == 1, "a list of different stages")
        given = reader.section(name).rest() if name in _SECTIONS else {}
        options.check(f"stage '{name}'", function, given)
        epochs = given.get("epochs", 0)
        recipe.check(f"{name}.epochs", epochs, math.isfinite(epochs) and epochs >= 0, ">= 0")
        found.append(function(**given))
    return found


def _student(reader: configs.Reader, dataset: data.Dataset) -> models.Network | None:
    """Returns the network that stage `distill` trains; None if the config names none."""
    given = reader.section("student").rest()
    if not given:
        return None
    shared = {k: reader.section("model").get(k) for k in ("dtype", "sync_batchnorm")}
    return workdirs.network({"model": shared | given}, dataset.image_shape, dataset.num_classes)


def _without_stages(config: dict) -> dict:
    """Returns the config of the training that comes before the stages."""
    emptied = {name: dict.fromkeys(config[name]) for name in _SECTIONS}
    return config | emptied | {"stages": [], "teacher": ""}


def _start(config: dict, workdir: Path, train: Callable) -> Model:
    """Returns the folded network that a pipeline starts from, trained where it must be."""
    teacher = config["teacher"]
    if teacher and not teacher.endswith(".py"):
        return load_any(teacher)[0]
    own = config
    if teacher:  # of this pipeline's seed: several seeds are several teachers
        own = configs.to_dict(configfile.load(teacher)) | {"seed": config["seed"]}
    if train(_without_stages(own), workdir / "train") is None:
        raise Preempted
    return load_any(workdir / "train")[0]


def _key(key: jax.Array, name: str) -> jax.Array:
    """Returns a key of its own for each training of a pipeline."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
