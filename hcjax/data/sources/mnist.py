"""Source `mnist`: the original MNIST, packed with hcjax, so that the main job needs no network.

Comes in: the package's own four files; goes out: `Parts`. Takes about 0.3 s.
"""

from __future__ import annotations

import hashlib
import io
from importlib import resources

import numpy as np

from hcjax.data.dataset import Parts, Split
from hcjax.data.sources import idx
from hcjax.errors import DataError

FILES = {
    # file name without .gz: sha256 with it
    "train-images-idx3-ubyte": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}


def load() -> Parts:
    """Loads MNIST's 60,000 training and 10,000 test images of handwritten digits.

    Returns:
      Parts with train and test, images uint8[N, 28, 28, 1], class names "0" .. "9".

    Raises:
      DataError: if a packed file is missing or is not the original (sha256).

    Reference:
      LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    arrays = [read(f"{name}.gz", sha256) for name, sha256 in FILES.items()]
    train, test = (
        Split(images[..., None], labels.astype(np.int32))
        for images, labels in (arrays[:2], arrays[2:])
    )
    return Parts(tuple("0123456789"), train, None, test)


def read(name: str, sha256: str) -> np.ndarray:
    """Reads the array in a packed IDX file and checks its sha256."""
    file = resources.files("hcjax.data") / "files" / "mnist" / name
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: missing from the package; reinstall hcjax ({error})") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise DataError(
            f"{file}: expected sha256 {sha256}, found {actual}; the file is damaged: "
            "reinstall hcjax"
        )
    return idx.parse_idx(io.BytesIO(data), name)
