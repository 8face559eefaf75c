"""Source `masks`: image files, and for each a mask that says the class of every pixel.

In: a path. Out: `Parts` of the files' names, whose images and masks are read once it is known which
of them are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hcjax.core import brief
from hcjax.data.dataset import Parts, Split
from hcjax.data.images import SUFFIXES, read_image, read_shape
from hcjax.data.sources.folder import parts_of, visible
from hcjax.errors import DataError

NAMES = "classes.txt"  # beside the folders: a name a line
VOID = 255  # beside 0, 1, ..., K - 1: no class, as in Pascal VOC and Cityscapes
UNCOUNTED = -1  # what the losses and scores of segmentation leave out


def load(
    path: str | Path, *, channels: int | None = None, class_names: Sequence[str] | None = None
) -> Parts:
    """Reads pairs `images/<name>.png` and `masks/<name>.png`, which have one size.

    Masks hold 0, 1, ..., K - 1, or any K values, as 0 and 255: in ascending order these are the
    classes 0, 1, .... A 255 beside the classes 0 to K - 1, K > 1, is none of them: such pixels get
    -1, and count in no loss and no score. Only the images that are kept, e.g. by a limit, are read,
    and those masks; the masks of training are all read, for their values.

    Args:
      path: with the folders `images` and `masks`, or the same under train, validation and test.
      channels: 1 or 3; None: 3 if any image has colour.
      class_names: K names, of the values 0 to K - 1, or else of the K values that training masks
        have; None: the lines of `classes.txt` in `path`, or, without, the values that there are.

    Returns:
      Parts with images uint8[N, H, W, C] and targets int32[N, H, W], classes or -1.

    Raises:
      DataError: if an image has no mask or another size than it, sizes differ, a mask has colours
        (those of a palette are its numbers) or a value that is no class.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images and masks, found no such folder")
    folders = {"train": root} if (root / "images").is_dir() else parts_of(root)
    pairs = {part: _pairs(f) for part, f in folders.items() if f is not None}
    shapes = [read_shape(image) for part in pairs.values() for image, _ in part]
    shape = (*shapes[0][:2], channels or max(s[2] for s in shapes))
    read = functools.cache(lambda file: _mask(file, shape[:2]))
    names = tuple(class_names or _listed(root / NAMES))
    with ThreadPoolExecutor() as pool:
        masks = pool.map(read, [mask for _, mask in pairs["train"]])
        values = _values(root, masks, len(names))
    splits = {
        part: Split(*(np.array(files, object) for files in zip(*found, strict=True)))
        for part, found in pairs.items()
    }

    def convert(split: Split) -> Split:
        images = [_image(file, shape) for file in split.inputs]
        found = [_classes(file, read(file), values) for file in split.targets]
        return Split(
            np.array(images, np.uint8).reshape(-1, *shape),
            np.array(found, np.int32).reshape(-1, *shape[:2]),
        )

    names = names or tuple(map(str, values))
    return Parts(names, form="images", finish=lambda train, known: (convert, known), **splits)


def _listed(file: Path) -> list[str]:
    """Returns the names in a file, a line each; [] if there is no such file."""
    try:
        text = file.read_text("utf-8-sig") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected names of classes in UTF-8, found: {error}") from error
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not all(names) or len(set(names)) < len(names) or (file.exists() and not names):
        raise DataError(f"{file}: expected a name of its own on each line, found {names}")
    return names


def _values(root: Path, masks: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Returns the value of each class, ascending: as many as there are names, if there are any."""
    values = functools.reduce(np.union1d, map(np.unique, masks)).astype(np.int64)
    rest = values[values != VOID]
    doubtful = len(rest) < len(values) == count <= VOID
    if doubtful and len(rest) > 1 and rest[0] >= 0 and rest[-1] < count:
        raise DataError(
            f"{root}: is 255 a class, or none, in masks of {values.tolist()} with {count} names? "
            f"Number the classes 0 to {count - 1}, or name {count - 1} of them"
        )
    if len(values) != count and len(rest) > 1 and (count or _numbers(rest)):
        values = rest
    if not count or len(values) == count:
        return values
    if values[0] >= 0 and values[-1] < count:
        return np.arange(count)  # training lacks a class
    raise DataError(
        f"{root}: {count} names of classes are for masks that hold 0 to {count - 1}, or {count} "
        f"other values; those of training hold {len(values)}: {brief.value(values.tolist())}"
    )


def _classes(file: Path, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns int[H, W], the class of each value in a mask, or -1."""
    void = (mask == VOID) & (_numbers(values) and VOID not in values)
    unknown = np.setdiff1d(mask[~void], values)
    if len(unknown):
        raise DataError(f"{file}: masks must hold {values.tolist()}, found {unknown[0]}")
    return np.where(void, UNCOUNTED, np.searchsorted(values, mask))


def _numbers(values: np.ndarray) -> bool:
    """Whether values are the numbers of two or more classes: 0, 1, ..., K - 1."""
    return len(values) > 1 and bool((values == np.arange(len(values))).all())


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    found = {}
    for kind in ("images", "masks"):
        place = folder / kind
        if not place.is_dir():
            raise DataError(f"{folder}: expected the folders images and masks, found no {kind}")
        files = [f for f in visible(place) if f.suffix.lower() in SUFFIXES]
        found[kind] = {file.stem: file for file in files}
    lonely = found["images"].keys() ^ found["masks"].keys()
    if lonely or not found["images"]:
        raise DataError(
            f"{folder}: expected an image and a mask of each name, found "
            + (f"only one of {', '.join(sorted(lonely)[:5])}" if lonely else "none")
        )
    return [(found["images"][name], found["masks"][name]) for name in sorted(found["images"])]


def _image(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    own = read_shape(file)
    if own[:2] != shape[:2]:
        raise DataError(f"{file}: {own[0]} x {own[1]} pixels, expected {shape[0]} x {shape[1]}")
    return read_image(file, shape)


def _mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            mask = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: expected a readable mask, found: {error}") from error
    if mask.ndim != 2:
        raise DataError(f"{file}: expected one number a pixel, grey or a palette, found colours")
    if mask.shape != size:
        raise DataError(f"{file}: {mask.shape[0]} x {mask.shape[1]} pixels, expected {size}")
    return mask
