import subprocess
import sys

import numpy as np
import pytest

from hcjax.data.sources import mnist
from hcjax.errors import DataError


def test_mnist_is_the_original():
    parts = mnist.load()
    # counts per digit as published
    assert np.bincount(parts.train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(parts.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert parts.train.images.shape == (60000, 28, 28, 1)
    assert parts.test.images.shape == (10000, 28, 28, 1)
    assert (parts.train.images.dtype, parts.train.labels.dtype) == (np.uint8, np.int32)
    # the mean and deviation everybody normalises by
    assert round(float(parts.train.images.mean()) / 255, 4) == 0.1307
    assert round(float(parts.train.images.std()) / 255, 4) == 0.3081


def test_another_file_is_refused():
    name = "t10k-labels-idx1-ubyte.gz"
    with pytest.raises(DataError, match=f"{name}: expected sha256 00ff, found b91679a0"):
        mnist.read(name, "00ff")


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"nothing.gz: missing from the package"):
        mnist.read("nothing.gz", "00")


def test_reading_mnist_imports_no_heavy_library():
    code = """
import sys
from hcjax.data import load
load("mnist")
heavy = ["tensorflow", "tensorflow_datasets", "grain", "PIL", "matplotlib", "dm_pix"]
print([name for name in heavy if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
