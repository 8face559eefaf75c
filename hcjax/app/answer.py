"""What a network says of examples, for people: classes, masks or numbers.

In: outputs of a Model. Out: a dict for each example, and a table of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax import tasks
from hcjax.core import files, text
from hcjax.errors import ArtifactError, ConfigError
from hcjax.graph.model import Model

Answers = Callable[[Sequence[str], Any], list[dict]]
LISTED = 5  # classes, or numbers, of one example in the table


def answers_of(
    path: Path, model: Model, about: dict, *, top_k: int = 1, masks: str | None = None
) -> Answers:
    """Returns `(names, outputs of as many examples, or of more) -> a dict for each name`.

    Args:
      path: of the network, for messages.
      model, about: of `saved.load_any`.
      top_k: classes of each example, from 1 to K.
      masks: folder that masks are written to; None writes none.

    Raises:
      ConfigError: if `top_k` or `masks` has no use for the network's task.
      ArtifactError: if the network is not of its task.
    """
    task = tasks.get(about.get("task", "classification"))
    if task is tasks.classification:
        if masks is not None:
            raise ConfigError(f"--masks: {path} gives a class for each example, not for each pixel")
        names = _class_names(path, model, about)
        if not 1 <= top_k <= len(names):
            raise ConfigError(f"--top_k must be 1 to {len(names)}, the classes, got {top_k}")
        return lambda given, logits: [
            _likeliest(logits[i], names, top_k) for i in range(len(given))
        ]
    if top_k != 1:
        raise ConfigError(f"--top_k is of classification, and {path} is for {task.name}")
    names = about.get("class_names") or []

    def answers(given, outputs):
        predictions = jax.tree.map(np.asarray, task.predict(outputs))
        each = [jax.tree.map(lambda x, i=i: x[i], predictions) for i in range(len(given))]
        if not _is_mask(each[0]):
            if masks is not None:
                raise ConfigError(f"--masks: {path} gives no class for each pixel")
            return [{"prediction": _plain(one)} for one in each]
        for name, mask in zip(given, each, strict=True) if masks else ():
            _write(Path(masks).expanduser() / f"{Path(name).stem}.png", mask)
        return [{"shares": _shares(mask, names)} for mask in each]

    return answers


def table(rows: Sequence[dict]) -> str:
    """Tabulates answers, a line each; a file's name stands on its first."""
    lines = [("image", "class", "probability")]
    if any("prediction" in row for row in rows):
        lines = [("example", "prediction", "")]
    elif any("shares" in row for row in rows):
        lines = [("image", "class", "share")]
    for row in rows:
        for i, cells in enumerate(_cells(row)):
            lines.append(("" if i else " ".join(row["file"].split()), *cells))
    return text.aligned(lines, right=[False, False, True])


def _cells(row: dict) -> list[tuple[str, str]]:
    if "prediction" in row:
        return [(text.cut(json.dumps(row["prediction"]), 60), "")]
    if "shares" in row:
        order = sorted(row["shares"].items(), key=lambda pair: -pair[1])[:LISTED]
        return [(text.cut(name), f"{100 * share:.2f} %") for name, share in order]
    found = row.get("predictions", ())
    return [(text.cut(each["class"]), f"{100 * each['probability']:.2f} %") for each in found]


def _class_names(path: Path, model: Model, about: dict) -> list[str]:
    try:
        classes = model.classes
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}") from error
    names = about.get("class_names") or [str(k) for k in range(classes)]
    if len(names) != classes:
        raise ArtifactError(f"{path} names {len(names)} classes and tells {classes} apart")
    return names


def _likeliest(logits: np.ndarray, class_names: Sequence[str], count: int) -> dict:
    """Returns the classes of the largest probabilities; or why there are none."""
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        return {"problem": "the network's logits are not all finite"}
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")[:count]
    return {"predictions": [{"class": class_names[k], "probability": float(p[k])} for k in order]}


def _is_mask(one: Any) -> bool:
    return isinstance(one, np.ndarray) and one.dtype.kind in "iu" and one.ndim == 2


def _shares(mask: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Returns class -> share of the pixels, of the classes that are there."""
    values, counts = np.unique(mask, return_counts=True)
    known = {k: names[k] if k < len(names) else str(k) for k in values.tolist()}
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return {known[k]: count / mask.size for k, count in pairs}


def _write(path: Path, mask: np.ndarray) -> None:
    """Writes a mask as a PNG with a palette, whose numbers are the classes."""
    from matplotlib import colormaps
    from PIL import Image

    colours = np.round(255 * np.asarray(colormaps["tab20"].colors)).astype(np.uint8)
    image = Image.frombytes("P", mask.shape[::-1], mask.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, *np.resize(colours, (255, 3)).ravel().tolist()])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    files.write_bytes(path, buffer.getvalue())


def _plain(tree: Any) -> Any:
    """Returns a prediction as JSON has it."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {str(k): _plain(v) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return [_plain(v) for v in tree]
    return np.round(tree, 6).tolist() if np.asarray(tree).dtype.kind == "f" else tree.tolist()
