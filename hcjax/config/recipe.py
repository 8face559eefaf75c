"""`parse`: a config made into a typed `Recipe`, the one place that knows what the keys are called.

In: a config, as nested mappings. Out: plain values, one NamedTuple a section. Nothing is loaded or
computed, so whatever a config says wrongly is found before any work begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hcjax.config.reader import Reader, to_dict
from hcjax.errors import ConfigError, unknown_name

# keys of the section `train` that count something, and may be None or not
_COUNTS = ("batch_size", "eval_every", "eval_batch_size", "patience", "log_every")
_COUNTS += ("checkpoint_every", "keep")
_OPTIONAL = ("eval_every", "patience", "ema_decay", "checkpoint_every", "monitor")
# sections that a stage reads besides its own, and keys of its own that every training reads
_BESIDES = {"student": "distill"}
_TEACHING = ("loss", "weight", "temperature", "beside", "logits")


class Platform(NamedTuple):
    """Where a run computes.

    name: "cpu", "gpu", "tpu", or "" for the best that is there. deterministic: bit-exact GPU
    kernels. cache_dir: folder of compiled programs, "" for the default, "off" for none.
    """

    name: str
    deterministic: bool
    cache_dir: str


class Data(NamedTuple):
    """The section `data`.

    source: a key of `data.SOURCES`. seed: of the split. threads: that read ahead. options: further
    keywords of `data.load`.
    """

    source: str
    seed: int
    threads: int
    options: dict[str, Any]


class Loss(NamedTuple):
    """The section `loss`.

    name: a key of the task's losses; None for the task's own. options: its keywords. l1, l2:
    weights of the penalties, >= 0. class_weights: "" or "balanced".
    """

    name: str | None
    options: dict[str, Any]
    l1: float
    l2: float
    class_weights: str


class Optim(NamedTuple):
    """The sections `optim` and `schedule`.

    name: of the optimiser. learning_rate: the peak. accumulate_steps: batches of an update.
    clip_norm: largest norm of the gradient, or None. freeze: pattern of paths, or None. options:
    further keywords of the optimiser. schedule, schedule_options: name and keywords.
    """

    name: str
    learning_rate: float
    accumulate_steps: int
    clip_norm: float | None
    freeze: str | None
    options: dict[str, Any]
    schedule: str
    schedule_options: dict[str, Any]


class Train(NamedTuple):
    """The section `train`; fields as in `configs/default.py`."""

    epochs: float
    batch_size: int
    eval_every: int | None
    eval_batch_size: int
    patience: int | None
    monitor: str | None
    ema_decay: float | None
    log_every: int
    checkpoint_every: int | None
    keep: int


class Teaching(NamedTuple):
    """How a pipeline's trainings are taught: the keys of `distill` that every stage shares.

    loss: a key of `distill.TEACH`; None for the task's own. weight: of the teachers' loss, in [0,
    1]. temperature: > 0. beside: paths of the networks that teach beside the first. logits: folder
    that keeps the teachers' logits; None keeps none.
    """

    loss: str | None
    weight: float
    temperature: float
    beside: tuple[str, ...]
    logits: Path | None


class Recipe(NamedTuple):
    """A config, parsed.

    config: what was parsed, as nested dicts, for whoever writes it down. task: a key of
    `tasks.TASKS`. seed: of parameters, order and split. accelerate: rewrite slow operations.
    init_from: workdir to take parameters from, or "". profile_steps: >= 0. platform, data, loss,
    optim, train: sections. augment: (name, options) in order. model, student: "name", "dtype",
    "sync_batchnorm" and options of `models.create`; student is None where there is none. stages:
    name -> options, in order. teacher: of the stages, or "". teaching: None without stages.
    """

    config: dict[str, Any]
    task: str
    seed: int
    accelerate: bool
    init_from: str
    profile_steps: int
    platform: Platform
    data: Data
    augment: tuple[tuple[str, dict[str, Any]], ...]
    model: dict[str, Any]
    loss: Loss
    optim: Optim
    train: Train
    stages: dict[str, dict[str, Any]]
    teacher: str
    teaching: Teaching | None
    student: dict[str, Any] | None


def parse(config: Any, stages: Mapping[str, str]) -> Recipe:
    """Parses a config, reading every key.

    Args:
      config: see `configs/default.py`; ConfigDict or nested mappings.
      stages: name of a stage -> section of its options, "" for none.

    Returns:
      Recipe. Names and options of what lives in tables (models, losses, sources, …) are checked by
      whoever looks them up.

    Raises:
      ConfigError: if a key is missing, has an illegal value, or is read by nothing.
    """
    config = to_dict(config)
    reader = Reader(config)
    names, teacher = reader.get("stages"), reader.get("teacher")
    check("teacher", teacher, names or not teacher, "'' where config.stages is empty")
    seed, profile_steps = reader.get("seed"), reader.get("profile_steps")
    check("seed", seed, 0 <= seed < 2**32, "in [0, 2**32)")
    check("profile_steps", profile_steps, profile_steps >= 0, ">= 0")
    model = _model(reader.section("model"))
    recipe = Recipe(
        config=config,
        task=reader.get("task"),
        seed=seed,
        accelerate=reader.get("accelerate"),
        init_from=reader.get("init_from"),
        profile_steps=profile_steps,
        platform=_platform(reader),
        data=_data(reader.section("data"), seed),
        augment=_augment(reader.section("augment")),
        model=model,
        loss=_loss(reader.section("loss")),
        optim=_optim(reader.section("optim"), reader.section("schedule")),
        train=_train(reader.section("train")),
        teaching=_teaching(reader.section("distill"), names),
        student=_student(reader, model) if names else None,
        stages=_stages(reader, names, stages),
        teacher=teacher,
    )
    check_sections(config, stages)
    reader.check_unread()
    if recipe.student is None and "distill" in names:
        raise ConfigError("stage 'distill' needs config.student.name, the network to be taught")
    return recipe


def platform_of(config: Any) -> Platform:
    """Parses the keys that say where to compute, of a config that may lack all others."""
    return _platform(Reader(config))


def data_of(config: Any) -> Data:
    """Parses the section `data` and the seed, of a config that may lack all others."""
    reader = Reader(config)
    return _data(reader.section("data"), reader.get("seed"))


def check(key: str, value: Any, legal: bool, expected: str) -> None:
    """Raises ConfigError unless a key's value is legal.

    Args:
      key: its full name. value: what it holds. expected: what would be legal, in words.
    """
    if not legal:
        raise ConfigError(f"config.{key} must be {expected}, got {value!r}")


def emptied(config: Mapping[str, Any], stages: Mapping[str, str]) -> dict[str, Any]:
    """Returns the config of the training that comes before the stages.

    Args:
      config: as nested dicts.
      stages: as of `parse`.
    """
    unset = {name: dict.fromkeys(config[name]) for name in _readers(stages) if name in config}
    return {**config, **unset, "stages": [], "teacher": ""}


def _platform(reader: Reader) -> Platform:
    return Platform(*(reader.get(key) for key in ("platform", "deterministic", "cache_dir")))


def _data(section: Reader, seed: int) -> Data:
    source, threads = section.get("source"), section.get("threads")
    check("data.threads", threads, threads >= 0, ">= 0")
    options = section.rest()
    if source == "mnist" and "path" in options:
        raise ConfigError("config.data.path has no use: source mnist is packed with hcjax")
    if "://" not in options.get("path", "://"):
        options["path"] = str(Path(options["path"]).expanduser())
    return Data(source, seed, threads, options)


def _augment(section: Reader) -> tuple[tuple[str, dict], ...]:
    names = section.get("use")
    if isinstance(names, str):
        raise ConfigError(f"config.augment.use must be a tuple of names, e.g. ('{names}',)")
    # a name without a section is refused, or not, by whoever looks it up
    return tuple((n, section.section(n).rest() if n in section else {}) for n in names)


def _model(section: Reader) -> dict[str, Any]:
    return {k: section.get(k) for k in ("name", "dtype", "sync_batchnorm")} | section.rest()


def _student(reader: Reader, model: Mapping[str, Any]) -> dict[str, Any] | None:
    options = reader.section("student").rest()
    return {k: model[k] for k in ("dtype", "sync_batchnorm")} | options if options else None


def _loss(section: Reader) -> Loss:
    name = section.optional("name")
    l1, l2, weights = (section.get(k) for k in ("l1", "l2", "class_weights"))
    check("loss.l1", l1, l1 >= 0, ">= 0")
    check("loss.l2", l2, l2 >= 0, ">= 0")
    check("loss.class_weights", weights, weights in ("", "balanced"), "'' or 'balanced'")
    return Loss(name, section.rest(), l1, l2, weights)


def _optim(section: Reader, schedule: Reader) -> Optim:
    return Optim(
        name=section.get("name"),
        learning_rate=section.get("learning_rate"),
        accumulate_steps=section.get("accumulate_steps"),
        clip_norm=section.optional("clip_norm"),
        freeze=section.optional("freeze"),
        options=section.rest(),
        schedule=schedule.get("name"),
        schedule_options=schedule.rest(),
    )


def _train(section: Reader) -> Train:
    fields = {k: (section.optional if k in _OPTIONAL else section.get)(k) for k in Train._fields}
    for key in _COUNTS:
        value = fields[key]
        check(f"train.{key}", value, value is None or value >= 1, ">= 1")
    epochs = fields["epochs"]
    check("train.epochs", epochs, math.isfinite(epochs) and epochs >= 0, ">= 0")
    return Train(**fields)


def _teaching(section: Reader, stages: list[str]) -> Teaching | None:
    if not stages:  # then nothing else asks for them
        for key in _TEACHING:
            section.optional(key)
        return None
    loss = section.optional("loss")
    weight, temperature, paths, folder = (section.get(key) for key in _TEACHING[1:])
    check("distill.weight", weight, 0 <= weight <= 1, "in [0, 1]")
    check("distill.temperature", temperature, temperature > 0, "> 0")
    texts = isinstance(paths, list) and all(isinstance(p, str) and p for p in paths)
    check("distill.beside", paths, texts, "a tuple of workdirs and .hcz files, ('a.hcz',)")
    logits = Path(folder).expanduser() if folder else None
    return Teaching(loss, weight, temperature, tuple(paths), logits)


def _stages(reader: Reader, names: list[str], stages: Mapping[str, str]) -> dict[str, dict]:
    """Returns name -> options of each stage; those of `distill` are read by `_teaching` before."""
    options = {}
    for name in names:
        if name not in stages:
            raise ConfigError(unknown_name("stage", str(name), stages))
        check("stages", names, names.count(name) == 1, "a list of different stages")
        options[name] = reader.section(stages[name]).rest() if stages[name] else {}
    return options


def _readers(stages: Mapping[str, str]) -> dict[str, str]:
    """Returns section -> the stage that reads it."""
    return {section: name for name, section in stages.items() if section} | _BESIDES


def check_sections(config: Mapping[str, Any], stages: Mapping[str, str]) -> None:
    """Raises ConfigError if a section has options for a stage that is not in config.stages.

    Args:
      config: as nested dicts.
      stages: as of `parse`.
    """
    for section, stage in _readers(stages).items():
        if stage in config["stages"]:
            continue
        for key, value in config.get(section, {}).items():
            if value is not None and not (section == "distill" and key in _TEACHING):
                raise ConfigError(
                    f"config.{section}.{key} is set, but `{stage}` is not in config.stages, "
                    f"{tuple(config['stages'])}: add it there, or unset the key"
                )
