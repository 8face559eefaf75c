"""Where a network comes from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """Where a network comes from, and what it is called."""

    name: str
    version: str
    path: Path
