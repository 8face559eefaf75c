"""Several runs of one config: over seeds, and over a grid of values.

In: a config and a folder. Out: one sub-folder per run, a table, and a JSON file that sums up.
Runs that are finished are read, not repeated, so a study that was cut goes on.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from hcjax import tasks
from hcjax.app.run import run
from hcjax.config import configfile
from hcjax.config.reader import fingerprint, to_dict
from hcjax.core import files
from hcjax.errors import ConfigError, DivergedError
from hcjax.report import tables

# What the table of a sweep shows of each run, and those of several seeds; of a config with stages,
# what the last of them has come to, or each.
CHOOSE_BY = ("validation_accuracy", "validation_nll", "validation_ece", "train_seconds")
CHOOSE_LAST_BY = ("validation_accuracy", "file_bytes", "seconds")
STAGES = (
    "accuracy", "validation_accuracy", "difference", "nonzeros", "file_bytes", "ratio", "macs",
)  # fmt: skip
SHOWN = ("test_accuracy", "test_error", "nll", "ece", "train_seconds", "images_per_second")
SHOWN_LAST = ("test_accuracy", "test_error", "validation_accuracy", "file_bytes")


def seeds(config: Any, workdir: Path, count: int, *, quiet: bool = False, started=None) -> dict:
    """Returns mean and standard deviation over `count` seeds, from config.seed on.

    Args:
      config: ConfigDict or nested dicts.
      workdir: each run goes to its sub-folder seed-N, the summary to seeds.json.
      count: number of seeds, >= 1.
      quiet: print nothing but the table.
      started: see `run`; for the first run.

    Returns:
      {"results": one dict per seed, "mean": {...}, "std": {...}, "n": count}; of a config with
      stages also "stages": for each seed a list of them, as in its report.
    """
    if count < 1:
        raise ConfigError(f"--seeds must be at least 1, got {count}")
    plain = to_dict(config)
    best = tasks.get(plain["task"]).best
    shown = SHOWN_LAST if plain["stages"] else SHOWN
    if plain["task"] != "classification" and not plain["stages"]:
        shown = (f"test_{best}", f"validation_{best}", *SHOWN[-2:])
    results, stages = [], []
    for seed in range(plain["seed"], plain["seed"] + count):
        done = run({**plain, "seed": seed}, workdir / f"seed-{seed}", quiet=quiet, started=started)
        if done is None:
            return {}
        started = None
        results.append({"seed": seed, **{k: done.get(k) for k in shown}})
        stages += [done["stages"]] if "stages" in done else []
    stats = {k: tables.mean_std([r[k] for r in results]) for k in shown}
    summary = {
        "results": results,
        "mean": {k: v[0] for k, v in stats.items()},
        "std": {k: v[1] for k, v in stats.items()},
        "n": count,
    }
    table = tables.seeds(results)
    if stages:
        summary["stages"] = stages
        known = [k for k in STAGES if any(stage.get(k) is not None for stage in stages[0])]
        table += f"\n\n{tables.stages(stages, known)}"
    _finish(workdir / "seeds.json", summary, table)
    return summary


def sweep(
    config: Any, workdir: Path, lists: Sequence[str], *, quiet: bool = False, started=None
) -> list:
    """Returns [(settings, numbers), ...] of a grid of runs; the table shows the best first.

    Args:
      config: ConfigDict or nested dicts.
      workdir: each run goes to a sub-folder named after its settings, the list to sweep.json.
      lists: "optim.learning_rate=1e-3,3e-4", one for each key of the grid.
      quiet: print nothing but the table.
      started: see `run`; for the first run.

    Raises:
      ConfigError: if the config keeps no validation examples to choose by.

    Note:
      Numbers are of the validation part; test scores are in each run's report, not to choose by.
      A run that diverges is a row without numbers; the others go on.
    """
    grid = [_values(text) for text in lists]
    base = config if isinstance(config, ConfigDict) else ConfigDict(config)
    if base.data.validation == 0:
        raise ConfigError(
            "--sweep chooses by validation accuracy, and config.data.validation is 0; keep some "
            "training examples to choose by, e.g. --config.data.validation=10000"
        )
    runs = []
    for choice in itertools.product(*(values for _, values in grid)):
        settings = dict(zip((key for key, _ in grid), choice, strict=True))
        changed = copy.deepcopy(base)
        for key, text in settings.items():
            configfile.override(changed, key, text)
        runs.append((settings, to_dict(changed)))
    shown = CHOOSE_LAST_BY if any(plain["stages"] for _, plain in runs) else CHOOSE_BY
    task = tasks.get(runs[0][1]["task"])
    if task is not tasks.classification and shown is CHOOSE_BY:
        shown = (*(f"validation_{name}" for name in (task.best, *task.shown)), "train_seconds")
        shown = tuple(dict.fromkeys(shown))
    results = []
    for settings, plain in runs:  # every config is legal before the first run
        name = _folder(settings, plain)
        _say(f"--- {name}")
        try:
            done = run(plain, workdir / name, quiet=quiet, started=started)
        except DivergedError as error:
            _say(f"diverged: {error}")
            done = {}
        if done is None:
            return []
        started = None
        numbers = {f"validation_{k}": v for k, v in (done.get("validation") or {}).items()}
        results.append((settings, {k: (numbers | done).get(k) for k in shown}))
    table = tables.sweep(results, best_by=shown[0], rising=True)
    _finish(workdir / "sweep.json", results, table)
    return results


def _values(text: str) -> tuple[str, list[str]]:
    """Returns (key, values) of 'key=v1,v2'."""
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise ConfigError(f"--sweep needs KEY=V1,V2,..., got {text!r}")
    return key.removeprefix("config."), configfile.split_list(values)


def _folder(settings: dict[str, str], plain: dict) -> str:
    """Returns the name of a run's sub-folder."""
    name = ",".join(f"{key}={text}" for key, text in settings.items()).replace("/", "_")
    return name if len(name) < 200 else f"{name[:150]}-{fingerprint(plain)}"


def _finish(path: Path, results: Any, table: str) -> None:
    if jax.process_index() == 0:
        files.write_json(path, results)
        _say(f"{table}\nin {path}")


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text)
