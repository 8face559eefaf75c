"""Errors that a user can mend; the launcher prints their message and exits with code 2.

Every message gives the expected value, the actual one and a remedy. Any other exception is a bug
of hcjax and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HcjaxError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(HcjaxError, ValueError):
    """A config key or value, or an argument, is not legal."""


class DataError(HcjaxError, ValueError):
    """A data file, folder or dataset is missing, damaged or inconsistent."""


class CheckpointError(HcjaxError, RuntimeError):
    """A checkpoint or workdir cannot be written, read, or belongs to another run."""


class ArtifactError(HcjaxError, ValueError):
    """A packed model is damaged or of another format, or a model cannot be packed."""


class PlatformError(HcjaxError, RuntimeError):
    """A requested platform, device or process is not there."""


class DivergedError(HcjaxError, FloatingPointError):
    """The loss or the parameters became infinite or NaN."""


def unknown_name(what: str, name: str, legal: Iterable[str]) -> str:
    """Writes the error text for an unknown name: the nearest legal one first, then all of them.

    Args:
      what: the kind of thing that is named, e.g. `"model"`.
      name: the unknown name.
      legal: all legal names.

    Returns:
      One line of text.

    Example:
      >>> unknown_name("model", "lenet6", ["lenet5", "nin"])
      "unknown model 'lenet6'; did you mean 'lenet5'? Legal: lenet5, nin"
    """
    legal = sorted(legal)
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown {what} '{name}'; {hint}Legal: {', '.join(legal)}"
