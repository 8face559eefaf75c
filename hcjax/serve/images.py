"""Image files of strangers: their header is looked at before anything is decoded."""

from __future__ import annotations

import io

import numpy as np

from hcjax import data
from hcjax.errors import DataError

FORMATS = ("PNG", "JPEG")
_SCANS = 100  # of a progressive JPEG, each over all of its pixels; 10 are usual


def decoded(file: bytes, image_shape: tuple[int, int, int], pixels: int) -> tuple[np.ndarray, int]:
    """Returns an image file as uint8[H, W, C], fitted by `hcjax.data.read_image`, and its size.

    Args:
      file: content of a PNG or JPEG file. image_shape: (H, W, C). pixels: that it may have; the
        size is those that it has.

    Raises:
      DataError: if it is neither, has more pixels, or is damaged.

    Example:
      >>> decoded(b"no image", (2, 2, 1), 100)
      Traceback (most recent call last):
      hcjax.errors.DataError: expected a PNG or JPEG image, found 8 bytes of something else
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            width, height = image.size
            if width * height > pixels:
                text = f"expected an image of at most {pixels} pixels, found {width} x {height}"
                raise DataError(text)
            if image.format != "PNG" and (scans := file.count(b"\xff\xda")) > _SCANS:
                raise DataError(f"expected a JPEG of at most {_SCANS} scans, found {scans}")
        return data.read_image(file, image_shape, where="the image"), width * height
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        text = f"expected an image of at most {pixels} pixels, found: {str(error)[:100]}"
        raise DataError(text) from error
    except Exception as error:  # decoders fail on damaged files in many ways
        if isinstance(error, OSError) and "cannot identify" in str(error):
            text = f"expected a PNG or JPEG image, found {len(file)} bytes of something else"
            raise DataError(text) from error
        raise DataError(f"expected a sound image, found: {str(error)[:100]}") from error
