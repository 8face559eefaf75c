"""Source `folder`: image files, with one sub-folder per class.

In: a path. Out: `Parts` with lazy images, which `load` reads into memory if they fit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hcjax.data.dataset import LazyImages, Parts, Split
from hcjax.data.images import read_image, read_shape, size_pair
from hcjax.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def load(path: str | Path, *, image_size=None, channels: int | None = None) -> Parts:
    """Reads the splits in a folder of PNG and JPEG files.

    Either `path/<class>/<file>` or, with ready parts, `path/train/<class>/<file>` and the same
    under `val` (or `valid`, `validation`) and `test`, where there are any. Classes are the
    sub-folders of train in alphabetical order; hidden files are skipped.

    Args:
      path: the folder.
      image_size: pixels, H = W or (H, W), that every image is fitted to (see `read_image`); None:
        all images have one size already.
      channels: 1 or 3; None: as in the first image.

    Returns:
      Parts with `LazyImages`.

    Raises:
      DataError: if the folder, a class or every class is empty, a file is no PNG or JPEG, a later
        part has a class that train has not, or, without `image_size`, sizes differ.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found no such folder")
    folders = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in _FOLDERS.items()
    }
    if folders["train"] is None:
        folders = {"train": root, "validation": None, "test": None}
    class_names = tuple(p.name for p in _visible(folders["train"]) if p.is_dir())
    if len(class_names) < 2:
        raise DataError(
            f"{folders['train']}: expected one sub-folder per class, at least 2, found "
            f"{len(class_names)}; also legal: train, val and test folders with classes inside"
        )
    listed = {part: _files(f, class_names) for part, f in folders.items() if f is not None}
    image_shape = _image_shape(listed, size_pair(image_size), channels)

    def split(files: list[Path], labels: list[int]) -> Split:
        images = LazyImages(
            lambda row: read_image(files[row], image_shape), np.arange(len(files)), image_shape
        )
        return Split(images, np.array(labels, np.int32))

    return Parts(class_names, **{part: split(*files) for part, files in listed.items()})


def _visible(folder: Path) -> list[Path]:
    """Lists the entries of a folder in order, without hidden files."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _files(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Lists the image files of one split and their labels."""
    files, labels = [], []
    for entry in _visible(folder):
        if not entry.is_dir():
            raise DataError(f"{entry}: expected only class folders here, found a file")
        if entry.name not in class_names:
            raise DataError(
                f"{entry}: expected a class of the training part ({', '.join(class_names)}), "
                f"found '{entry.name}'"
            )
        images = _visible(entry)
        for file in images:
            if file.is_dir() or file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{file}: expected an image ({', '.join(SUFFIXES)})")
        if not images:
            raise DataError(f"{entry}: expected images of class '{entry.name}', found none")
        files += images
        labels += [class_names.index(entry.name)] * len(images)
    return files, labels


def _image_shape(listed: dict, size: tuple[int, int] | None, channels: int | None) -> tuple:
    """Returns (H, W, C) of all images; without a stated size, checks every header."""
    files = [file for part in listed.values() for file in part[0]]
    first = read_shape(files[0])
    if size is None:
        for file in files[1:]:
            shape = read_shape(file)
            if shape[:2] != first[:2]:
                raise DataError(
                    f"{file}: {shape[0]} x {shape[1]} pixels, expected {first[0]} x {first[1]} as "
                    f"in {files[0]}; state an image_size to fit them all to"
                )
        size = first[:2]
    return (*size, channels or first[2])
