"""Image files, read by Pillow and fitted to a given shape.

In: a path or the bytes of a file. Out: uint8[H, W, C].
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from hcjax.data.dataset import LazyImages
from hcjax.errors import ConfigError, DataError

# of image files, by which folders of them are read
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # tag of EXIF


def read_image(
    file: str | Path | bytes, image_shape: tuple[int, int, int], *, where: str | None = None
) -> np.ndarray:
    """Reads one image file and fits it to a shape.

    It is turned as its EXIF orientation says, and what is transparent shows white behind it. 16-bit
    grey is divided by 257. An image of another size is scaled (bilinear, antialiased) until it
    covers H x W, then cropped at the centre; proportions are kept. Colour becomes grey, or grey
    three equal channels, according to C.

    Args:
      file: path of an image file, or its content.
      image_shape: (H, W, C), C 1 or 3.
      where: name for messages; by default the path.

    Returns:
      uint8[H, W, C].

    Raises:
      DataError: if the file cannot be read, has more than one frame, or no 8 or 16 bits.

    Example:
      >>> from PIL import Image
      >>> file = io.BytesIO()
      >>> Image.new("RGB", (6, 2), (9, 9, 9)).save(file, "png")
      >>> read_image(file.getvalue(), (4, 4, 1)).shape
      (4, 4, 1)
    """
    where = where or (str(file) if not isinstance(file, bytes) else "image")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return _fit(_prepared(image, where), image_shape)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: expected a readable image, found: {error}") from error


def read_shape(path: Path) -> tuple[int, int, int]:
    """Reads (H, W, C) from an image file's header; C is 1 for grey, else 3."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            _check(image, str(path))
            turned = image.getexif().get(_ORIENTATION, 1) >= 5  # by a quarter
            height, width = image.size if turned else image.size[::-1]
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            return height, width, 1 if grey else 3
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected a readable image, found: {error}") from error


def fitted(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray | LazyImages:
    """Fits images to another shape lazily, each as in `read_image` when it is indexed.

    Args:
      images: uint8[N, H, W, C], C 1 or 3.
      image_shape: the new (H, W, C).

    Returns:
      Lazy images of that shape; `images` itself if it has that shape already.

    Raises:
      ConfigError: if C, old or new, is neither 1 nor 3.

    Example:
      >>> images = fitted(np.full((2, 4, 4, 1), 7, np.uint8), (8, 8, 3))
      >>> images.shape, images[np.array([1])][0, 0, 0].tolist()
      ((2, 8, 8, 3), [7, 7, 7])
    """
    if images.shape[1:] == tuple(image_shape):
        return images
    if images.shape[-1] not in _MODES or image_shape[-1] not in _MODES:
        raise ConfigError(
            f"image_size and channels need images with 1 or 3 channels, found {images.shape[-1]}"
        )
    from PIL import Image

    def read(row: int) -> np.ndarray:
        pixels = images[row, ..., 0] if images.shape[-1] == 1 else images[row]
        return _fit(Image.fromarray(pixels), image_shape)

    return LazyImages(read, np.arange(len(images)), image_shape)


def size_pair(image_size) -> tuple[int, int] | None:
    """Converts `image_size` to (H, W): an integer means a square, None stays None."""
    if image_size is None:
        return None
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or any(not isinstance(n, int) or n < 1 for n in pair):
        raise ConfigError(
            f"image_size must be pixels, one integer or (height, width), got {image_size!r}"
        )
    return pair


def check_channels(channels: int | None) -> None:
    """Raises ConfigError unless `channels` is None, 1 or 3."""
    if channels not in (None, *_MODES):
        raise ConfigError(f"channels must be 1 (grey) or 3 (colour), got {channels!r}")


def _check(image, where: str) -> None:
    """Raises DataError for images whose numbers have no clear range, and for several frames."""
    if image.mode[0] in "IF" and not image.mode.startswith("I;16"):
        raise DataError(
            f"{where}: expected 8 bits per channel, or 16 of grey, found Pillow's mode {image.mode}"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise DataError(f"{where}: expected one image, found {frames} frames; save them apart")


def _prepared(image, where: str):
    """Returns a Pillow image as a person would see it: upright, on white, with 8 bits."""
    from PIL import Image, ImageOps

    _check(image, where)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.uint8(np.asarray(image).astype(np.uint32) // 257))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image)
    return image


def _fit(image, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Fits a Pillow image; returns uint8[H, W, C]."""
    from PIL import Image, ImageOps

    height, width, channels = image_shape
    if channels not in _MODES:
        raise ConfigError(f"image files are read with 1 or 3 channels, not {channels}")
    image = image.convert(_MODES[channels])
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image_shape)
