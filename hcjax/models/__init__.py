"""Networks by name. A new one is one file and one line here.

In: a name and its options. Out: a `Network`, the pair (init, apply). Networks are plain functions
over `jax.lax`, independent of devices, losses, configs and speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hcjax.core import registry
from hcjax.errors import ConfigError
from hcjax.models import alexnet, lenet, mnist_cnn, nin, resnet, sound_cnn, text_cnn, unet, vgg
from hcjax.models.adapters import linen
from hcjax.models.network import Network, inference

__all__ = ["MODELS", "Network", "create", "inference", "linen", "options"]

MODELS = {
    "seed_cnn": mnist_cnn.seed_cnn,
    "mnist_cnn": mnist_cnn.seed_cnn,  # the name that configs use
    "fast_cnn": mnist_cnn.fast_cnn,
    "fast_cnn_tiny": partial(mnist_cnn.fast_cnn, filters=(4, 4), hidden=8),
    "strided_cnn": mnist_cnn.strided_cnn,
    "strided_cnn_tiny": partial(mnist_cnn.strided_cnn, filters=(4, 4), hidden=16),
    "seed_cnn_tiny": partial(mnist_cnn.seed_cnn, filters=4),
    "lenet_300_100": lenet.lenet_300_100,
    "mlp_tiny": partial(lenet.lenet_300_100, hidden=(16, 16)),
    "lenet5": lenet.lenet5,
    "lenet5_tiny": partial(lenet.lenet5, filters=(4, 8), hidden=16),
    "lenet5_1998": lenet.lenet5_1998,
    "alexnet": alexnet.alexnet,
    "alexnet32": alexnet.alexnet32,
    "alexnet_tiny": partial(alexnet.alexnet32, filters=(4, 8, 8, 8, 8), hidden=(16, 16)),
    "nin": nin.nin,
    "nin_tiny": partial(nin.nin, filters=((8, 8, 8), (8, 8, 8), (8, 8))),
    "vgg": vgg.vgg,
    "vgg_tiny": partial(vgg.vgg, filters=((4, 4), (8,))),
    "resnet8": partial(resnet.resnet_small, depth=8),
    "resnet20": partial(resnet.resnet_small, depth=20),
    "resnet32": partial(resnet.resnet_small, depth=32),
    "resnet44": partial(resnet.resnet_small, depth=44),
    "resnet56": partial(resnet.resnet_small, depth=56),
    "resnet110": partial(resnet.resnet_small, depth=110),
    "resnet_tiny": partial(resnet.resnet_small, depth=8, width=4),
    "resnet18": partial(resnet.resnet, stages=(2, 2, 2, 2), bottleneck=False, stride_in="3x3"),
    "resnet50": partial(resnet.resnet, stages=(3, 4, 6, 3), bottleneck=True),
    "sound_cnn": sound_cnn.sound_cnn,
    "sound_cnn_tiny": partial(sound_cnn.sound_cnn, filters=(4, 8)),
    "resnet50_tiny": partial(resnet.resnet, stages=(1, 1), bottleneck=True, width=4),
    "unet": unet.unet,
    "unet_tiny": partial(unet.unet, filters=(4, 8, 8)),
    "text_cnn": text_cnn.text_cnn,
    "text_cnn_tiny": partial(text_cnn.text_cnn, width=8, filters=(8, 8)),
}
# what takes images and plain numbers alike
DENSE = ("lenet_300_100", "mlp_tiny")


def create(
    name: str,
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    **options: Any,
) -> Network:
    """Creates the network of that name.

    Args:
      name: a key of `MODELS`.
      num_classes: K, >= 1: classes, or other numbers that the network gives.
      input_shape: (H, W, C) of one image; (T,) of a text or sound, for a network with the option
        `tokens`, the number of different ones, or `rate`, samples a second; (C,) numbers, for one
        in `DENSE`.
      dtype: compute dtype: "float32", or "bfloat16" (parameters, normalisation statistics and
        logits stay float32).
      **options: keywords of that network, see `options(name)`: often `dropout`, `activation`,
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
    function = registry.choose("model", MODELS, name)
    if num_classes < 1:
        raise ConfigError(f"num_classes must be >= 1, got {num_classes}")
    sequence = {"tokens", "rate"} & set(registry.legal(function))
    ranks = (1, 3) if name in DENSE else (1,) if sequence else (3,)
    if len(input_shape) not in ranks or any(side < 1 for side in input_shape):
        sizes = " or ".join({1: "one size (T,)", 3: "three sizes (H, W, C)"}[r] for r in ranks)
        raise ConfigError(
            f"model '{name}': input_shape must be {sizes}, got {tuple(input_shape)}: name a model "
            "for such data, or other data"
        )
    registry.check(f"model '{name}'", function, options)
    shape = tuple(input_shape)
    return function(num_classes=num_classes, input_shape=shape, dtype=dtype, **options)


def options(name: str) -> dict[str, Any]:
    """Returns the options of a network with their defaults.

    Args:
      name: a key of `MODELS`.

    Returns:
      Dictionary option -> default, without the three of `create`.

    Raises:
      ConfigError: if the name is unknown.

    Example:
      >>> options("lenet5_tiny")
      {'activation': 'identity', 'dropout': 0.0}
    """
    legal = registry.legal(registry.choose("model", MODELS, name))
    return {k: v for k, v in legal.items() if k not in ("num_classes", "input_shape", "dtype")}
