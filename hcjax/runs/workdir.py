"""What a workdir holds: config, run facts, checkpoints, metrics, report; and `load`.

In: a folder that a run wrote. Out: the trained network, ready to call. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax import models, trees
from hcjax.core import brief
from hcjax.data import normalise
from hcjax.data.arrays import pixels
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

    __repr__ = brief.record

    def __call__(self, images) -> jax.Array:
        """Returns float32[N, K] logits of images [N, H, W, C], uint8 or floats in 0..1.

        Raises:
          DataError: if the images have another shape than the network was trained on, or pixels are
            out of range.
        """
        images = pixels(images)
        if images.shape[1:] != self.image_shape:
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
    from hcjax.train.step import rounded

    workdir = Path(workdir).expanduser()
    config = read_json(workdir / CONFIG) if (workdir / CONFIG).exists() else {}
    if not (workdir / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{workdir} holds no run: there is no folder {CHECKPOINTS} in it")
    checkpoints = Checkpoints(workdir)
    checkpoint = checkpoints.restore()
    checkpoints.close()
    if checkpoint is None:
        raise CheckpointError(f"{workdir} holds no finished checkpoint yet")
    step, arrays, record = checkpoint
    params, state = (nested(arrays, prefix) for prefix in record["trained"])
    if record["trained"][0].startswith("train/ema"):
        params, state = rounded(
            (params, state), (nested(arrays, "train/params"), nested(arrays, "train/state"))
        )
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
        if not isinstance(config.get("model"), dict):
            raise ConfigError(f"{workdir / CONFIG} needs a section `model`")
        apply = network_of(config["model"], data["image_shape"], len(data["class_names"])).apply
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


def network_of(section: Mapping[str, Any], image_shape: Any, num_classes: int) -> models.Network:
    """Returns the network that a run's section `model` describes.

    Args:
      section: "name", "dtype", "sync_batchnorm", and options of the model; None is no option.
      image_shape: (H, W, C). num_classes: K.

    Raises:
      ConfigError: if a key is missing, or the network cannot be built.
    """
    from hcjax.train.parallel import AXIS

    options = {key: value for key, value in section.items() if value is not None}
    for key in ("name", "dtype", "sync_batchnorm"):
        if key not in options:
            raise ConfigError(f"config.model.{key} must have a value, it has none")
    name, dtype, sync = (options.pop(k) for k in ("name", "dtype", "sync_batchnorm"))
    if sync:
        if "axis_name" not in models.options(name):
            raise ConfigError(f"config.model.sync_batchnorm: model '{name}' has no BatchNorm")
        options["axis_name"] = AXIS
    try:
        network = models.create(
            name, num_classes=num_classes, input_shape=tuple(image_shape), dtype=dtype, **options
        )
        jax.eval_shape(network.init, jax.random.key(0))
    except (TypeError, ValueError, ArithmeticError) as error:  # sizes of the wrong kind or number
        given = {k: options[k] for k in ("filters", "hidden") if k in options}
        if isinstance(error, HcjaxError) or not given:
            raise
        usual = {k: v for k, v in models.options(name).items() if k in given}
        raise ConfigError(
            f"model {name} cannot be built with {given}; give sizes as in {usual}"
        ) from error
    return network


def read_json(path: Path) -> dict:
    """Returns the object that a JSON file of a workdir holds; a damaged one is CheckpointError."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; mend or remove it") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"cannot read {path}: expected an object {{...}}; mend or remove it")
    return content
