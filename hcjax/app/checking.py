"""The folders of exports, verified: every artifact run, compared, scored and timed.

In: a folder of `hcjax export`. Out: one table, and the same for JSON, with a "problem" where an
artifact is not what its manifest promises.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import export, tasks
from hcjax.app import exporting, score, scoring
from hcjax.core import formats
from hcjax.errors import HcjaxError
from hcjax.export import manifest
from hcjax.export.check import Row, Test, table
from hcjax.export.hcz import interfaces

_ROUNDING = 1e-6  # of a score that is a sum of floats
_CLOSE = 1e-3  # of the examples, whose class rounding may change


class _Takes(NamedTuple):
    """What is known of a network's inputs, as `scoring.dataset_of` asks a Model for it."""

    about: dict
    alone: bool
    image_shape: tuple[int, ...]


def separated(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Returns (folders of exports that some paths and patterns name, the other paths)."""
    folders: dict[Path, Path] = {}
    others = []
    for argument in arguments:
        path = Path(argument).expanduser()
        here = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]
        for one in here or [path]:
            if manifest.is_export(one):
                folders.setdefault(one.resolve(), one)
            else:
                others.append(str(one))
    return list(folders.values()), others


def checked(
    folder: Path, config: Any, changes: score.Changes, *, timed: bool, data: bool
) -> list[dict[str, Any]]:
    """Prints what the artifacts of a folder do, and returns a dict for each.

    Args:
      folder: of an export. config, changes: of `scoring.start`.
      timed: whether to measure latency. data: whether to score on test data, if it is at hand.

    Returns:
      Rows: "file", "name", "bytes", "promise", "run_by", "equal", "difference", "same_class",
      the score by its name, "latency_seconds" (p50), "latency_p99_seconds", "batch"; and "problem",
      or "note" where it was not run.

    Raises:
      ArtifactError: if the manifest or the examples are missing or damaged.
    """
    facts = manifest.read(folder)
    test, where = None, None
    if data:
        test, where = _test_of(folder, facts, config, changes)
    print(f"{folder}: {facts['name']}, exported {facts['made']}")
    rows = export.check(folder, test=test, timed=timed)
    rows = [_scored(row, facts, where) for row in rows]
    name = where["score"] if where else "accuracy"
    print(table(rows, score=name))
    for row in rows:
        if row.note:
            print(f"{row.file}: {row.note}")
    return [_json(folder, row, name) for row in rows]


def _test_of(folder: Path, facts: dict, config: Any, changes: score.Changes) -> tuple[Any, Any]:
    """Returns (Test, what it is), or (None, None) and a line why there is none."""
    about, inputs = facts["about"], facts["inputs"]
    takes = _Takes(about, len(inputs) == 1, tuple(inputs[0]["shape"][1:]))
    try:
        dataset = scoring.dataset_of(folder, takes, config, changes)
        dataset = score.normalised(
            dataset,
            str(folder),
            image_shape=takes.image_shape,
            class_names=facts["labels"],
            mean=about.get("mean"),
            std=about.get("std"),
        )
    except HcjaxError as error:
        if config is not None or any(key.startswith("data.") for key, _ in changes):
            raise
        print(f"no test data: {error}")
        return None, None
    task = tasks.get(facts["task"])
    examples, targets = exporting.test_of(dataset, about)
    tree = interfaces.tree_of(facts["trees"]["outputs"])

    def scored(outputs: Sequence[np.ndarray]) -> float:
        found = jax.tree.map(lambda place: outputs[place], tree)
        sums = task.eval_sums(found, targets, np.ones(dataset.test.size, bool))
        summary = task.summarize(jax.device_get(sums))
        if task.whole is not None:
            summary |= task.whole(jax.device_get(task.each(found, targets)))
        return float(summary[task.best])

    dtypes = manifest.dtypes(facts)[0].values()
    leaves = jax.tree.leaves(examples)
    arrays = [np.asarray(x).astype(d) for x, d in zip(leaves, map(jnp.dtype, dtypes), strict=True)]
    where = {"score": task.best, "examples": dataset.test.size, "data": dataset.name}
    return Test(arrays, scored), where


def _scored(row: Row, facts: dict, where: dict | None) -> Row:
    """Adds the problem of an artifact that scores otherwise than the manifest says."""
    known = facts["scores"]
    if row.score is None or row.problem or not known or not where:
        return row
    if any(known[key] != where[key] for key in where):
        return row  # on other data
    promise = next(e["promise"] for e in facts["artifacts"] if e["file"] == row.file)
    slack = {"equal": _ROUNDING, "close": _CLOSE}.get(promise["kind"])
    slack = 1 - promise["share"] if slack is None else slack
    if abs(row.score - known["value"]) <= slack:
        return row
    found, expected = (formats.value(known["score"], x) for x in (row.score, known["value"]))
    text = f"{row.file}: {formats.label(known['score'])} {found}, the original has {expected}"
    return row._replace(problem=text)


def _json(folder: Path, row: Row, score_name: str) -> dict[str, Any]:
    agreement = row.agreement
    found = {
        "file": str(folder / row.file),
        "name": row.file,
        "bytes": row.bytes,
        "promise": row.promise,
        "run_by": row.runtime or None,
        "equal": agreement and agreement.equal,
        "difference": agreement and agreement.difference,
        "same_class": agreement and agreement.argmax,
        score_name: row.score,
        "batch": row.batch,
        "latency_seconds": row.p50,
        "latency_p99_seconds": row.p99,
    }
    if row.problem:
        path = str(folder / row.file)
        found["problem"] = row.problem if path in row.problem else f"{folder}: {row.problem}"
    return found | ({"note": row.note} if row.note else {})
