"""What a workdir holds: config, run facts, checkpoints, metrics, report; and `load`.

In: a folder that a run wrote. Out: the trained network, ready to call. Nothing is unpickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax import models, trees
from hcjax.config.reader import Reader, differences
from hcjax.core import files
from hcjax.data import normalise
from hcjax.devices import environment, hosts, lock
from hcjax.errors import CheckpointError, ConfigError, DataError, HcjaxError

CONFIG, RUN, REPORT = "config.json", "run.json", "report.json"
CHECKPOINTS = "checkpoints"


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
        x = normalise(images, self.mean, self.std)
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
    from hcjax.train.checkpoint import Checkpoints, nested, restructure

    workdir = Path(workdir).expanduser()
    config = read_json(workdir / CONFIG) if (workdir / CONFIG).exists() else {}
    if not (workdir / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{workdir} holds no run: there is no folder {CHECKPOINTS} in it")
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
        apply = network_of(config, data["image_shape"], len(data["class_names"])).apply
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


def network_of(config: dict | Reader, image_shape: Any, num_classes: int) -> models.Network:
    """Returns the network that the section `model` of a config describes."""
    from hcjax.train.parallel import AXIS

    reader = config if isinstance(config, Reader) else Reader(config)
    section = reader.section("model")
    name, dtype, sync = (section.get(k) for k in ("name", "dtype", "sync_batchnorm"))
    options = section.rest()
    if sync:
        if "axis_name" not in models.options(name):
            raise ConfigError(f"config.model.sync_batchnorm: model '{name}' has no BatchNorm")
        options["axis_name"] = AXIS
    try:
        made = models.create(
            name, num_classes=num_classes, input_shape=tuple(image_shape), dtype=dtype, **options
        )
        jax.eval_shape(made.init, jax.random.key(0))
    except (TypeError, ValueError, ArithmeticError) as error:  # sizes of the wrong kind or number
        given = {k: options[k] for k in ("filters", "hidden") if k in options}
        if isinstance(error, HcjaxError) or not given:
            raise
        usual = {k: v for k, v in models.options(name).items() if k in given}
        raise ConfigError(
            f"model {name} cannot be built with {given}; give sizes as in {usual}"
        ) from error
    return made


def finished(workdir: Path, config: dict) -> dict | None:
    """Returns the report of this config's finished run, None if there is none yet.

    Raises:
      CheckpointError: if the workdir holds a run of another config that has come to a
        checkpoint, a stage or a report, naming the keys that differ, if its files are damaged, or
        if not every process sees the same there.
    """
    path, report = workdir / CONFIG, workdir / REPORT
    folder = workdir / CHECKPOINTS
    saved = any(workdir.glob("*.hcz")) or any(p.name.isdigit() for p in folder.glob("*"))
    state = 2 if report.exists() else int(saved)
    sights = "sees no run", "sees an unfinished one", "sees a report"
    hosts.check_same(workdir, state, sights.__getitem__)
    if state and not path.exists():
        raise CheckpointError(f"{workdir} holds a run but no {CONFIG}; choose another --workdir")
    differ = differences(config, read_json(path)) if state else {}
    if differ:
        lines = [
            f"config.{k} is {there!r} there, {here!r} here" for k, (here, there) in differ.items()
        ]
        raise CheckpointError(
            f"{workdir} holds a run of another config: {'; '.join(sorted(lines))}. Choose another "
            f"--workdir, or give the same config to go on with that run"
        )
    return read_json(report) if state == 2 else None


def claim(workdir: Path, config: dict, *, command: Sequence[str] = ()) -> None:
    """Writes down whose workdir this is: the config, and how and by what it was first started.

    Args:
      workdir: for which `finished` returned None.
      config: as nested dicts.
      command: the command line, for whoever reads run.json.

    Raises:
      CheckpointError: if it cannot be written, or if another process is training there.

    Note:
      Warns where an earlier launch had other versions: the run goes on, but its bits may differ
      from those of an uninterrupted one.
    """
    facts = {
        "seed": config["seed"],
        "command": list(command),
        "git_commit": environment.git_commit(),
    }
    facts |= {"device": environment.device(), "versions": environment.versions()}
    with lock.held(workdir):
        path, owner = workdir / RUN, workdir / CONFIG
        begun = path.exists() and owner.exists()
        if begun and not differences(config, read_json(owner)):
            before, now = read_json(path).get("versions", {}), facts["versions"]
            changed = [f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
            if changed:
                text = f"{workdir} was begun with other versions: {', '.join(changed)}"
                warnings.warn(text, stacklevel=2)
        elif jax.process_index() == 0:
            files.write_json(path, facts)
        if jax.process_index() == 0:
            files.write_json(owner, config)


def read_json(path: Path) -> dict:
    """Returns the object that a JSON file of a workdir holds; a damaged one is CheckpointError."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; mend or remove it") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"cannot read {path}: expected an object {{...}}; mend or remove it")
    return found
