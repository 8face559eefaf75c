"""Networks by name. Adding one is one file and one line here.

In: a name and its options. Out: a `Network`, the pair (init, apply). Models are plain functions
over `jax.lax`; what a model does not know of are devices, losses, configs and speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hcjax import options as tables
from hcjax.errors import ConfigError
from hcjax.models.lenet import lenet5, lenet5_1998, lenet_300_100
from hcjax.models.mnist_cnn import seed_cnn
from hcjax.models.network import Network, inference

__all__ = ["MODELS", "Network", "create", "inference", "options"]

MODELS = {
    "seed_cnn": seed_cnn,
    "mnist_cnn": seed_cnn,  # the name that configs use
    "seed_cnn_tiny": partial(seed_cnn, filters=4),
    "lenet_300_100": lenet_300_100,
    "mlp_tiny": partial(lenet_300_100, hidden=(16, 16)),
    "lenet5": lenet5,
    "lenet5_tiny": partial(lenet5, filters=(4, 8), hidden=16),
    "lenet5_1998": lenet5_1998,
}


def create(
    name: str,
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    **options: Any,
) -> Network:
    """Returns the network of that name.

    Args:
      name: a key of `MODELS`.
      num_classes: K, >= 2.
      input_shape: (H, W, C) of one image.
      dtype: compute dtype: "float32", or "bfloat16" (parameters, normalisation statistics and
        logits stay float32).
      **options: that model's own keywords, see `options(name)`: often `dropout`, `activation`,
        for networks with BatchNorm also `axis_name` and `norm_momentum`.

    Returns:
      `Network(init, apply)`.

    Raises:
      ConfigError: if the name or an option is unknown (naming the nearest), or a value is not
        legal.

    Example:
      >>> network = create("lenet5", dropout=0.5)
      >>> create("lenet6")
      Traceback (most recent call last):
      hcjax.errors.ConfigError: unknown model 'lenet6'; did you mean 'lenet5'? Legal: ...
    """
    function = tables.choose("model", MODELS, name)
    if num_classes < 2:
        raise ConfigError(f"num_classes must be >= 2, got {num_classes}")
    if len(input_shape) != 3 or any(side < 1 for side in input_shape):
        raise ConfigError(f"input_shape must be three sizes (H, W, C), got {tuple(input_shape)}")
    tables.check(f"model '{name}'", function, options)
    shape = tuple(input_shape)
    return function(num_classes=num_classes, input_shape=shape, dtype=dtype, **options)


def options(name: str) -> dict[str, Any]:
    """Returns the own options of a model with their defaults.

    Args:
      name: a key of `MODELS`.

    Returns:
      Dictionary option -> default, without the three that every model has.

    Raises:
      ConfigError: if the name is unknown.

    Example:
      >>> options("lenet5_tiny")
      {'activation': 'identity', 'dropout': 0.0}
    """
    legal = tables.legal(tables.choose("model", MODELS, name))
    return {k: v for k, v in legal.items() if k not in ("num_classes", "input_shape", "dtype")}
