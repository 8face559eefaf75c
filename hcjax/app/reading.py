"""Files as a network takes them: images, sounds, and rows of tables.

In: a Model that says how its inputs were made. Out: how files are read for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import data
from hcjax.data.images import SUFFIXES
from hcjax.data.sources import table, wav
from hcjax.errors import DataError
from hcjax.graph.interface import describe
from hcjax.graph.model import Model

# what one example of a file is called, and it (an array, or a dict of some), or why there is none
Item = tuple[str, Any]


class Reader(NamedTuple):
    """How the examples of a network are read.

    what: for people, "images". suffixes: of the files. items: the examples of a file. ready: arrays
    of several examples, stacked, as the network takes them.
    """

    what: str
    suffixes: tuple[str, ...]
    items: Callable[[Path], Iterator[Item]]
    ready: Callable[[Any], Any]


def reader_of(path: Path, model: Model) -> Reader:
    """Returns how files are read for a network.

    Args:
      path: of the network, for messages. model: of `saved.load_any`.

    Raises:
      DataError: if the network does not say how its inputs were made.
    """
    known = model.about.get("inputs", {})
    if {"text", "numbers"} <= set(known) and _is_table(model):
        return _rows(known)
    if not model.alone or {"text", "numbers"} <= set(known):
        raise DataError(
            f"{path} takes {describe(model.inputs)}, several inputs, which files give only as text "
            "and numbers of a table: use hcjax.unpack"
        )
    if "rate" in known and len(model.image_shape) == 1:
        return _sounds(known["rate"], model.image_shape[0])
    if "text" in known or "numbers" in known:
        return _rows(known)
    return _images(path, model)


def _is_table(model: Model) -> bool:
    """Returns whether a network takes one dict of text and numbers, as `encode` gives it."""
    structure = jax.tree.structure(({"numbers": 0, "text": 0},))
    return jax.tree.structure(model.inputs) == structure


def _images(path: Path, model: Model) -> Reader:
    if len(model.image_shape) != 3:
        raise DataError(
            f"{path} takes {list(model.image_shape)}, which is no image [H, W, C], and does not "
            "say how its inputs were made"
        )
    about, floats = model.about, jnp.issubdtype(model.image_dtype, jnp.floating)
    if floats and not {"mean", "std"} <= set(about):
        raise DataError(
            f"{path} does not say how its images are normalised, so it would label other pixels "
            "than it has learned from; pack it again with hcjax.pack(model, about={'mean': [...], "
            "'std': [...], 'class_names': [...]}), where a pixel is 0..1"
        )

    def ready(pixels):
        """One of whole numbers takes the pixels."""
        if floats:
            pixels = data.normalise(pixels, np.float32(about["mean"]), np.float32(about["std"]))
        return pixels.astype(model.image_dtype)

    def items(file):
        yield str(file), _read(lambda: data.read_image(file, model.image_shape))

    return Reader("images", SUFFIXES, items, ready)


def _sounds(rate: int, length: int) -> Reader:
    def items(file):
        yield str(file), _read(lambda: wav.read(file, rate, length))

    return Reader("sounds", (".wav",), items, lambda sounds: sounds)


def _rows(known: dict[str, Any]) -> Reader:
    def first(rows):
        return jax.tree.map(lambda x: x[0], rows)

    def items(file):
        rows = _read(lambda: table.rows_of(file))
        if isinstance(rows, str):
            yield str(file), rows
            return
        for i, row in enumerate(rows, 1):
            yield f"{file}, row {i}", _read(lambda row=row: first(data.encode([row], known)))

    return Reader("tables", (".csv", ".jsonl"), items, lambda inputs: inputs)


def _read(read: Callable[[], Any]) -> Any:
    """Returns what is read; or why it cannot be."""
    try:
        return read()
    except DataError as error:
        return str(error)


def batches(reader: Reader, files: Sequence[Path], size: int) -> Iterator[list[Item]]:
    """Yields the examples of files, so many at a time."""
    found: list[Item] = []
    for file in files:
        for item in reader.items(file):
            found.append(item)
            if len(found) == size:
                yield found
                found = []
    if found:
        yield found
