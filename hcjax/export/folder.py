"""`write`: a network's artifacts, manifest, examples and card as a folder, whole or not at all."""

from __future__ import annotations

import datetime
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hcjax.core import files
from hcjax.errors import ArtifactError, ConfigError, unknown_name
from hcjax.export import examples, manifest
from hcjax.export.card import card
from hcjax.export.hcz import interfaces
from hcjax.export.targets import TARGETS, Options
from hcjax.graph.model import Model


def write(
    model: Model,
    folder: str | Path,
    *,
    to: Sequence[str],
    inputs: Any = None,
    batch: int = 1,
    weights: str = "plain",
    name: str = "network",
    made: str | None = None,
    scores: Mapping[str, Any] | None = None,
    said: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """Writes a network to a folder, once for each target, and returns the manifest.

    Everything is written into a folder beside, which is then renamed: a folder that is there is
    whole. One that an export has made is replaced; any other is refused.

    Args:
      model: in float or in integers. Its `about` says how images are normalised, what the classes
        are called, and what it was trained on.
      folder: that is written.
      to: targets, keys of `hcjax.export.TARGETS`.
      inputs: examples that go with it, of the one input, or a tuple of several; the first 16 are
        taken. None draws some.
      batch: examples of a call of a program for one size.
      weights: how C holds them, "plain" or "coded", see `hcjax.export.c`.
      name: of the network, for people.
      made: date, as "2026-12-31"; None for today.
      scores: of the network on test data, {"score": "accuracy", "value": 0.99, "examples": 10000,
        "data": "mnist"}; None: not known.
      said: is told a line for each target.

    Raises:
      ConfigError: if a target is unknown, or has no form of an op.
      ArtifactError: if the folder is there and is no export.
      CheckpointError: if it cannot be written.

    Example:
      >>> import tempfile, hcjax, jax.numpy as jnp
      >>> model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
      >>> facts = write(model, tempfile.mkdtemp() + "/out", to=["hcz"], made="2026-12-31")
      >>> sorted(facts["files"])
      ['README.md', 'examples.npz', 'network.hcz']
    """
    folder = Path(folder).expanduser()
    check_place(folder, to)
    if made is None:
        made = datetime.date.today().isoformat()
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", made):
        raise ConfigError(f"made must be a date as 2026-12-31, got {made!r}")
    model = interfaces.plain(model)
    if any(op.kind == "step" for op in model.graph.ops):
        raise ConfigError("a fake-quantized network is for training: export hcjax.int8 of it")
    content = {manifest.EXAMPLES: examples.encode(model, examples.of(model, inputs))}
    artifacts = []
    for target in dict.fromkeys(to):
        described, made_files = TARGETS[target](model, Options(batch, weights))
        artifacts += described
        content |= made_files
        sizes = [f"{file} {len(data):,} bytes" for file, data in made_files.items()]
        said(f"{target}: {', '.join(sizes)}")
    facts = {"name": name, "made": made, "scores": scores}
    draft = manifest.describe(model, artifacts, content, **facts)
    content[manifest.CARD] = card(draft)
    described = manifest.describe(model, artifacts, content, **facts)
    _place(folder, content | {manifest.NAME: manifest.text(described)})
    return described


def check_place(folder: str | Path, to: Sequence[str]) -> None:
    """Raises an error unless a folder may be written, for some targets; call it before the work.

    Args:
      folder, to: see `write`.
    """
    folder = Path(folder).expanduser()
    if isinstance(to, str) or not to:
        raise ConfigError(f"name targets, of {', '.join(TARGETS)}, got {to!r}")
    for target in to:
        if target not in TARGETS:
            raise ConfigError(unknown_name("target", target, TARGETS))
    if folder.exists():
        _check_replaceable(folder)
    parent = folder.resolve().parent
    files.check_writable(parent / f".{folder.name}")


def _check_replaceable(folder: Path) -> None:
    """Raises ArtifactError unless a folder is empty, or an export with nothing else in it."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is there and is no folder: choose another one")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    if not manifest.is_export(folder):
        raise ArtifactError(
            f"{folder} is there and has no {manifest.NAME}, so no export made it: choose another "
            "folder, or empty it"
        )
    others = sorted(names - {manifest.NAME, *manifest.read(folder)["files"]})
    if others:
        raise ArtifactError(
            f"{folder} holds what no export has written: {', '.join(others[:5])}; choose another "
            "folder, or move it away"
        )


def _place(folder: Path, content: Mapping[str, bytes]) -> None:
    """Writes files beside a folder, and renames them into its place."""
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent
        ) as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            for name, data in content.items():
                files.write_bytes(new / name, data)
            if folder.exists():
                os.rename(folder, old)
            try:
                os.rename(new, folder)
            except OSError:
                if old.exists():
                    os.rename(old, folder)
                raise
    except OSError as error:
        raise files.unwritable(folder, error) from error
