"""`hcjax predict NETWORK IMAGES`: image files labelled by a trained or packed network.

In: a workdir or a `.hcz` file, image files and folders of them. Out: a table of classes and
probabilities, and the same as JSON; exit code 2 if an image cannot be read, after the others are
labelled.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from hcjax import data
from hcjax.accelerate import compiler
from hcjax.app import command, score
from hcjax.app.setup import start_platform
from hcjax.config.recipe import platform_of
from hcjax.core import files, text
from hcjax.data.images import SUFFIXES
from hcjax.errors import ArtifactError, ConfigError, DataError
from hcjax.graph.model import Model
from hcjax.runs import saved
from hcjax.runs.workdir import CONFIG, read_json

BATCH = 256  # images at a time
_USAGE = """Labels image files with a trained, compressed or packed network.

  PROGRAM runs/lenet-1a2b3c4d a.png b.png        a training's workdir
  PROGRAM runs/lenet_int8-5e6f7a8b folder        a pipeline's last network
  PROGRAM model.hcz 'scans/*.png' --top_k=3      the three likeliest classes of each
  PROGRAM model.hcz folder --json=labels.json    the same as JSON

A folder stands for all images in it and below, sorted by path. Images are turned upright, fitted to
the network's size and normalised as in its training. Of the config, platform, deterministic and
cache_dir may be changed, e.g. --config.platform=cpu.

Flags:"""


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line: 0, or 2 if an image cannot be read.

    Args:
      argv: program name and arguments.
    """
    return command.run(argv, _USAGE, define, _act)


def define(values: flags.FlagValues) -> None:
    """Adds the flags that say how predictions are shown."""
    flags.DEFINE_integer("top_k", 1, "Classes shown of each image.", flag_values=values)
    flags.DEFINE_string("json", None, "File the predictions are written to.", flag_values=values)


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    if not arguments:
        raise ConfigError("name a workdir or a .hcz file, and image files (see --help)")
    network, *images = arguments
    return predict(network, images, top_k=values.top_k, json=values.json, changes=changes)


def predict(
    network: str,
    images: Sequence[str],
    *,
    top_k: int = 1,
    json: str | None = None,
    changes: score.Changes = (),
) -> int:
    """Prints the likeliest classes of image files, and returns an exit code.

    Args:
      network: workdir of a training, or of a pipeline, whose last network is taken; or a `.hcz`
        file.
      images: files, folders that hold some, and patterns.
      top_k: classes of each image, from 1 to K.
      json: file that is written: a list of {"file", "predictions": [{"class", "probability"}]},
        the likeliest first, or {"file", "problem"}.
      changes: (key, value as text): `platform`, `deterministic` and `cache_dir`.

    Raises:
      CheckpointError, ArtifactError: if the network cannot be loaded.
      DataError: if it does not say how images are normalised, or if there are no images.
    """
    if not images:
        raise ConfigError(f"name image files, or a folder of them, after {network}")
    given = Path(network).expanduser()
    path = saved.alone(given)
    if json:
        files.check_writable(json)
    _start(given, changes)
    if path != given:
        print(f"the network of {network} is its last, {path.name}")
    model, class_names = _loaded(path)
    if not 1 <= top_k <= len(class_names):
        raise ConfigError(f"--top_k must be 1 to {len(class_names)}, the classes, got {top_k}")
    apply, found, rows = compiler.jit(model.apply), _found(images), []
    for i in range(0, len(found), BATCH):
        batch = found[i : i + BATCH]
        read = {file: _read(file, model.image_shape) for file in batch}
        pixels = [image for image in read.values() if not isinstance(image, str)]
        padding = [pixels[0]] * (len(batch) - len(pixels)) if pixels else []
        logits = iter(apply(model.params, _inputs(model, pixels + padding)) if pixels else ())
        for file, image in read.items():
            said = image if isinstance(image, str) else _likeliest(next(logits), class_names, top_k)
            kind = "problem" if isinstance(said, str) else "predictions"
            rows.append({"file": str(file), kind: said})
    if any("predictions" in row for row in rows):
        print(_table(rows))
    code = command.named_problems(rows)
    if json:
        print(f"in {files.write_json(json, rows)}")
    return code


def _start(network: Path, changes: score.Changes) -> None:
    """Chooses where to compute: as the run of a workdir did, unless that is changed."""
    own = read_json(network / CONFIG) if (network / CONFIG).is_file() else {}
    usual = {"platform": "", "deterministic": False, "cache_dir": ""}
    values = ConfigDict({key: own.get(key, usual[key]) for key in usual})
    score.change(values, changes, f"predicting with {network}", score.RUN_KEYS)
    start_platform(platform_of(values))


def _loaded(path: Path) -> tuple[Model, list[str]]:
    """Returns a network that says all that is needed to label pixels, and its class names."""
    model, about = saved.load_any(path)
    if len(model.image_shape) != 3:
        raise DataError(f"{path} takes {list(model.image_shape)}, which is no image [H, W, C]")
    if _takes_floats(model) and not {"mean", "std"} <= set(about):
        raise DataError(
            f"{path} does not say how its images are normalised, so it would label other pixels "
            "than it has learned from; pack it again with hcjax.pack(model, about={'mean': [...], "
            "'std': [...], 'class_names': [...]}), where a pixel is 0..1"
        )
    one = jax.ShapeDtypeStruct((1, *model.image_shape), model.image_dtype)
    logits = jax.eval_shape(model.apply, model.params, one)
    if len(logits.shape) != 2:
        raise ArtifactError(f"{path} computes {list(logits.shape[1:])} of an image, not logits")
    class_names = about.get("class_names") or [str(k) for k in range(logits.shape[1])]
    if len(class_names) != logits.shape[1]:
        raise ArtifactError(
            f"{path} names {len(class_names)} classes and tells {logits.shape[1]} apart"
        )
    return model, class_names


def _takes_floats(model: Model) -> bool:
    return jnp.issubdtype(model.image_dtype, jnp.floating)


def _inputs(model: Model, pixels: list[np.ndarray]) -> np.ndarray:
    """Returns images as a network takes them; one of whole numbers takes the pixels."""
    images = np.stack(pixels)
    if _takes_floats(model):
        about = model.about
        images = data.normalise(images, np.float32(about["mean"]), np.float32(about["std"]))
    return images.astype(model.image_dtype)


def _found(images: Sequence[str]) -> list[Path]:
    """Returns the image files that some paths name, in order, each once.

    Raises:
      DataError: if a folder holds none.
    """
    found: dict[Path, Path] = {}
    for name in images:
        path = Path(name).expanduser()
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]
        for one in matches or [path]:
            for file in _below(one) if one.is_dir() else [one]:
                found.setdefault(file.resolve(), file)
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    """Returns the images in a folder and below it, sorted; hidden ones are left out."""

    def hidden(file):
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    every = sorted(file for file in folder.rglob("*") if file.is_file() and not hidden(file))
    found = [file for file in every if file.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none")
    if len(found) < len(every):
        print(f"{folder}: {len(every) - len(found)} files are no images by name, and left out")
    return found


def _read(file: Path, image_shape: tuple[int, int, int]) -> np.ndarray | str:
    """Returns an image fitted to a network; or why it cannot be read."""
    try:
        return data.read_image(file, image_shape)
    except DataError as error:
        return str(error)


def _likeliest(logits: np.ndarray, class_names: Sequence[str], count: int) -> list[dict] | str:
    """Returns the classes of the largest probabilities; or why there are none."""
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        return "the network's logits are not all finite"
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")[:count]
    return [{"class": class_names[k], "probability": float(p[k])} for k in order]


def _table(rows: Sequence[dict]) -> str:
    """Tabulates the predictions, a line each; a file's name stands on its first."""
    lines = [("image", "class", "probability")]
    for row in rows:
        for i, each in enumerate(row.get("predictions", ())):
            name = "" if i else " ".join(row["file"].split())
            lines.append((name, text.cut(each["class"]), f"{100 * each['probability']:.2f} %"))
    return text.aligned(lines, right=[False, False, True])
