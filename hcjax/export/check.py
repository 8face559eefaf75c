"""Runs every artifact of an export in its own runtime, and compares it with what it promises.

In: a folder. Out: a `Row` for each artifact: agreement with the original on the folder's examples,
a score on test data where there is some, bytes, and times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcjax.core import brief, formats, text
from hcjax.errors import DependencyError, HcjaxError, unknown_name
from hcjax.export import manifest
from hcjax.export.examples import Examples
from hcjax.export.runtimes import RUNTIMES, Arrays, Engine

SECONDS = 0.5  # of timed calls
CALLS = (20, 1000)  # at least, at most
SIZE = 16  # examples of a call, where any number is legal
_RMS = 0.05  # of the range of outputs that are no classes, where classes are promised


class Test(NamedTuple):
    """Test data of a network. inputs: flat arrays. score: flat outputs -> score, 1 the best."""

    inputs: list[np.ndarray]
    score: Callable[[list[np.ndarray]], float]

    __repr__ = brief.record
    __test__ = False


class Row(NamedTuple):
    """What one artifact does.

    file, bytes: of it. runtime: that ran it, with its version; "" if nothing did. agreement: with
    the original, or None if nothing ran it. score: on test data, or None. p50, p99: quantiles
    of the seconds of a call, of one example or of `batch`; or None. promise: in words. problem:
    what is wrong with it, or "". note: why it was not run, or "".
    """

    file: str
    bytes: int
    runtime: str = ""
    agreement: Agree | None = None
    score: float | None = None
    p50: float | None = None
    p99: float | None = None
    batch: int = 1
    promise: str = ""
    problem: str = ""
    note: str = ""

    __repr__ = brief.record


class Agree(NamedTuple):
    """How far flat outputs are alike.

    equal: share of the numbers that have the same bits. difference: the largest, in parts of the
    range of the output. rms: the root of the mean square, likewise. argmax: share of the examples
    with the same class; None if no output has classes on its last axis.
    """

    equal: float
    difference: float
    rms: float
    argmax: float | None

    __repr__ = brief.record


def agree(found: Arrays, expected: Arrays) -> Agree:
    """Compares flat outputs with those of the original.

    Raises:
      ValueError: if their count or shapes differ.

    Example:
      >>> agree([np.array([[0.0, 1.0]])], [np.array([[0.0, 2.0]])])
      Agree(equal=0.5, difference=0.5, rms=0.353553, argmax=1)
    """
    same, numbers, differences, rms, classes = 0, 0, [0.0], [0.0], []
    for x, y in zip(found, expected, strict=True):
        if x.shape != y.shape:
            raise ValueError(f"outputs of shape {list(x.shape)}, the original has {list(y.shape)}")
        bits = x == y if x.dtype == y.dtype else np.zeros(y.shape, bool)
        a, b = x.astype(np.float64), y.astype(np.float64)
        same, numbers = same + int((bits | (np.isnan(a) & np.isnan(b))).sum()), numbers + y.size
        finite = np.isfinite(b)
        width = np.ptp(b[finite]) if finite.any() else 0.0
        with np.errstate(invalid="ignore"):  # of infinities
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        apart = np.nan_to_num(apart / (width or 1.0), nan=math.inf, posinf=math.inf)
        differences.append(float(apart.max(initial=0.0)))
        rms.append(float(np.sqrt((apart**2).mean())) if y.size else 0.0)
        if y.ndim > 1 and y.shape[-1] > 1 and y.dtype.kind not in "iub":
            classes.append(float((a.argmax(-1) == b.argmax(-1)).mean()))
    share = same / numbers if numbers else 1.0
    return Agree(share, max(differences), max(rms), min(classes) if classes else None)


def kept(promise: Mapping[str, Any], agreement: Agree, count: int) -> bool:
    """Tells whether outputs are alike as it was promised.

    Args:
      promise: see `manifest.PROMISES`. agreement: of `agree`.
      count: of the examples, of which one may always be of another class where a share is promised.

    Example:
      >>> kept({"kind": "argmax", "share": 0.99}, Agree(0.0, 0.3, 0.1, 15 / 16), 16)
      True
    """
    if promise["kind"] == "equal":
        return agreement.equal == 1.0
    if promise["kind"] == "close":
        return agreement.difference <= promise["tolerance"]
    if agreement.argmax is None:
        return agreement.rms <= _RMS
    return agreement.argmax >= min(promise["share"], 1 - 1 / count)


def check(
    folder: str | Path,
    *,
    test: Test | None = None,
    timed: bool = True,
    said: Callable[[str], Any] = lambda text: None,
) -> list[Row]:
    """Runs all artifacts of an export.

    A file whose sha256 is not the manifest's is neither compiled nor run. What needs a package or a
    compiler that is not here is not run, and its row says so.

    Args:
      folder: of `hcjax.export.write`.
      test: data to score on; None: the examples alone.
      timed: whether to measure the time of calls.
      said: is told the name of each artifact before it is run.

    Raises:
      ArtifactError: if the manifest or the examples are missing or damaged.
    """
    folder = Path(folder).expanduser()
    facts = manifest.read(folder)
    examples = manifest.of_examples(folder, facts)
    broken = {}
    for name in facts["files"]:
        try:
            manifest.content(folder, facts, name)
        except HcjaxError as error:
            broken[name] = str(error)
    rows, whole = [], {each["file"] for each in facts["artifacts"]}
    for entry in facts["artifacts"]:
        said(entry["file"])
        rows.append(_row(folder, facts, entry, broken, examples, test, timed))
    for name, problem in broken.items():
        if name not in whole:
            edited = name == manifest.CARD and (folder / name).is_file()
            how = {"note": "was edited"} if edited else {"problem": problem}
            rows.append(Row(name, facts["files"][name]["bytes"], **how))
    return rows


def _row(
    folder: Path, facts: dict, entry: dict, broken: dict, examples: Examples, test: Any, timed: bool
) -> Row:
    file = entry["file"]
    row = Row(file, facts["files"][file]["bytes"], promise=manifest.promised(entry["promise"]))
    beside = [n for n in broken if n == file or (file.endswith(".c") and n.endswith(".h"))]
    if beside:
        return row._replace(problem=broken[beside[0]])
    try:
        if entry["runtime"] not in RUNTIMES:
            return row._replace(note=unknown_name("runtime", entry["runtime"], RUNTIMES))
        engine = RUNTIMES[entry["runtime"]](folder, facts, entry)
    except (DependencyError, ModuleNotFoundError) as error:
        return row._replace(note=f"not run: {error}")
    except HcjaxError as error:
        return row._replace(problem=f"{folder / file}: {error}")
    if engine is None:
        return row._replace(note="read, not run: there is no graph beside it")
    try:
        return _measured(row, engine, facts, entry, examples, test, timed)
    except Exception as error:  # a file may do anything, and other people's runtimes raise theirs
        kind = "" if isinstance(error, HcjaxError | ValueError) else f"{type(error).__name__}: "
        reason = f"{kind}{' '.join(str(error).split()):.300}"
        return row._replace(problem=f"{folder / file}: {reason}", runtime=engine.name)
    finally:
        engine.close()


def _measured(
    row: Row, engine: Engine, facts: dict, entry: dict, examples: Examples, test: Any, timed: bool
) -> Row:
    batched = [None in each["shape"] for each in facts["inputs"]]
    count = next(len(x) for x, b in zip(examples.inputs, batched, strict=True) if b)
    outputs = in_batches(engine, examples.inputs, batched, entry["batch"])
    agreement = agree(outputs, examples.outputs)
    row = row._replace(runtime=engine.name, agreement=agreement, batch=entry["batch"] or 1)
    if not kept(entry["promise"], agreement, count):
        row = row._replace(
            problem=f"{row.file} promises {row.promise}: found {in_words(agreement)}"
        )
    if test is not None:
        outputs = in_batches(engine, test.inputs, batched, entry["batch"])
        row = row._replace(score=test.score(outputs))
    if timed:
        one = _taken(examples.inputs, batched, np.arange(row.batch) % count)
        engine.run(one)
        each = float(np.median(engine.seconds(one, 5)))
        calls = int(np.clip(SECONDS / max(each, 1e-9), *CALLS))
        p50, p99 = np.quantile(engine.seconds(one, calls), [0.5, 0.99])
        row = row._replace(p50=float(p50), p99=float(p99))
    return row


def in_words(agreement: Agree) -> str:
    """Says an agreement in words, for messages and tables.

    Example:
      >>> in_words(Agree(1.0, 0.0, 0.0, 1.0)), in_words(Agree(0.5, 2e-7, 1e-7, 1.0))
      ('equal bits', '2e-07 of the range, 50.00 % equal bits, 100.00 % same class')
    """
    if agreement.equal == 1.0:
        return "equal bits"
    words = [f"{agreement.difference:.1g} of the range"]
    words.append(f"{formats.percent(agreement.equal)} equal bits")
    if agreement.argmax is not None:
        words.append(f"{formats.percent(agreement.argmax)} same class")
    return ", ".join(words)


def in_batches(
    engine: Engine, inputs: Arrays, batched: Sequence[bool], size: int | None
) -> list[np.ndarray]:
    """Returns the flat outputs of any number of examples, run so many at a time.

    Args:
      engine: what runs them. inputs: flat. batched: whether each has an axis of examples.
      size: of every call; the last one is filled up with the first example of it. None: any.
    """
    count, parts = next(len(x) for x, b in zip(inputs, batched, strict=True) if b), []
    for start in range(0, count, size or SIZE):
        index = np.arange(start, start + (size or SIZE))
        index = index[index < count] if size is None else np.where(index < count, index, start)
        parts.append((engine.run(_taken(inputs, batched, index)), min(count - start, len(index))))
    return [
        np.concatenate([np.asarray(part[i])[:n] for part, n in parts]) if np.ndim(first) else first
        for i, first in enumerate(parts[0][0])
    ]


def table(rows: Sequence[Row], *, score: str = "accuracy") -> str:
    """Tabulates rows: what ran, how far it agrees, how fast it is.

    Args:
      rows: of `check`. score: name of the score on test data.
    """
    columns = {
        "file": lambda r: r.file,
        "run by": lambda r: r.runtime or None,
        "bytes": lambda r: f"{r.bytes:,}",
        "agreement": lambda r: r.agreement and _share(r.agreement),
        "max difference": lambda r: r.agreement and f"{r.agreement.difference:.1e}",
        "same class": lambda r: _percent(r.agreement and r.agreement.argmax),
        formats.label(score): lambda r: None if r.score is None else formats.value(score, r.score),
        "batch": lambda r: f"{r.batch}" if r.p50 else None,
        "p50": lambda r: _milliseconds(r.p50),
        "p99": lambda r: _milliseconds(r.p99),
        "": lambda r: "wrong" if r.problem else "as promised" if r.agreement else "not run",
    }
    cells = {head: [cell(row) for row in rows] for head, cell in columns.items()}
    filled = {h: column for h, column in cells.items() if any(x is not None for x in column)}
    return text.table(list(zip(*filled.values(), strict=True)), list(filled))


def _share(agreement: Agree) -> str:
    if agreement.equal == 1.0:
        return "equal bits"
    return f"{formats.percent(agreement.equal)} equal"


def _percent(share: float | None) -> str | None:
    return None if share is None else formats.percent(share)


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{1e3 * seconds:.3g} ms"


def _taken(inputs: Arrays, batched: Sequence[bool], index: np.ndarray) -> list[np.ndarray]:
    return [x[index] if b else x for x, b in zip(inputs, batched, strict=True)]
