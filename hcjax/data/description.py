"""`describe`: what the shapes of a training depend on, known of most datasets without their files.

In: the arguments of `load`. Out: a `Description`. No image is decoded that is not in memory anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hcjax.data.images import check_channels, size_pair
from hcjax.data.loading import SOURCES
from hcjax.data.sources import tfds
from hcjax.errors import ConfigError, DataError, unknown_name

# source -> function (name, path, **form) -> ((H, W, C), K) that needs no files; others are read
DESCRIPTIONS = {"tfds": tfds.describe}


class Description(NamedTuple):
    """What is known of a dataset before its images are.

    image_shape: (H, W, C). num_classes: K. origin: where that is known from, in words. dtype: of
    the pixels.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    origin: str
    dtype: str = "uint8"


def describe(
    source: str = "mnist",
    *,
    name: str | None = None,
    path: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    memory_limit_bytes: int = 4 * 2**30,
    **_: object,
) -> Description:
    """Returns the shape of a dataset's images and the number of its classes.

    A source in `DESCRIPTIONS` says so itself. Others are read, if their files are there; if not,
    and the last part of `path`, or `name`, is that of a set of TensorFlow Datasets
    (`/usr/share/datasets/fashion-mnist`), it is taken to be that set.

    Args:
      source, name, path, image_size, channels, memory_limit_bytes: as of `load`, whose other
        arguments change nothing here.

    Raises:
      ConfigError: if an argument is out of range or there is no such source.
      DataError: if there are no files to read and no such set; or as of `load`.

    Example:
      >>> describe("mnist").image_shape, describe("tfds", name="emnist/balanced").num_classes
      ((28, 28, 1), 47)
      >>> describe("idx", path="/nowhere/fashion-mnist")[:2]
      ((28, 28, 1), 10)
    """
    if source not in SOURCES:
        raise ConfigError(unknown_name("data source", source, SOURCES))
    check_channels(channels)
    size = size_pair(image_size)
    form = {"image_size": size, "channels": channels, "memory_limit_bytes": memory_limit_bytes}
    if source in DESCRIPTIONS:
        shape, num_classes = DESCRIPTIONS[source](name, path, **form)
        return Description(shape, num_classes, f"{source}'s own description of {name}")
    if path is None or "://" in path or Path(path).exists():
        parts = SOURCES[source](name, path, form)
        height, width, own_channels = parts.train.images.shape[1:]
        shape = (*(size or (height, width)), channels or own_channels)
        origin, dtype = f"the {source} data at hand", str(parts.train.images.dtype)
        return Description(shape, len(parts.class_names), origin, dtype)
    reason = None
    for called in filter(None, (name, Path(path).stem)):
        try:
            shape, num_classes = tfds.describe(called.replace("-", "_"), None, **form)
        except DataError as error:
            reason = error
            continue
        origin = f"TensorFlow Datasets' description of {called}, as there is no {path}"
        return Description(shape, num_classes, origin)
    raise DataError(
        f"{path}: expected the data of source {source}, found nothing there; and of the set of "
        f"TensorFlow Datasets that its name may mean: {reason}"
    )
