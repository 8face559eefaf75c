"""Small data made in the test: nothing is downloaded."""

from __future__ import annotations

import numpy as np
import pytest

from hcjax.data.dataset import Split


@pytest.fixture
def images() -> np.ndarray:
    """uint8[20, 6, 5, 3], all different."""
    return np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def numbered():
    """numbered(n): a split whose image i and label i both hold i."""

    def make(n: int) -> Split:
        number = np.arange(n)
        return Split(number.astype(np.uint8).reshape(n, 1, 1, 1), number.astype(np.int32))

    return make
