"""Sources `csv` and `jsonl`: rows of text and numbers, with a class or a number to predict.

In: a file, or a folder with a file for each part. Out: `Parts`, whose text becomes numbers, and
whose numbers are standardised, once it is known which rows are those of training.
"""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hcjax.core import registry
from hcjax.data.dataset import Parts, Split
from hcjax.data.sources.folder import PART_NAMES
from hcjax.errors import ConfigError, DataError, unknown_name

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_KINDS, _FILLS = ("classes", "number"), ("refuse", "mean")
_MANY = 20  # whole numbers that may be classes without a word
_LENGTH = 99  # percentile of the lengths of training texts that is kept
PAD, UNKNOWN = 0, 1  # numbers of no character, and of one that training has not seen
_FIRST = 2


def load(
    path: str | Path,
    *,
    target: str,
    kind: str | None = None,
    text: str | None = None,
    numbers: Sequence[str] | None = None,
    units: str = "characters",
    length: int | None = None,
    most: int = 20_000,
    missing: str = "refuse",
) -> Parts:
    """Reads a table: `path` is one file, or a folder with train, and validation and test, of them.

    Args:
      path: .csv (UTF-8, with a head) or .jsonl (an object a line), or a folder.
      target: column to predict.
      kind: "classes" or "number"; None: a number if the training values are numbers and one has a
        fraction, else classes.
      text: column of text, or None.
      numbers: columns of numbers; None for all others that hold only numbers.
      units: of text: "bytes" (UTF-8), "characters" or "words": in lower case, between spaces, each
        punctuation mark and symbol a word of its own.
      length: of a text in units; longer ones are cut, shorter ones padded with 0. None: enough for
        99 % of the training texts.
      most: units in the vocabulary, the most frequent of training; a file holds them, about 3
        bytes for each word.
      missing: of numbers "refuse", or "mean" of the training rows in their place.

    Returns:
      Parts. Its inputs are int32[N, length] tokens, float32[N, C] numbers, or {"numbers", "text"}
      of both; `about` holds the vocabulary, and means and standard deviations of the columns.

    Raises:
      DataError: if a file, a column or a value is missing, or there is nothing to predict from.
    """
    rows = {part: rows_of(file) for part, file in _files(Path(path)).items()}
    where, train = str(path), rows["train"]
    if not train:
        raise DataError(f"{where}: expected rows, found none")
    columns = list(train[0])
    for name in filter(None, (target, text, *(numbers or ()))):
        if name not in columns:
            raise DataError(f"{where}: {unknown_name('column', name, columns)}")
    registry.choose("units of text", UNITS, units)
    for what, value, legal in (("kind", kind, (None, *_KINDS)), ("missing", missing, _FILLS)):
        if value not in legal:
            raise ConfigError(f"{what} must be one of {', '.join(map(str, legal))}, got {value!r}")
    if numbers is None:
        others = [name for name in columns if name not in (target, text)]
        numbers = [name for name in others if all(map(_is_number, _column(train, name)))]
    if not text and not numbers:
        raise DataError(
            f"{where}: expected a column of text (text=...) or of numbers beside '{target}', found "
            f"{', '.join(columns)}"
        )
    values = {part: _column(r, target) for part, r in rows.items()}
    _check_targets(where, target, values)
    names = () if kind == "number" else _classes(where, target, values["train"], kind)
    splits = {
        part: Split(
            _raw(r, text, numbers, where, missing), _targets(where, target, values[part], names)
        )
        for part, r in rows.items()
    }
    finish = _finisher(text, tuple(numbers), UNITS[units], units, length, most)
    return Parts(names, form="arrays", finish=finish, **splits)


def encode(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Any:
    """Returns what a network that was trained on a table gets for new rows.

    Args:
      rows: dicts with the columns of the table; the target may be missing.
      about: of the dataset.

    Raises:
      DataError: if a column is missing, or a number.

    Example:
      >>> about = {"text": {"column": "name", "units": "bytes", "length": 4}}
      >>> encode([{"name": "ab"}], about).tolist()
      [[99, 100, 0, 0]]
    """
    found = {}
    if "numbers" in about:
        facts = about["numbers"]
        raw = _numbers(rows, facts["columns"], "rows", "mean")
        found["numbers"] = _standardised(raw, facts["mean"], facts["std"])
    if "text" in about:
        facts = about["text"]
        if any(facts["column"] not in row for row in rows):
            raise DataError(f"rows: expected the column '{facts['column']}' in each")
        texts = [str(row[facts["column"]]) for row in rows]
        vocabulary = facts.get("vocabulary")
        found["text"] = _tokens(texts, UNITS[facts["units"]], vocabulary, facts["length"])
    return found if len(found) > 1 else next(iter(found.values()))


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    found: dict[str, Path] = {}
    for file in sorted(path.glob("*")) if path.is_dir() else ():
        part = next((p for p, names in _PARTS.items() if file.stem.lower() in names), None)
        if part and file.suffix.lower() in _READERS:
            if part in found:
                raise DataError(f"{path}: expected one file of {part}, found {found[part]}, {file}")
            found[part] = file
    if "train" not in found:
        raise DataError(
            f"{path}: expected a .csv or .jsonl file, or a folder with train.csv or train.jsonl, "
            "found neither"
        )
    return found


_PARTS = {**PART_NAMES, "validation": (*PART_NAMES["validation"], "dev")}


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Reads the rows of a file."""
    if file.suffix.lower() not in _READERS:
        raise DataError(f"{file}: expected a .csv or .jsonl file")
    try:
        return _READERS[file.suffix.lower()](file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: expected readable UTF-8 text, found: {error}") from error


def _read_csv(file: Path) -> list[dict[str, Any]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        rows = list(reader)
    head = reader.fieldnames or []
    if len(set(head)) < len(head):
        raise DataError(f"{file}: expected a name of its own for each column, found {head}")
    for i, row in enumerate(rows):
        if None in row or None in row.values():
            raise DataError(f"{file}, row {i + 2}: expected {len(head)} columns, as in the head")
    return rows


def _read_jsonl(file: Path) -> list[dict[str, Any]]:
    rows = []
    for i, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {i}: expected a JSON object, found: {error}") from error
        if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
            raise DataError(f"{file}, line {i}: expected an object with the names of the first")
        rows.append(row)
    return rows


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl}


def _column(rows: Sequence[Mapping], name: str) -> list:
    return [row[name] for row in rows]


def _is_missing(value: Any) -> bool:
    return value is None or str(value).strip().lower() in _MISSING


def _is_number(value: Any) -> bool:
    if _is_missing(value):
        return True
    try:
        return not isinstance(value, list | dict | bool) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _check_targets(where: str, target: str, values: Mapping[str, list]) -> None:
    for part, column in values.items():
        rows = [i for i, v in enumerate(column) if v is None or not str(v).strip()]
        if rows:
            raise DataError(
                f"{where}, {part}: {len(rows)} rows have no '{target}', the first row {rows[0] + 1}"
            )


def _classes(where: str, target: str, values: list, kind: str | None) -> tuple[str, ...]:
    """Returns the names of the classes of a target; () for one that is a number."""
    if not all(_is_number(v) and not _is_missing(v) for v in values):
        return tuple(sorted({_name(v) for v in values}))
    if kind is None and any(not float(v).is_integer() for v in values):
        return ()
    names = {_name(v) for v in values}
    if kind is None and len(names) > max(_MANY, len(values) // 10):
        raise DataError(
            f"{where}: '{target}' has {len(names)} whole numbers in {len(values)} rows: say "
            "kind='classes' or kind='number'"
        )
    return tuple(sorted(names, key=float))


def _name(value: Any) -> str:
    """Returns the name of a class: a number's shortest form, so that 1 and 1.0 are one."""
    if _is_number(value) and not _is_missing(value):
        return f"{float(value):.12g}"
    return str(value).strip()


def _targets(where: str, target: str, values: list, names: tuple[str, ...]) -> np.ndarray:
    if not names:
        if wrong := [v for v in values if not _is_number(v) or _is_missing(v)]:
            raise DataError(f"{where}: '{target}' must be a number, found {wrong[0]!r}")
        return np.array([float(v) for v in values], np.float32)[:, None]
    number = {name: i for i, name in enumerate(names)}
    unknown = [v for v in values if _name(v) not in number]
    if unknown:
        raise DataError(
            f"{where}: '{target}' must be a class of the training part ({', '.join(names[:9])}), "
            f"found {unknown[0]!r}"
        )
    return np.array([number[_name(v)] for v in values], np.int32)


def _raw(
    rows: Sequence[Mapping], text: str | None, numbers: Sequence[str], where: str, missing: str
) -> dict[str, np.ndarray]:
    """Returns the inputs of a part as they are: text as objects, numbers with NaN for none."""
    found = {}
    if numbers:
        found["numbers"] = _numbers(rows, numbers, where, missing)
    if text:
        if empty := [i for i, row in enumerate(rows) if row[text] is None]:
            first = empty[0] + 1
            raise DataError(f"{where}: {len(empty)} rows have no '{text}', the first {first}")
        found["text"] = np.array([str(row[text]) for row in rows], object)
    return found


def _numbers(
    rows: Sequence[Mapping], columns: Sequence[str], where: str, missing: str
) -> np.ndarray:
    table = np.empty((len(rows), len(columns)), np.float64)
    for i, row in enumerate(rows):
        for j, name in enumerate(columns):
            value = row.get(name)
            if not _is_number(value):
                raise DataError(f"{where}, row {i + 1}, '{name}': expected a number, got {value!r}")
            table[i, j] = np.nan if _is_missing(value) else float(value)
    gaps = {name: int(n) for name, n in zip(columns, np.isnan(table).sum(0), strict=True) if n}
    if gaps and missing != "mean":
        raise DataError(
            f"{where}: numbers are missing, rows by column: {gaps}; give missing='mean' to put the "
            "training rows' mean there, or name the columns to use, numbers=[...]"
        )
    return table


def _finisher(
    text: str | None,
    numbers: tuple[str, ...],
    split: Callable[[str], list],
    units: str,
    length: int | None,
    most: int,
) -> Callable[[Split, dict | None], tuple[Callable[[Split], Split], dict]]:
    """Returns a function: (training part, about) -> (function that finishes a part, about)."""

    def learned(train: Split) -> dict[str, Any]:
        about: dict[str, Any] = {}
        if numbers:
            table = train.inputs["numbers"]
            if np.isnan(table).all(0).any():
                names = [n for n, no in zip(numbers, np.isnan(table).all(0), strict=True) if no]
                raise DataError(f"{', '.join(names)}: no training row has a number there")
            mean, std = np.nanmean(table, 0), np.nanstd(table, 0)
            facts = {"mean": mean.tolist(), "std": np.where(std > 0, std, 1.0).tolist()}
            about["numbers"] = {"columns": list(numbers), **facts}
        if text:
            pieces = [split(each) for each in train.inputs["text"]]
            size = length or max(int(np.percentile([len(p) for p in pieces], _LENGTH)), 1)
            about["text"] = {"column": text, "units": units, "length": size}
            if units == "bytes":
                about["text"]["tokens"] = _FIRST + 256
            else:
                counts = Counter(unit for piece in pieces for unit in piece)
                order = sorted(counts, key=lambda unit: (-counts[unit], unit))
                about["text"]["vocabulary"] = sorted(order[:most])  # short in a file: neighbours
                about["text"]["tokens"] = _FIRST + len(order[:most])
        return about

    def finish(train: Split, given: dict | None) -> tuple[Callable[[Split], Split], dict]:
        about = learned(train) if given is None else given
        _check_known(about, text, numbers)

        def convert(part: Split) -> Split:
            found = {}
            if numbers:
                facts = about["numbers"]
                table = part.inputs["numbers"]
                found["numbers"] = _standardised(table, facts["mean"], facts["std"])
            if text:
                facts = about["text"]
                vocabulary = facts.get("vocabulary")
                found["text"] = _tokens(part.inputs["text"], split, vocabulary, facts["length"])
            inputs = found if len(found) > 1 else next(iter(found.values()))
            return part._replace(inputs=inputs)

        return convert, about

    return finish


def _check_known(about: dict, text: str | None, numbers: Sequence[str]) -> None:
    """Raises DataError unless what a training has learned is of these columns."""
    theirs = about.get("text", {}).get("column"), about.get("numbers", {}).get("columns") or []
    if theirs != (text, list(numbers)):
        raise DataError(
            f"the columns of training were text {theirs[0]!r} and numbers {theirs[1]}, these are "
            f"{text!r} and {list(numbers)}"
        )


def _standardised(table: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Returns (x - mean) / std, with 0, the mean, for missing numbers."""
    found = (table - np.asarray(mean)) / np.asarray(std)
    return np.where(np.isnan(found), 0, found).astype(np.float32)


def _tokens(
    texts: Sequence[str], split: Callable[[str], list], vocabulary: list | None, length: int
) -> np.ndarray:
    """Returns int32[N, length]: 0 beyond the end, 1 for a unit that is not in the vocabulary."""
    number = None if vocabulary is None else {u: i + _FIRST for i, u in enumerate(vocabulary)}
    found = np.full((len(texts), length), PAD, np.int32)
    for row, each in zip(found, texts, strict=True):
        units = split(each)[:length]
        known = [u + _FIRST if number is None else number.get(u, UNKNOWN) for u in units]
        row[: len(known)] = known
    return found


class _Apart(dict):
    """Character -> itself, between spaces if it is a punctuation mark or a symbol."""

    def __missing__(self, code: int) -> str:
        mark = chr(code)
        self[code] = f" {mark} " if unicodedata.category(mark)[0] in "PS" else mark
        return self[code]


_APART = _Apart()

# of text -> function of a text that gives its units
UNITS: dict[str, Callable[[str], list]] = {
    "bytes": lambda text: list(text.encode()),
    "characters": list,
    "words": lambda text: text.lower().translate(_APART).split(),
}
