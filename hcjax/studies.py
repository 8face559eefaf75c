"""Several runs of one config: over seeds, and over a grid of values.

In: a config and a folder. Out: one sub-folder per run, a table, and a JSON file that sums up.
Runs that are finished are read, not repeated, so a study that was cut goes on.
"""

from __future__ import annotations

import ast
import copy
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hcjax import config as configs
from hcjax.errors import ConfigError
from hcjax.reports import report, tables
from hcjax.run import run

# What a table shows of each run.
SHOWN = ("test_accuracy", "test_error", "nll", "ece", "train_seconds", "images_per_second")


def seeds(config: Any, workdir: Path, count: int, *, quiet: bool = False, started=None) -> dict:
    """Returns mean and standard deviation over `count` seeds, from config.seed on.

    Args:
      config: ConfigDict or nested dicts.
      workdir: each run goes to its sub-folder seed-N, the summary to seeds.json.
      count: number of seeds, >= 1.
      quiet: print nothing but the table.
      started: see `run`; for the first run.

    Returns:
      {"results": one dict per seed, "mean": {...}, "std": {...}, "n": count}.
    """
    if count < 1:
        raise ConfigError(f"--seeds must be at least 1, got {count}")
    plain = configs.to_dict(config)
    results = []
    for seed in range(plain["seed"], plain["seed"] + count):
        done = run({**plain, "seed": seed}, workdir / f"seed-{seed}", quiet=quiet, started=started)
        if done is None:
            return {}
        started = None
        results.append({"seed": seed, **{k: done[k] for k in SHOWN}})
    stats = {k: tables.mean_std([r[k] for r in results]) for k in SHOWN}
    summary = {
        "results": results,
        "mean": {k: v[0] for k, v in stats.items()},
        "std": {k: v[1] for k, v in stats.items()},
        "n": count,
    }
    report.write_json(workdir / "seeds.json", summary)
    print(tables.seeds(results))
    print(f"in {workdir / 'seeds.json'}")
    return summary


def sweep(
    config: Any, workdir: Path, lists: Sequence[str], *, quiet: bool = False, started=None
) -> list:
    """Returns [(settings, numbers), ...] of a grid of runs, best validation accuracy first.

    Args:
      config: ConfigDict or nested dicts.
      workdir: each run goes to a sub-folder named after its settings, the list to sweep.json.
      lists: "optim.learning_rate=1e-3,3e-4", one for each key of the grid.
      quiet: print nothing but the table.
      started: see `run`; for the first run.

    Note:
      Choose by validation_accuracy, which ranks the table; the test column is for the report.
    """
    grid = [_values(text, configs.to_dict(config)) for text in lists]
    results = []
    for choice in itertools.product(*(values for _, values in grid)):
        settings = dict(zip((key for key, _ in grid), choice, strict=True))
        plain = copy.deepcopy(configs.to_dict(config))
        for key, value in settings.items():
            _set(plain, key, value)
        name = ",".join(f"{key}={value}" for key, value in settings.items()).replace("/", "_")
        print(f"--- {name}")
        done = run(plain, workdir / name, quiet=quiet, started=started)
        if done is None:
            return []
        started = None
        results.append((settings, {k: done[k] for k in ("validation_accuracy", *SHOWN)}))
    report.write_json(workdir / "sweep.json", results)
    print(tables.sweep(results))
    print(f"in {workdir / 'sweep.json'}")
    return results


def _values(text: str, config: dict) -> tuple[str, list]:
    """Returns (key, values) of 'key=v1,v2'."""
    key, equals, values = text.partition("=")
    key = key.removeprefix("config.")
    known = configs.flatten(config)
    if not equals or not values:
        raise ConfigError(f"--sweep needs KEY=V1,V2,..., got {text!r}")
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--sweep: the config has no key {key!r}{hint}")
    return key, [_literal(v, known[key], key) for v in values.split(",")]


def _literal(text: str, like: Any, key: str) -> Any:
    """Returns the value that `text` says, of the type of the config's own value."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if like is not None and type(value) is not type(like):
        raise ConfigError(
            f"--sweep: {key} is a {type(like).__name__} (now {like!r}), {text!r} is not"
        )
    return value


def _set(tree: dict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        tree = tree[part]
    tree[last] = value
