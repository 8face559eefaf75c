"""Checks of an augmentation's strengths at trace time."""

from __future__ import annotations

from hcjax.errors import ConfigError


def check_range(function: str, name: str, value: float, low: float, high: float = float("inf")):
    """Raises ConfigError if a strength is not a number in [low, high]."""
    if isinstance(value, str) or not low <= value <= high:
        limits = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
        raise ConfigError(f"augmentation {function}: {name} must be {limits}, got {value!r}")
