"""Source `idx`: a folder of IDX files (MNIST's format), compressed or not.

In: a path. Out: `Parts`. NumPy and the standard library only.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hcjax.data.dataset import Parts, Split
from hcjax.errors import DataError

_PREFIXES = {"train": ("train",), "test": ("t10k", "test"), "validation": ("validation", "val")}


def read_idx(path: str | Path) -> np.ndarray:
    """Reads the array in an IDX file of unsigned bytes.

    The file is: two zero bytes, 0x08 (unsigned byte), the number of axes, the size of each axis
    as a big-endian int32, then the values. All members of a `.gz` file are
    decompressed, but not beyond the length in the header.

    Args:
      path: file to read.

    Returns:
      uint8 array of the rank and shape in the header.

    Raises:
      DataError: if the file is missing, is damaged, has another magic number or another length
        than its header says.

    Reference:
      LeCun, Cortes, Burges, "The MNIST database of handwritten digits" (section "File formats").

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "labels")
      >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
      >>> read_idx(path).tolist()
      [7, 8, 9]
    """
    try:
        with Path(path).open("rb") as file:
            return parse_idx(file, path)
    except OSError as error:
        raise DataError(f"{path}: expected an IDX file, cannot read it: {error}") from error


def parse_idx(file: BinaryIO, path: str | Path) -> np.ndarray:
    """Reads the array in an open IDX file; `path` gives the suffix and is named in messages."""
    if str(path).endswith(".gz"):
        file = gzip.GzipFile(fileobj=file)
    try:
        magic = file.read(4)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08":
            raise DataError(
                f"{path}: expected an IDX file of unsigned bytes, which starts with 00 00 08, "
                f"found {magic.hex(' ') or 'an empty file'}"
            )
        axes = file.read(4 * magic[3])
        shape = tuple(np.frombuffer(axes, ">u4").tolist()) if len(axes) == 4 * magic[3] else ()
        values, size = bytearray(), math.prod(shape)
        while len(values) <= size and (piece := file.read(2**20)):
            values += piece  # piece by piece: a false header must not ask for all memory
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a whole gzip file, found: {error}") from error
    expected, actual = 4 + 4 * magic[3] + size, 4 + len(axes) + len(values)
    if actual != expected:
        raise DataError(
            f"{path}: expected {expected} bytes for the header's shape {shape}, found "
            f"{f'{actual}; the file is truncated' if actual < expected else 'more; it is too long'}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def load(path: str | Path) -> Parts:
    """Reads the splits in a folder of IDX files with the standard names.

    The names are `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, with `t10k-` (or
    `test-`) for the test part and `validation-` for a validation part, with or without `.gz`,
    with `.idx3` instead of `-idx3` too. Train must be there. A file `classes.txt`, one name a
    line in UTF-8, names the classes; without it they are "0", "1", ....

    Args:
      path: the folder, e.g. `/usr/share/datasets/fashion-mnist`.

    Returns:
      The parts; images uint8[N, H, W, C] (C = 1 for three-axis files).

    Raises:
      DataError: if a file is missing or damaged, images and labels differ in number, parts
        differ in image shape, a label is out of range or a class has no training example.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of IDX files, found no such folder")
    splits = {part: _read_part(folder, part) for part in _PREFIXES}
    if splits["train"] is None:
        raise DataError(
            f"{folder}: expected {_names('train', 'images')[0]} (or another standard name), "
            f"found {', '.join(sorted(p.name for p in folder.iterdir())) or 'an empty folder'}"
        )
    return check_parts(splits, class_names=_class_names(folder), where=str(folder))


def check_parts(
    splits: dict[str, Split | None], *, class_names: tuple[str, ...] | None, where: str
) -> Parts:
    """Checks that splits in memory are consistent and returns them as `Parts`.

    Args:
      splits: "train" and, or None, "validation" and "test".
      class_names: K names, or None: "0" .. the largest training label.
      where: file or folder, for messages.

    Returns:
      The parts.

    Raises:
      DataError: if counts or shapes differ, a label is out of range, a class is empty or two
        have one name.
    """
    train = splits["train"]
    if len(train.labels) == 0:
        raise DataError(f"{where}: expected training examples, found none")
    if train.images.ndim == 4 and train.images.shape[3] > 4 and train.images.shape[1] in (1, 3, 4):
        raise DataError(
            f"{where}: images {list(train.images.shape)} look like [N, C, H, W]; expected "
            "[N, H, W, C], images.transpose(0, 2, 3, 1)"
        )
    if class_names is None and train.labels.max() >= len(train.labels):
        raise DataError(
            f"{where}: expected labels numbered from 0 without gaps, found {train.labels.max()} "
            f"among {len(train.labels)} training labels"
        )
    if class_names is None:
        class_names = tuple(str(k) for k in range(int(train.labels.max()) + 1))
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise DataError(
            f"{where}: expected a name of its own for each class, found twice: {repeated[0]!r}"
        )
    for part, split in splits.items():
        if split is None:
            continue
        images, labels = split
        if len(images) != len(labels):
            raise DataError(
                f"{where}: {part} has {len(images)} images but {len(labels)} labels; "
                "expected the same number"
            )
        if images.shape[1:] != train.images.shape[1:]:
            raise DataError(
                f"{where}: {part} images have the shape {images.shape[1:]}, expected the training "
                f"images' {train.images.shape[1:]}"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
        if len(wrong):
            raise DataError(
                f"{where}: {part} label number {wrong[0]} is {labels[wrong[0]]}, expected 0 to "
                f"{len(class_names) - 1} ({len(wrong)} such labels)"
            )
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0)
    if len(empty):
        raise DataError(
            f"{where}: expected training examples of every class, found none of class "
            f"{', '.join(class_names[k] for k in empty[:5])}; labels must be numbered from 0 "
            "without gaps"
        )
    return Parts(class_names, train, splits.get("validation"), splits.get("test"))


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """Reads the lines of classes.txt; None if there is no such file."""
    listed = folder / "classes.txt"
    if not listed.exists():
        return None
    try:
        lines = listed.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed}: expected one class name a line, in UTF-8: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _names(part: str, kind: str) -> list[str]:
    """Lists the legal file names of a split's images or labels, the standard one first."""
    axes = {"images": 3, "labels": 1}[kind]
    return [
        f"{prefix}-{kind}{dash}idx{axes}-ubyte{suffix}"
        for prefix in _PREFIXES[part]
        for dash in "-."
        for suffix in ("", ".gz")
    ]


def _read_part(folder: Path, part: str) -> Split | None:
    """Reads a split's images and labels; None if the folder has neither file."""
    paths = {}
    for kind in ("images", "labels"):
        paths[kind] = next((folder / n for n in _names(part, kind) if (folder / n).exists()), None)
    if paths["images"] is None and paths["labels"] is None:
        return None
    for kind, path in paths.items():
        if path is None:
            other = paths["labels" if kind == "images" else "images"].name
            raise DataError(f"{folder}: found {other}, expected {_names(part, kind)[0]} beside it")
    images, labels = read_idx(paths["images"]), read_idx(paths["labels"])
    if images.ndim not in (3, 4):
        raise DataError(
            f"{paths['images']}: expected images with 3 axes (N, H, W) or 4 (N, H, W, C), "
            f"found the shape {images.shape}"
        )
    if labels.ndim != 1:
        raise DataError(f"{paths['labels']}: expected one axis, found the shape {labels.shape}")
    return Split(images if images.ndim == 4 else images[..., None], labels.astype(np.int32))
