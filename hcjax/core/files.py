"""JSON and other small files, written atomically.

In come Python, NumPy and JAX values; out goes a file that is always valid and complete. It is
written beside its final path and then moved there, so that no reader and no kill sees half a file.
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
    """Converts `obj` to dicts, lists, strings, numbers, bools and None.

    NaN and infinities become None, because JSON has no literal for them.

    Args:
      obj: nested mappings, sequences, paths, scalars and arrays (NumPy, JAX, anything with
        `__array__`); an array becomes nested lists. Keys become strings.
      at: the path of `obj` in the whole value, for the error message.

    Returns:
      A new object; `obj` is unchanged.

    Raises:
      TypeError: if some value has no JSON form; the message names its path.

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
    """Writes `obj` as indented JSON, atomically, and returns the path.

    Args:
      path: the file; a missing folder is created.
      obj: anything that `jsonable` takes. NaN and infinities are written as `null`.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written, e.g. a full disk; an old file stays.
      TypeError: if some value has no JSON form; an old file stays.

    Example:
      >>> import tempfile
      >>> path = write_json(tempfile.mkdtemp() + "/report.json", {"nll": np.float32("inf")})
      >>> path.read_text()
      '{\\n  "nll": null\\n}\\n'
    """
    text = json.dumps(jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False)
    return write_bytes(path, (text + "\n").encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> Path:
    """Writes a file atomically and returns its path.

    Args:
      path: the file; a missing folder is created.
      content: all bytes of the file.

    Returns:
      The path as a `Path`.

    Raises:
      CheckpointError: if the file cannot be written, e.g. a full disk; an old file stays.

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
    """Raises CheckpointError unless `write_bytes` could write a file; call it before the work.

    Args:
      path: the file; a missing folder is created. An old file stays as it is.

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
    """Builds the error that names a file that could not be written, and the reason.

    Args:
      path: the file.
      error: from the operating system.

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
