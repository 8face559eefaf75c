"""What a workdir holds: config, run facts, checkpoints, metrics, report; and `load`.

In: a folder that a run wrote. Out: the trained network, ready to call. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
    """A trained network as a workdir holds it; call it with images, or other inputs, for outputs.

    apply: `(params, state, images, *, train, key) -> (logits, state)` on normalised images.
    params, state: pytrees of arrays. class_names: K names. image_shape: (H, W, C); () of inputs
    that are no images. mean, std: float32[C], where a pixel is 0..1; None of other inputs. step:
    completed steps. config: the run's, as nested dicts. facts: of the data, `Dataset.facts`.
    """

    apply: Callable
    params: Any
    state: Any
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: np.ndarray | None
    std: np.ndarray | None
    step: int
    config: dict
    facts: dict = field(default_factory=dict)

    __repr__ = brief.record

    @property
    def example(self) -> jax.Array:
        """One input of zeros, as the network takes it."""
        if self.image_shape:
            return jnp.zeros((1, *self.image_shape))
        return jnp.zeros((1, *self.facts["input_shape"]), self.facts["input_dtype"])

    def __call__(self, images) -> jax.Array:
        """Returns float32[N, K] logits of images [N, H, W, C], uint8 or floats in 0..1.

        Other inputs go to the network as they are, see `hcjax.data.encode` for rows of a table;
        other tasks give their own outputs.

        Raises:
          DataError: if the images have another shape than the network was trained on, or pixels are
            out of range.
        """
        if not self.image_shape:
            return self.apply(self.params, self.state, images, train=False, key=None)[0]
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
            restructure(trees.by_path(tree), template)
            for tree, template in zip((params, state), like, strict=True)
        )
    data = record["data"]
    image_shape = tuple(data.get("image_shape", ()))
    shape = image_shape or data.get("input_shape")
    if shape is None:
        raise CheckpointError(
            f"{workdir} holds a network of several inputs, {data.get('inputs', 'arrays')}: start "
            "the same fit(..., workdir=) again, which trains nothing more and returns its "
            "parameters"
        )
    if apply is None:
        if not config:
            raise CheckpointError(
                f"{workdir} has no {CONFIG}, so its network is not known; give load(..., apply=)"
            )
        if not isinstance(config.get("model"), dict):
            raise ConfigError(f"{workdir / CONFIG} needs a section `model`")
        outputs = data.get("num_outputs", len(data["class_names"]))
        apply = network_of(config["model"], shape, outputs, data.get("about")).apply
    return Trained(
        apply=apply,
        params=params,
        state=state,
        class_names=tuple(data["class_names"]),
        image_shape=image_shape,
        mean=np.asarray(data["mean"], np.float32) if image_shape else None,
        std=np.asarray(data["std"], np.float32) if image_shape else None,
        step=step,
        config=config,
        facts=data,
    )


def network_of(
    section: Mapping[str, Any],
    input_shape: Any,
    num_outputs: int,
    about: Mapping[str, Any] | None = None,
) -> models.Network:
    """Returns the network that a run's section `model` describes.

    Args:
      section: "name", "dtype", "sync_batchnorm", and options of the model; None is no option.
      input_shape: (H, W, C) of an image, (T,) of a text or sound. num_outputs: K.
      about: what else is known of the data, `Dataset.about`: what a network needs of it is its
        option where the section does not say it.

    Raises:
      ConfigError: if a key is missing, or the network cannot be built.
    """
    from hcjax.train.parallel import AXIS

    options = {key: value for key, value in section.items() if value is not None}
    for key in ("name", "dtype", "sync_batchnorm"):
        if key not in options:
            raise ConfigError(f"config.model.{key} must have a value, it has none")
    name, dtype, sync = (options.pop(k) for k in ("name", "dtype", "sync_batchnorm"))
    legal = models.options(name)
    options = {k: v for k, v in _known(about or {}).items() if k in legal} | options
    if sync:
        if "axis_name" not in models.options(name):
            raise ConfigError(f"config.model.sync_batchnorm: model '{name}' has no BatchNorm")
        options["axis_name"] = AXIS
    try:
        network = models.create(
            name, num_classes=num_outputs, input_shape=tuple(input_shape), dtype=dtype, **options
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


def _known(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of networks that what is known of the data decides."""
    found = {"tokens": about.get("text", {}).get("tokens"), "rate": about.get("rate")}
    return {k: v for k, v in found.items() if v is not None}


def read_json(path: Path) -> dict:
    """Returns the object that a JSON file of a workdir holds; a damaged one is CheckpointError."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; mend or remove it") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"cannot read {path}: expected an object {{...}}; mend or remove it")
    return content
