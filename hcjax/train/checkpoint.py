"""Checkpoints: atomic, asynchronous, verified, independent of devices; written by Orbax.

In: a pytree of host arrays and a small JSON record. Out: the newest checkpoint whose checksums
match; a damaged one is reported, set aside and skipped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hcjax import trees
from hcjax.errors import CheckpointError
from hcjax.optim.precision import is_narrow

FOLDER = "checkpoints"
_PATTERNS = set("*?[]\\")  # characters that libraries below do not take literally


class Checkpoints:
    """The checkpoints of one workdir: `save` in the background, `restore` the newest sound one.

    Args:
      workdir: folder of the run; checkpoints go to its sub-folder `checkpoints`.
      keep: how many of the newest to keep, >= 1. Keep 2 or more, so that a damaged last one has
        predecessor. None is for reading only: no file is created, moved or cleaned up, not even the
        unfinished ones of a killed run, because the run may be alive.

    Note:
      With several processes every process must make the same calls; process 0 writes.
    """

    def __init__(self, workdir: str | Path, *, keep: int | None = None):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = Path(workdir).absolute() / FOLDER
        writes = keep is not None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=writes, cleanup_tmp_directories=writes
        )
        self._unverified: int | None = None  # step of the last save that was not read back
        with _explained(self.folder):
            if writes:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._alias, folder = _without_patterns(self.folder)
            self._manager = ocp.CheckpointManager(folder, options=options)

    def steps(self) -> list[int]:
        """Returns the steps with a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: Any, record: dict) -> None:
        """Starts writing a checkpoint, after reading back the one before.

        Args:
          step: completed training steps, >= 0. A checkpoint of the same step is left as it is.
          tree: pytree of NumPy arrays that do not change any more, see `parallel.to_host`.
          record: JSON-serialisable facts that belong to this step.

        Raises:
          CheckpointError: if the disk is full or cannot be written, or the checkpoint before cannot
            be read back; earlier checkpoints stay.
        """
        leaves = trees.by_path(tree)
        size = sum(leaf.nbytes for leaf in leaves.values())
        with _explained(self.folder):
            self._finish()
            if step in self.steps():
                return
            free = shutil.disk_usage(self.folder).free
            if free < 1.1 * size:
                raise CheckpointError(
                    f"no room for a checkpoint in {self.folder}: it needs {size / 2**20:.1f} MiB, "
                    f"the disk has {free / 2**20:.1f} MiB left; the checkpoints of steps "
                    f"{self.steps()} are intact. Free some space and start the same command again"
                )
            # Orbax refuses empty arrays; the index holds their shape
            arrays = {f"{i:05d}": leaf for i, leaf in enumerate(leaves.values()) if leaf.size}
            index = [[n, a.dtype.name, a.shape, digest(a)] for n, a in leaves.items()]
            body = json.dumps({"step": step, "leaves": index, "record": record})
            meta = {"body": body, "sha256": hashlib.sha256(body.encode()).hexdigest()}
            ocp = self._ocp
            args = ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
            )
            if self._manager.save(step, args=args):
                self._unverified = step

    def wait(self) -> None:
        """Waits until all saved checkpoints are on the disk, and reads the last one back.

        Raises:
          CheckpointError: if a write failed, or what was written is not what is read.
        """
        with _explained(self.folder):
            self._finish()

    def _finish(self) -> None:
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        step, self._unverified = self._unverified, None
        if step is None or step not in self.steps():
            return
        try:
            self._read(step)
        except Exception as error:  # whatever reading it raises, a resume would meet it too late
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} was written and cannot be read back "
                f"({type(error).__name__}: {str(error).strip()[:300]}); it is not safe to go on. "
                f"Choose a --workdir on another disk, or start the same command again"
            ) from error

    def restore(self) -> tuple[int, dict[str, np.ndarray], dict] | None:
        """Reads (step, arrays by name, record) of the newest sound checkpoint; None without any.

        A damaged one causes a warning and stays in place, see `discard_after`.

        Raises:
          CheckpointError: if there are checkpoints and all of them are damaged.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                return step, *self._read(step)
            except Exception as error:  # any reader may fail in any way on damaged bytes
                reason = str(error).strip().split("\n")[0][:200]
                damaged.append(self.folder / str(step))
                warnings.warn(
                    f"checkpoint {damaged[-1]} is damaged ({type(error).__name__}: {reason}); "
                    f"going back to the one before it",
                    stacklevel=2,
                )
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged: {[p.name for p in damaged]}; "
                f"move the folder away to start again from step 0"
            )
        return None

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], dict]:
        ocp = self._ocp
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        meta = meta["meta"]
        if hashlib.sha256(meta["body"].encode()).hexdigest() != meta["sha256"]:
            raise CheckpointError("its record does not have the checksum it was written with")
        body = json.loads(meta["body"])
        if body["step"] != step:
            raise CheckpointError(f"it says that it is of step {body['step']}")
        arrays = {
            f"{i:05d}": np.empty(shape, jax.numpy.dtype(dtype))
            for i, (_, dtype, shape, _) in enumerate(body["leaves"])
        }
        target = {i: array for i, array in arrays.items() if array.size}
        if target:
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
            arrays |= self._manager.restore(step, args=args)["arrays"]
        verified = {}
        for (name, _, _, sha), array in zip(body["leaves"], arrays.values(), strict=True):
            if digest(array) != sha:
                raise CheckpointError(f"{name} does not have the checksum it was written with")
            verified[name] = array
        return verified, body["record"]

    def discard_after(self, step: int) -> None:
        """Moves checkpoints newer than `step`, damaged ones, to `checkpoints/damaged/`."""
        newer = [s for s in self.steps() if s > step]
        if not newer:
            return
        if jax.process_index() == 0:
            aside = self.folder / "damaged"
            aside.mkdir(exist_ok=True)
            for s in newer:
                shutil.rmtree(aside / str(s), ignore_errors=True)
                (self.folder / str(s)).rename(aside / str(s))
        if jax.process_count() > 1:  # nobody may list them before they are moved
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits for pending writes and stops the background threads."""
        with _explained(self.folder):
            self._manager.close()
        if self._alias is not None:
            self._alias.cleanup()


def restructure(arrays: dict[str, np.ndarray], template: Any) -> Any:
    """Puts named arrays into the structure of `template`.

    Args:
      arrays: from `Checkpoints.restore`.
      template: pytree of arrays or shapes with the same names, shapes and dtypes.

    Raises:
      CheckpointError: if a name is missing or left over, or a shape or dtype differs.
    """
    leaves = trees.by_path(template)
    if set(leaves) != set(arrays):
        missing, extra = sorted(set(leaves) - set(arrays)), sorted(set(arrays) - set(leaves))
        raise CheckpointError(
            f"the checkpoint holds other arrays than this run: missing {missing[:3]}, left over "
            f"{extra[:3]}; "
            + (_narrow_sums(arrays, leaves) or "the network or the optimiser is another one")
        )
    for name, leaf in leaves.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise CheckpointError(
                f"the checkpoint's {name} is {array.dtype}{list(array.shape)}, but this run needs "
                f"{leaf.dtype}{list(leaf.shape)}; "
                + (_narrow_sums(arrays, leaves) or "the network or the optimiser is another one")
            )
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in leaves])


def _narrow_sums(arrays: dict[str, np.ndarray], leaves: dict[str, Any]) -> str:
    """Explains arrays of a version that added up in bfloat16 what is a float32 now; "" for others.

    Its optimiser's state had no float32 copies of the parameters, see `optim.in_float32`.
    """
    copies = "opt_state/params/"
    without = any(copies in name for name in leaves) and not any(copies in name for name in arrays)
    widened = any(
        is_narrow(array) and leaves[name].dtype == np.float32
        for name, array in arrays.items()
        if name in leaves and name.startswith(("train/opt_state/", "train/ema/"))
    )
    return (
        "an earlier version of hcjax wrote it, which added up moments and moving averages of "
        "bfloat16 or float16 parameters in that type; this one does so in float32, and would not "
        "go on with the same run. Begin again in another workdir, or end this run with the "
        "version that began it; hcjax.load reads the parameters"
        if without or widened
        else ""
    )


def nested(arrays: dict[str, np.ndarray], prefix: str) -> Any:
    """Nests the arrays whose names begin with `prefix/` into dicts; {} if there are none.

    Example:
      >>> nested({"params/a/b": 1, "step": 2}, "params")
      {'a': {'b': 1}}
    """
    if prefix in arrays:
        return arrays[prefix]
    tree: dict = {}
    for name, array in arrays.items():
        if name.startswith(prefix + "/"):
            *parents, last = name[len(prefix) + 1 :].split("/")
            node = tree
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = array
    return tree


def digest(array: np.ndarray) -> str:
    """Returns the sha256 of an array's dtype, shape and bytes, in hexadecimal."""
    h = hashlib.sha256(f"{array.dtype.name}{tuple(array.shape)}".encode())
    h.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return h.hexdigest()


def _without_patterns(folder: Path) -> tuple[tempfile.TemporaryDirectory | None, Path]:
    """Returns a path to a folder that no library takes for a pattern, and what keeps it there.

    Orbax globs the path that it is given, and TensorStore reads a backslash as a slash: of a folder
    that has such a character in its path they lose what they write.
    """
    if not set(str(folder)) & _PATTERNS:
        return None, folder
    keeper = tempfile.TemporaryDirectory(prefix="hcjax-")
    if set(keeper.name) & _PATTERNS:
        raise CheckpointError(
            f"a workdir with one of {' '.join(sorted(_PATTERNS))} in its path needs a temporary "
            f"folder without them, $TMPDIR is {Path(keeper.name).parent}"
        )
    alias = Path(keeper.name) / "folder"
    alias.symlink_to(folder, target_is_directory=True)
    return keeper, alias


class _explained:
    """Converts exceptions of the file system or Orbax to CheckpointError."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or isinstance(error, CheckpointError) or not isinstance(error, Exception):
            return False
        text = str(error)
        full = "No space left" in text or "ENOSPC" in text or getattr(error, "errno", 0) == 28
        what = "the disk is full" if full else f"{kind.__name__}: {text.strip()[:300]}"
        raise CheckpointError(
            f"cannot write a checkpoint in {self.folder}: {what}. Earlier checkpoints are intact; "
            f"mend the cause and start the same command again"
        ) from error
