"""Any network on disk as a Model: a workdir that a run wrote, or a packed `.hcz` file.

In: a path. Out: a Model and what is known about it, for whoever scores it, compresses it, or
learns from it.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hcjax.data import Dataset
from hcjax.errors import ArtifactError, CheckpointError
from hcjax.export.hcz import unpack
from hcjax.graph.fold import fold
from hcjax.graph.model import Model
from hcjax.graph.tracing.trace import trace
from hcjax.models import inference
from hcjax.runs.workdir import CHECKPOINTS, CONFIG, REPORT, Trained, load, read_json

SUFFIX = ".hcz"
CLASSIFICATION = "classification"


def load_any(path: str | Path) -> tuple[Model, dict[str, Any]]:
    """Returns the network of a workdir, traced and folded, or that of a `.hcz` file; with `about`.

    Args:
      path: of the folder of a finished run, or of a file that `pack` wrote.

    Returns:
      (model, about). about is a dict, also the model's own, with as much as is known of:
      "class_names" K names; "mean" and "std", of each channel, where a pixel is 0..1, by which
      images are normalised; "data", the section `data` of the config of the run that made it;
      "seed", of that run; "task", a name in `hcjax.tasks.TASKS`, classification if there is none;
      "inputs", of what is no images, what `Dataset.about` says. A workdir knows all of them, and so
      do the files of a pipeline.

    Raises:
      CheckpointError: if a folder holds no finished run.
      ArtifactError: if a file is damaged or missing, or its `about` is not as above.

    Example:
      >>> import tempfile, hcjax, jax.numpy as jnp
      >>> file = Path(tempfile.mkdtemp()) / "a.hcz"
      >>> linear = trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
      >>> _ = file.write_bytes(hcjax.pack(linear, about={"class_names": ["no", "yes"]}))
      >>> model, about = load_any(file)
      >>> model.apply(model.params, jnp.ones((1, 2))).tolist(), about["class_names"]
      ([[1.0, 1.0]], ['no', 'yes'])
    """
    path = Path(path).expanduser()
    if path.is_dir():
        packed = sorted(file.name for file in path.glob(f"*{SUFFIX}"))
        if packed and _networks(path)[0] != path:
            raise CheckpointError(
                f"{path} holds no run; name one of its files: {', '.join(packed)}"
            )
        trained = load(path)
        apply = inference(trained.apply, trained.state)
        model = fold(trace(apply, trained.params, trained.example))
        about = about_of(trained, trained.config)
        return model.replace(about=about), about
    try:
        model = unpack(path.read_bytes())
        about = {} if model.about is None else model.about
        _check(about, model)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return model.replace(about=about), about


def alone(path: str | Path) -> Path:
    """Returns the one network that a path means, for `load_any`.

    Args:
      path: a workdir, or a file. That of a finished pipeline means the file of its last stage.

    Raises:
      CheckpointError: if a folder holds several packed networks and no report of a pipeline.
    """
    path = Path(path).expanduser()
    networks = _networks(path)
    if networks[:1] == [path] or not networks:
        return path
    if (path / REPORT).is_file():
        stages = read_json(path / REPORT).get("stages")
        last = stages[-1] if isinstance(stages, list) and stages else None
        if isinstance(last, dict) and path / str(last.get("file")) in networks:
            return path / last["file"]
    if len(networks) == 1 and not (path / CONFIG).is_file():
        return networks[0]
    names = ", ".join(file.name for file in networks)
    raise CheckpointError(f"{path} holds no finished run; name one of its files: {names}")


def about_of(learned: Trained | Dataset, config: dict) -> dict[str, Any]:
    """Returns what a file says of its network: how images come to it, and on what to score it.

    Args:
      learned: has the class names and the normalisation.
      config: of the run that made the network, as nested dicts.

    Returns:
      dict, see `load_any`.
    """
    about: dict[str, Any] = {"class_names": list(learned.class_names)}
    if learned.mean is not None:
        about |= {"mean": learned.mean.tolist(), "std": learned.std.tolist()}
    elif known := learned.facts.get("about"):
        about["inputs"] = known
    about["data"] = {k: v for k, v in config.get("data", {}).items() if v is not None}
    about["seed"] = config.get("seed", 0)
    task = config.get("task", CLASSIFICATION)
    return about | ({} if task == CLASSIFICATION else {"task": task})


def expanded(paths: Sequence[str]) -> list[Path]:
    """Returns every network that some paths name, in order, each once.

    Args:
      paths: workdirs and files; a folder stands for its run, if it holds one, and all `.hcz` files
        in it; a pattern such as "runs/*/*.hcz" for what it matches, sorted. One that names nothing
        stays, for `load_any` to say so.
    """
    networks: dict[Path, Path] = {}
    for text in paths:
        path = Path(text).expanduser()
        here = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]
        for network in [network for one in here for network in _networks(one)] or [path]:
            networks.setdefault(network.resolve(), network)
    return list(networks.values())


def short(paths: Sequence[Path]) -> list[str]:
    """Returns a name for each path: as few of its last parts as tell it from the others.

    Example:
      >>> short([Path("a/int8.hcz"), Path("b/int8.hcz"), Path("b/pruned.hcz")])
      ['a/int8.hcz', 'b/int8.hcz', 'pruned.hcz']
    """
    every = [path.absolute().parts for path in paths]

    def name(parts):
        for count in range(1, len(parts)):
            if sum(other[-count:] == parts[-count:] for other in every) == 1:
                return "/".join(parts[-count:])
        return str(Path(*parts))

    return [name(parts) for parts in every]


def _networks(path: Path) -> list[Path]:
    """Returns a file; of a folder, itself, if it is a run's, and its packed files."""
    if not path.is_dir():
        return [path]
    run = [path] if (path / CHECKPOINTS).is_dir() else []
    return run + sorted(path.glob(f"*{SUFFIX}"))


def _check(about: Any, model: Model) -> None:
    """Raises ArtifactError unless `about`, which any file may hold, is what `load_any` says."""
    image_shape = model.image_shape if model.alone else ()
    channels = image_shape[-1] if image_shape else 1

    def numbers(values):
        right = isinstance(values, list) and len(values) in (1, channels)
        return right and all(type(v) in (int, float) and abs(v) < 1e30 for v in values)

    def names(values):
        return isinstance(values, list) and all(isinstance(v, str) for v in values)

    legal = {
        "class_names": (names, "a list of names"),
        "mean": (numbers, f"{channels} numbers"),
        "std": (lambda v: numbers(v) and min(v) > 0, f"{channels} numbers > 0"),
        "data": (lambda v: isinstance(v, dict), "the section `data` of a config"),
        "seed": (lambda v: type(v) is int and v >= 0, "a whole number >= 0"),
        "task": (lambda v: isinstance(v, str), "the name of a task"),
        "inputs": (lambda v: isinstance(v, dict), "an object"),
    }
    if not isinstance(about, dict):
        raise ArtifactError(f"its `about` is {type(about).__name__}, expected an object")
    for key, (right, expected) in legal.items():
        if key in about and not right(about[key]):
            raise ArtifactError(f"its {key} is {about[key]!r:.60}, expected {expected}")
