"""`run(config, workdir)`: the table of contents of the project. Config stops here.

In: a config and a folder. Out: a trained network in that folder, with its report; everything
called from here takes plain arguments.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax import config as configs
from hcjax import data, recipe, trees
from hcjax import workdir as workdirs
from hcjax.errors import ConfigError
from hcjax.reports import curves, plots, report, tables, writers
from hcjax.training import compiler, evaluate, loop, mistakes, platform, step, steps

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
    plain = configs.to_dict(config)
    marks = {"imports": time.perf_counter()}
    cache, counts = recipe.start_platform(configs.Reader(plain))
    marks["platform"] = time.perf_counter()
    say = (lambda *_: None) if quiet or jax.process_index() else print
    for line in [*platform.describe(cache), f"workdir {workdir}"]:
        say(line)
    done = workdirs.finished(workdir, plain)
    if done is not None:
        say(f"this run is finished; its report:\n{_table(done)}")
        return done

    reader = configs.Reader(plain)
    made = recipe.build(reader)
    reader.check_unread()
    say(compiler.describe(made.fit["accelerate"]))
    dataset = made.dataset
    marks["data and model"] = time.perf_counter()
    if not len(dataset.test.labels):
        raise ConfigError(
            "there are no test examples to score the network by; see config.data.test"
        )
    workdirs.claim(workdir, plain, command=sys.argv)
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
    parts = start_seconds(started, marks, fitted.seconds_to_first_step)
    say(
        f"first step after {fitted.seconds_to_first_step:.2f} s "
        f"({', '.join(f'{name} {seconds:.2f}' for name, seconds in parts.items())}); "
        f"compilation cache: {counts['hits']} hits, {counts['misses']} misses"
    )
    scored = evaluate.evaluate(
        made.network.apply,
        fitted.params,
        dataset,
        state=fitted.state,
        batch_size=reader.section("train").get("eval_batch_size"),
        accelerate=made.fit["accelerate"],
    )
    result = summary(plain, fitted, scored, dataset.class_names) | {"start_seconds": parts}
    worst = mistakes.worst(scored.each)
    if jax.process_index() == 0:
        draw(workdir, dataset, fitted.params, scored.sums["confusion"], worst)
        report.write_json(workdir / workdirs.REPORT, result)
    say(_table(result))
    say(f"report, curves, confusion matrix, worst mistakes and filters are in {workdir}")
    return result


def start_seconds(started: float, marks: dict[str, float], total: float) -> dict[str, float]:
    """Returns what the time to the first step is made of, in seconds.

    Args:
      started: when the process started.
      marks: when each part ended, in order, on the same clock.
      total: seconds to the end of the first step; the last part is what is left.

    Example:
      >>> start_seconds(1.0, {"imports": 3.0, "data": 3.5}, 4.0)
      {'imports': 2.0, 'data': 0.5, 'first step': 1.5}
    """
    ends = [started, *marks.values()]
    parts = {name: end - begin for name, begin, end in zip(marks, ends, ends[1:], strict=False)}
    return parts | {"first step": started + total - ends[-1]}


def summary(
    config: dict, fitted: loop.Fit, scored: evaluate.Evaluation, class_names: tuple[str, ...]
) -> dict:
    """Returns the report of a finished run."""
    score = scored.summary
    early = config["train"]["patience"] is not None  # then the best validation's parameters
    validated = fitted.best_step if early else fitted.step
    validation = [line for line in fitted.history if line["step"] == validated]
    return {
        "config": config,
        "seed": config["seed"],
        "test_accuracy": score["accuracy"],
        "test_error": score["error"],
        "test_examples": score["examples"],
        "nll": score["nll"],
        "ece": score["ece"],
        "per_class": score["per_class"],
        "confusion": scored.sums["confusion"].tolist(),
        "class_names": list(class_names),
        "validation": {k: v for k, v in validation[-1].items() if k != "step"}
        if validation
        else None,
        "validation_accuracy": validation[-1]["accuracy"] if validation else None,
        "parameters": trees.num_parameters(fitted.params),
        "weight_bytes": trees.size_bytes(fitted.params),
        "steps": fitted.step,
        "stopped": fitted.stopped,
        "best_step": fitted.best_step if early else None,
        "train_seconds": fitted.train_seconds,
        "seconds_to_first_step": fitted.seconds_to_first_step,
        "images_per_second": fitted.images_per_second,
        "peak_memory_bytes": platform.peak_memory_bytes(),
        "params_sha256": trees.sha256(fitted.params),
        "versions": workdirs.versions(),
        "git_commit": workdirs.git_commit(),
        "device": f"{workdirs.device()}, {platform.threads()} threads",
    }


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
      topology: "v5e:2x4", see `hcjax.training.chips`.
      dataset: of the same shapes and classes as the config's, where that is not at hand.
      quick: leave the largest batch and the weak scaling out.
    """
    from hcjax.training import plan as planning

    workdir = Path(workdir).expanduser().absolute()
    plain = configs.to_dict(config)
    # the compiler needs no TPU, and one that is here must stay free
    cache, _ = recipe.start_platform(configs.Reader({**plain, "platform": "cpu"}))
    reader = configs.Reader(plain)
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
    found = planning.plan(
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
    print(planning.text(found))
    print(f"in {report.write_json(workdir / 'plan.json', found)}")
    return found


def _table(result: dict) -> str:
    """Returns the report of a finished run for people."""
    confusion, names = result.get("confusion"), result.get("class_names")
    if not confusion or not names:
        return tables.end_of_run(result)
    return tables.end_of_run(result, confusion=np.asarray(confusion), class_names=names)


def draw(
    workdir: Path, dataset: data.Dataset, params: Any, confusion: np.ndarray, worst: dict
) -> None:
    """Writes the pictures of a finished run as PNG files into its workdir."""
    names, test = dataset.class_names, dataset.test
    curves.learning_curves(workdir / "curves.png", writers.read_metrics(workdir))
    plots.confusion_matrix(workdir / "confusion.png", confusion, class_names=names)
    plots.worst_mistakes(
        workdir / "mistakes.png",
        np.asarray(test.images[worst["index"]]),
        worst["label"],
        worst["prediction"],
        worst["confidence"],
        class_names=names,
    )
    height, width, channels = dataset.image_shape
    pixels = height * width * channels
    shapes = {4: lambda k: k.shape[2] == channels, 2: lambda k: k.shape[0] == pixels}
    kernels = [np.asarray(leaf) for _, leaf in trees.paths(params) if np.ndim(leaf) in shapes]
    if first := [k for k in kernels if shapes[k.ndim](k)]:
        plots.filters(workdir / "filters.png", first[0], input_shape=dataset.image_shape)
