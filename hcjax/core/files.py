"""JSON and other small files, written whole or not at all.

In come Python, NumPy and JAX values; out goes a file that is always valid and complete: it is
written beside its place and then moved there, so that a reader, or a kill, never meets half.
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hcjax import errors


def jsonable(obj: object, *, at: str = "") -> object:
    """Returns `obj` made of dicts, lists, strings, numbers, bools and None only.

    NaN and infinities become None, because JSON has no word for them.

    Args:
      obj: nested mappings, sequences, paths, scalars and arrays (NumPy, JAX, anything with
        `__array__`); an array becomes nested lists. Keys become strings.
      at: the place of `obj` in what is being written, for the error message.

    Returns:
      A new object; `obj` is unchanged.

    Raises:
      TypeError: if some value has no JSON form; the message names its place.

    Example:
      >>> jsonable({"loss": np.float32(0.5), "bad": float("nan"), "sizes": np.arange(3)})
      {'loss': 0.5, 'bad': None, 'sizes': [0, 1, 2]}
    """
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, Mapping):
        return {str(k): jsonable(v, at=f"{at}.{k}" if at else str(k)) for k, v in obj.items()}
    if isinstance(obj, list | tuple):
        return [jsonable(v, at=f"{at}[{i}]") for i, v in enumerate(obj)]
    if hasattr(obj, "__array__"):
        array = np.asarray(obj)
        if array.ndim:
            return [jsonable(row, at=f"{at}[{i}]") for i, row in enumerate(array)]
        if array.dtype.kind in "biu":
            return array.item()
        if array.dtype.kind in "fV":  # V: bfloat16 and its kin
            return jsonable(float(array), at=at)
        if array.dtype.kind == "U":
            return str(array)
    raise TypeError(f"{at or 'the value'} cannot be written as JSON: {type(obj).__name__} {obj!r}")


def write_json(path: str | os.PathLike, obj: object) -> Path:
    """Returns `path` after replacing it, in one move, with `obj` as indented JSON.

    Args:
      path: the file; its folder is made if it is missing.
      obj: anything that `jsonable` takes. NaN and infinities are written as `null`.

    Returns:
      The path that was written.

    Raises:
      CheckpointError: if the file cannot be written, e.g. a full disk; what was there stays.
      TypeError: if some value has no JSON form; what was there stays.

    Example:
      >>> import tempfile
      >>> path = write_json(tempfile.mkdtemp() + "/report.json", {"nll": np.float32("inf")})
      >>> path.read_text()
      '{\\n  "nll": null\\n}\\n'
    """
    text = json.dumps(jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False)
    return write_bytes(path, (text + "\n").encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> Path:
    """Returns `path` after replacing it, in one move, with `content`.

    Args:
      path: the file; its folder is made if it is missing.
      content: every byte of it.

    Returns:
      The path that was written.

    Raises:
      CheckpointError: if it cannot be written, e.g. a full disk; what was there stays.

    Example:
      >>> import tempfile
      >>> write_bytes(tempfile.mkdtemp() + "/a.txt", b"whole").read_bytes()
      b'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves an empty file under the final name
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_writable(path: str | os.PathLike) -> None:
    """Raises CheckpointError unless `write_bytes` can write a file: before the work for it.

    Args:
      path: the file; its folder is made if it is missing. What is there stays as it is.

    Example:
      >>> import tempfile
      >>> check_writable(tempfile.mkdtemp() + "/a.json")
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike, error: OSError) -> errors.CheckpointError:
    """Returns the error that says which file of a workdir could not be written, and why.

    Args:
      path: the file.
      error: what the system said.

    Returns:
      An error to raise.

    Example:
      >>> str(unwritable("run/report.json", OSError(28, "No space left on device")))[:53]
      'cannot write run/report.json: No space left on device'
    """
    return errors.CheckpointError(
        f"cannot write {os.fspath(path)}: {error.strerror or error}; free some space, or give a "
        "workdir that can be written. Files written before are intact"
    )
