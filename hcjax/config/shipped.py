"""The configs that come with hcjax: found from any folder, and importable as `configs`.

In: what `--config` names. Out: the file it means, and while that file runs, a package `configs`.
In a checkout they stand in `configs/` beside the package; a wheel holds them as `hcjax/_configs`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from hcjax.errors import ConfigError, nearest

NAME = "configs"
_PACKAGE = Path(__file__).resolve().parents[1]
# a wheel's first: what is called `configs` beside an installed package is somebody else's
_PLACES = (_PACKAGE / "_configs", _PACKAGE.parent / NAME)
FOLDER = next((place for place in _PLACES if place.is_dir()), _PLACES[0])


def find(path: str) -> Path:
    """Finds a config file: the file of that path, or one that comes with hcjax.

    Args:
      path: e.g. "mine.py", or "configs/lenet.py", which is the current folder's if there is such a
        file in it.

    Returns:
      Path of a file that exists; as it was given, unless it comes with hcjax.

    Raises:
      ConfigError: if there is none, naming the nearest that comes with hcjax.

    Example:
      >>> find("configs/lenet.py").name
      'lenet.py'
    """
    given = Path(path).expanduser()
    if given.is_file():
        return given
    here = Path(os.path.normpath(given))
    if here.parent == Path(NAME) and (FOLDER / here.name).is_file():
        return FOLDER / here.name
    names = sorted(file.stem for file in FOLDER.glob("*.py"))
    near = nearest(here.stem, names)
    hint = f"did you mean {NAME}/{near[0]}.py? " if near else ""
    raise ConfigError(
        f"there is no config file {path}; {hint}With hcjax come, in {NAME}/: {', '.join(names)}"
    )


def keys() -> str:
    """Returns where every key is described: the path of default.py, short if it is near."""
    path = FOLDER / "default.py"
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextlib.contextmanager
def importable(file: Path) -> Iterator[None]:
    """Makes `from configs import default` work while a config file runs, wherever that is.

    A file that comes with hcjax imports its neighbours, whatever else is called `configs`. Any
    other sees, before those, the files beside it, if its folder is called `configs`, and those of
    such a folder where the command was started.

    Args:
      file: the config file.
    """
    own = [file.resolve().parent, Path.cwd() / NAME]
    folders = [f for f in own if f.name == NAME and f.is_dir() and f != FOLDER]
    package = ModuleType(NAME)
    package.__path__ = [str(f) for f in ([] if own[0] == FOLDER else folders) + [FOLDER]]
    before = _taken()
    sys.modules[NAME] = package
    try:
        yield
    finally:
        _taken()
        sys.modules.update(before)


def _taken() -> dict[str, ModuleType]:
    """Takes what is imported as `configs` out of Python's table of modules, and returns it."""
    names = [name for name in sys.modules if name == NAME or name.startswith(f"{NAME}.")]
    return {name: sys.modules.pop(name) for name in names}
