"""What a workdir holds: config, run facts, checkpoints, metrics, report; and `load`.

In: a folder that a run wrote. Out: the trained network, ready to call. Nothing is unpickled.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax import config as configs
from hcjax import models, trees
from hcjax.errors import CheckpointError, DataError
from hcjax.reports import report as reports

CONFIG, RUN, REPORT = "config.json", "run.json", "report.json"
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint", "hcjax")


@dataclass(frozen=True)
class Trained:
    """A trained network as a workdir holds it; call it with images for their logits.

    apply: `(params, state, images, *, train, key) -> (logits, state)` on normalised images.
    params, state: pytrees of arrays. class_names: K names. image_shape: (H, W, C). mean, std:
    float32[C], where a pixel is 0..1. step: completed steps. config: the run's, as nested dicts.
    """

    apply: Callable
    params: Any
    state: Any
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray
    step: int
    config: dict

    def __call__(self, images) -> jax.Array:
        """Returns float32[N, K] logits of uint8[N, H, W, C] images.

        Raises:
          DataError: if the images have another type or shape than the network was trained on.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise DataError(
                f"expected images uint8[N, {', '.join(map(str, self.image_shape))}], got "
                f"{images.dtype}{list(images.shape)}"
            )
        x = (images.astype(np.float32) / 255 - self.mean) / self.std
        return self.apply(self.params, self.state, x, train=False, key=None)[0]


def load(
    workdir: str | Path, *, apply: Callable | None = None, like: tuple[Any, Any] | None = None
) -> Trained:
    """Returns the trained network of a workdir: its best, or its averaged, parameters.

    Args:
      workdir: a folder that `launch.py`, or `fit(..., workdir=)`, wrote.
      apply: the network, for a workdir that `fit` wrote in a notebook; None builds it from the
        workdir's config.
      like: (params, state) of the same structure, for trees that are not nested dicts.

    Returns:
      Trained. Parameters come as nested dicts of arrays, or in the structure of `like`.

    Raises:
      CheckpointError: if the folder holds no run, or no sound checkpoint.
    """
    from hcjax.training.checkpoint import Checkpoints, nested, restructure

    workdir = Path(workdir)
    config = read_json(workdir / CONFIG) if (workdir / CONFIG).exists() else {}
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} holds no run: there is no folder checkpoints in it")
    checkpoints = Checkpoints(workdir)
    found = checkpoints.restore()
    checkpoints.close()
    if found is None:
        raise CheckpointError(f"{workdir} holds no finished checkpoint yet")
    step, arrays, record = found
    params, state = (nested(arrays, prefix) for prefix in record["trained"])
    if like is not None:
        params, state = (
            restructure(dict(trees.paths(tree)), template)
            for tree, template in zip((params, state), like, strict=True)
        )
    data = record["data"]
    if apply is None:
        if not config:
            raise CheckpointError(
                f"{workdir} has no {CONFIG}, so its network is not known; give load(..., apply=)"
            )
        apply = network(config, data["image_shape"], len(data["class_names"])).apply
    return Trained(
        apply=apply,
        params=params,
        state=state,
        class_names=tuple(data["class_names"]),
        image_shape=tuple(data["image_shape"]),
        mean=np.asarray(data["mean"], np.float32),
        std=np.asarray(data["std"], np.float32),
        step=step,
        config=config,
    )


def network(config: dict | configs.Reader, image_shape: Any, num_classes: int) -> models.Network:
    """Returns the network that the section `model` of a config describes."""
    from hcjax.training.parallel import AXIS

    reader = config if isinstance(config, configs.Reader) else configs.Reader(config)
    section = reader.section("model")
    name, dtype, sync = (section.get(k) for k in ("name", "dtype", "sync_batchnorm"))
    options = section.rest()
    if sync:
        options["axis_name"] = AXIS
    return models.create(
        name, num_classes=num_classes, input_shape=tuple(image_shape), dtype=dtype, **options
    )


def claim(workdir: Path, config: dict) -> None:
    """Makes the workdir this config's, or refuses, naming the keys that differ.

    Raises:
      CheckpointError: if it belongs to a run of another config, or cannot be written.
    """
    path = workdir / CONFIG
    if path.exists():
        differ = configs.differences(config, read_json(path))
        if differ:
            lines = [
                f"config.{k} is {there!r} there, {here!r} here"
                for k, (here, there) in differ.items()
            ]
            raise CheckpointError(
                f"{workdir} holds a run of another config: {'; '.join(sorted(lines))}. Choose "
                f"another --workdir, or give the same config to go on with that run"
            )
    elif (workdir / "checkpoints").exists():
        raise CheckpointError(
            f"{workdir} holds checkpoints but no {CONFIG}; choose another workdir"
        )
    if jax.process_index() == 0 and not path.exists():
        reports.write_json(path, config)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide a result."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Returns the commit of the code that runs, with '+changes' if it was changed, or None."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        run = lambda *a: subprocess.run([*git, *a], capture_output=True, text=True, timeout=5)  # noqa: E731
        commit, status = run("rev-parse", "HEAD"), run("status", "--porcelain", "-uno")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def read_json(path: Path) -> Any:
    """Returns what a JSON file of a workdir holds; a damaged one is a CheckpointError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
