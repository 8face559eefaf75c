"""What a run of attacks has found so far, kept in a file from which it goes on."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from hcjax.core import files
from hcjax.core.files import jsonable
from hcjax.errors import CheckpointError


class Record:
    """The survivors and perturbed inputs so far.

    clean: bool[N], classified correctly. after: name of an attack -> bool[N], who has survived it
    and all before it. survivors: bool[N], now. began: bool[N], when the stage began. inputs:
    float32[N, ...] in 0..1, perturbed where that misled. stage, batch: how many stages, and batches
    of the next stage, are done.
    """

    def __init__(self, clean: np.ndarray, inputs: np.ndarray, identity: dict, path: Any):
        self.clean, self.survivors, self.began = clean, clean.copy(), clean.copy()
        self.inputs = np.array(inputs, np.float32)
        self.after: dict[str, np.ndarray] = {}
        self.stage = self.batch = 0
        self._identity = jsonable(identity)
        self._path = None if path is None else Path(path).expanduser()
        if self._path is not None:
            files.check_writable(self._path)
            if self._path.exists():
                self._restore()

    def begin(self, name: str) -> None:
        """Begins a stage, of an attack, or goes on with it."""
        if not self.batch:
            self.began = self.survivors.copy()
        self.after[name] = self.survivors

    def add(self, chosen: np.ndarray, moved: np.ndarray, misled: np.ndarray) -> None:
        """Adds a batch: positions int[n], their perturbed inputs, and which of those misled."""
        self.inputs[chosen[misled]] = moved[misled]
        self.survivors[chosen[misled]] = False
        self.batch += 1
        self._save()

    def end(self) -> None:
        """Ends a stage."""
        self.after = {name: left.copy() for name, left in self.after.items()}
        self.stage, self.batch = self.stage + 1, 0
        self._save()

    def _save(self) -> None:
        """Writes the file, whole or not at all; nothing without a path."""
        if self._path is None:
            return
        facts = {"identity": self._identity, "stage": self.stage, "batch": self.batch}
        arrays = {f"after/{name}": array for name, array in self.after.items()}
        arrays |= {name: getattr(self, name) for name in ("survivors", "inputs", "began")}
        content = io.BytesIO()
        np.savez(content, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)
        files.write_bytes(self._path, content.getvalue())

    def _restore(self) -> None:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                arrays = dict(file)
            facts = json.loads(arrays.pop("facts").tobytes())
            theirs = facts["identity"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{self._path} holds no attacks that could go on ({error}): move it, or give "
                "another path"
            ) from error
        differ = [k for k in self._identity if theirs.get(k) != self._identity[k]]
        if differ:
            listing = "; ".join(
                f"{k}: there {theirs.get(k)!s:.60}, here {self._identity[k]!s:.60}" for k in differ
            )
            raise CheckpointError(
                f"{self._path} holds attacks of other arguments ({listing}): give another path"
            )
        self.stage, self.batch = facts["stage"], facts["batch"]
        for name in ("survivors", "inputs", "began"):
            setattr(self, name, arrays[name])
        self.after = {k[6:]: v for k, v in arrays.items() if k.startswith("after/")}
