"""Packages that only some uses need: imported where they are used, and named where they lack."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from hcjax.errors import DependencyError


def module(name: str, *, extra: str, what: str) -> ModuleType:
    """Imports a package that an extra of hcjax installs.

    Args:
      name: of the module, e.g. "tensorflow_datasets".
      extra: of hcjax's optional dependencies in pyproject.toml, e.g. "tfds".
      what: needs it, for the message, e.g. "source tfds".

    Raises:
      DependencyError: if it, or a package that it needs, is not installed, saying what to do.

    Example:
      >>> module("json", extra="none", what="this").loads("1")
      1
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _lacking((error.name or name).partition(".")[0], extra, what) from error


def require(name: str, *, extra: str, what: str) -> None:
    """Raises DependencyError unless a package is installed, without importing it.

    Args:
      name, extra, what: as of `module`.

    Example:
      >>> require("json", extra="none", what="this")
    """
    if importlib.util.find_spec(name) is None:
        raise _lacking(name, extra, what)


def _lacking(name: str, extra: str, what: str) -> DependencyError:
    return DependencyError(
        f"{what} needs the package {name}, which is not installed: pip install 'hcjax[{extra}]'"
    )
