"""Builds C++ sources into libraries, and keeps them.

In: source files, flags, and what else the library depends on. Out: a shared library in the cache
folder, under a hash of all of these, of the compiler and of the processor. It is built once; a
process that finds it builds nothing, and a changed source is another library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from hcjax.core import system

_FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-w")
_WHY = "failed.txt"


class BuildError(Exception):
    """Says in one line why a library cannot be had here, and what to do."""


@cache
def compiler() -> tuple[str, ...]:
    """Returns the command of a C++ compiler: `$CXX`, g++, clang++, or that of the wheel `ziglang`.

    Raises:
      BuildError: if there is none.
    """
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return (found,)
    if importlib.util.find_spec("ziglang"):
        # it brings its own C library, as it finds none of the system's where no compiler is
        return (sys.executable, "-m", "ziglang", "c++", "-target", "x86_64-linux-gnu.2.28")
    raise BuildError(
        "there is no C++ compiler: apt-get install g++ (or its like), or pip install ziglang "
        "(411 MB; it takes a minute at first)"
    )


@cache
def folder() -> Path:
    """Returns the folder of built libraries; where it cannot be written, one for this process."""
    place = system.base_folder() / "native"
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and os.access(place, os.W_OK):
        return place
    return Path(tempfile.mkdtemp(prefix="hcjax-native-"))


def library(
    sources: Sequence[Path],
    *,
    flags: Sequence[str] = (),
    depends: str = "",
    check: Callable[[Path], None] = lambda path: None,
    own: bool = False,
) -> Path:
    """Builds a shared library, or finds it.

    Args:
      sources: C++ files.
      flags: for the compiler and linker, beside those for a shared library of this processor.
      depends: what else the library depends on: versions of headers and libraries.
      own: whether `flags` are all there are, as of a program in C.
      check: called with a library just built; raises BuildError if it does not work. It is called
        once, not for a library that was kept.

    Returns:
      Path, `lib.so` in a folder named by the hash.

    Raises:
      BuildError: if there is no compiler, it fails, or `check` does. What failed once is not tried
        again until the folder is removed, which the message names.
    """
    command = [*compiler(), *(() if own else _FLAGS), *flags]
    parts = [*command, _version(compiler()), depends, system.fingerprint()]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        digest.update(source.read_bytes())
    home = folder() / digest.hexdigest()[:16]
    built, why = home / "lib.so", home / _WHY
    if built.exists():
        return built
    if why.exists():
        raise BuildError(f"{why.read_text()}; remove {home} to try again")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as work:
            made = Path(work) / built.name
            _compile([*command, *(str(s) for s in sources if s.suffix != ".h"), "-o", str(made)])
            check(made)
            os.replace(made, built)
    except OSError as error:
        raise BuildError(f"cannot write {home}: {error.strerror}") from error
    except BuildError as error:
        with suppress(OSError):
            why.write_text(str(error))
        raise
    return built


def _version(command: tuple[str, ...]) -> str:
    """Returns the version line of a compiler."""
    run = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return run.stdout.split("\n")[0]


def _compile(command: list[str]) -> None:
    """Runs the compiler."""
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if "error" in line] or ["no message"]
        raise BuildError(f"{Path(command[0]).name} failed: {lines[0]:.200}")
