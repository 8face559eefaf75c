"""The data report of other examples than labelled images: what goes in and out, what repeats.

In: a `Dataset`. Out: a dict of counts and a text. It reads every example and changes nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from hcjax.core.text import cut, table
from hcjax.data.dataset import PARTS, Dataset, Split, are_labels, shapes_of
from hcjax.graph.interface import describe

_COLUMNS = 8  # of numbers to predict, that are described
_CLASSES = 12  # that are listed; of more, the fewest and the most frequent


def overview(dataset: Dataset) -> dict[str, Any]:
    """Counts examples, classes or numbers to predict, and inputs that are there twice.

    Args:
      dataset: of form "images" or "arrays"; every example is read once.

    Returns:
      A dict, ready for JSON: "name", "form", "inputs" and "targets" (their shapes, in words),
      "sizes" {part: examples}, "class_names", "duplicates" {part: inputs that are equal to an
      earlier one's of the part}, "shared" {"train/test": inputs of the second part that the first
      has too, ...}, "about" as of the dataset; of classes "counts" {part: K numbers of examples, or
      of pixels}; of numbers "columns" [{"mean", "std", "least", "most"} of each, of training].

    Example:
      >>> data = Dataset(train=(np.zeros((3, 2), np.float32), [0, 0, 1]), form="arrays")
      >>> found = overview(data)
      >>> found["counts"]["train"], found["duplicates"]["train"]
      ([2, 1], 2)
    """
    splits = {part: getattr(dataset, part) for part in PARTS}
    found: dict[str, Any] = {"name": dataset.name, "form": dataset.form}
    for what in ("inputs", "targets"):
        found[what] = describe((shapes_of(getattr(dataset.train, what)),))
    found["sizes"] = {part: split.size for part, split in splits.items()}
    found["class_names"] = list(dataset.class_names)
    targets = dataset.train.targets
    if dataset.class_names and isinstance(targets, np.ndarray) and targets.dtype.kind in "iu":
        k = dataset.num_classes
        found["what"] = "examples" if are_labels(targets) else "pixels"
        found["counts"] = {p: _counts(s.targets, k) for p, s in splits.items()}
    elif isinstance(targets, np.ndarray) and targets.dtype.kind == "f":
        columns = targets.reshape(len(targets), -1)[:, :_COLUMNS].astype(np.float64)
        found["columns"] = [
            {"mean": float(c.mean()), "std": float(c.std()), "least": float(c.min()),
             "most": float(c.max())}
            for c in columns.T
        ]  # fmt: skip
    hashes = {part: _hashes(split) for part, split in splits.items()}
    found["duplicates"] = {part: len(h) - len(set(h)) for part, h in hashes.items()}
    found["shared"] = {}
    for i, one in enumerate(PARTS):
        for other in PARTS[i + 1 :]:
            seen = set(hashes[one])
            found["shared"][f"{one}/{other}"] = sum(h in seen for h in hashes[other])
    found["about"] = dataset.about or {}
    return found


def lines(found: dict[str, Any]) -> str:
    """Formats an overview as at most about 25 lines of text."""
    sizes = ", ".join(f"{part} {count:,}" for part, count in found["sizes"].items())
    result = [f"{found['name']}: {found['inputs']} to {found['targets']}; {sizes}"]
    if about := _about(found["about"]):
        result.append(about)
    if "counts" in found:
        result.append(_classes(found))
    for i, c in enumerate(found.get("columns", ())):
        result.append(
            f"target {i}: mean {c['mean']:.4g}, std {c['std']:.4g}, from {c['least']:.4g} to "
            f"{c['most']:.4g}"
        )
    for key, title in (("duplicates", "within a part"), ("shared", "across parts")):
        counts = ", ".join(f"{part} {count:,}" for part, count in found[key].items() if count)
        result.append(f"equal inputs {title}: {counts or '0'}")
    return "\n".join(result)


def _counts(targets: np.ndarray, classes: int) -> list[int]:
    flat = np.ravel(targets)
    return np.bincount(flat[flat >= 0], minlength=classes).tolist()


def _hashes(split: Split) -> list[bytes]:
    """Returns a hash of each example's inputs."""
    leaves = jax.tree.leaves(split.inputs)
    found = []
    for i in range(split.size):
        digest = hashlib.blake2b(digest_size=12)
        for x in leaves:
            digest.update(np.ascontiguousarray(x[i : i + 1]).tobytes())
        found.append(digest.digest())
    return found


def _about(about: dict[str, Any]) -> str:
    """Says how text, numbers and sounds were read."""
    said = []
    if facts := about.get("text"):
        tokens = f" of {facts['tokens']:,} different" if "tokens" in facts else ""
        said.append(f"text '{facts['column']}' as {facts['length']} {facts['units']}{tokens}")
    if facts := about.get("numbers"):
        said.append(f"numbers {', '.join(facts['columns'])}, standardised by those of training")
    if "rate" in about:
        said.append(f"sounds of {about['seconds']:g} s at {about['rate']:,} samples a second")
    return "; ".join(said)


def _classes(found: dict[str, Any]) -> str:
    names, counts = found["class_names"], found["counts"]
    order = list(np.argsort(counts["train"], kind="stable"))
    many = len(names) > _CLASSES
    rows = [
        [cut(names[k], 20), *(counts[part][k] for part in PARTS)]
        for k in ([*order[:5], *order[-5:]] if many else range(len(names)))
    ]
    title = f"{found['what']} of the fewest and the most frequent classes" if many else ""
    return table(rows, [f"class, {found['what']}", *PARTS], title=title)
