"""The seed's network for MNIST: one convolution, one pool, one dense layer."""

from __future__ import annotations

from collections.abc import Sequence

from hcjax.models import initial, layers
from hcjax.models.network import Network, check_dtype


def seed_cnn(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    filters: int = 32,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Network:
    """Returns conv `filters` 3×3 (no padding), activation, 2×2 max-pool, dense.

    With the defaults 320 + 54,090 = 54,410 parameters.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of the convolution.
      activation: "relu" or "prelu".
      dropout: rate before the dense layer, in [0, 1).

    Returns:
      Network with params "conv1", "dense1" and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Example:
      >>> import jax
      >>> params, _ = seed_cnn().init(jax.random.key(0))
      >>> params["dense1"]["kernel"].shape
      (5408, 10)
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    height, width = layers.spatial(input_shape, [(3, 1, 0), (2, 2, 0)])

    start = {
        "conv1": initial.conv((3, 3, input_shape[2], filters), activation=activation),
        "dense1": initial.dense((height * width * filters, num_classes)),
    }

    def apply(params, state, images, *, train=False, key=None):
        x = layers.conv(params["conv1"], images.astype(dtype), padding="VALID")
        x = layers.activate(activation, params["conv1"], x)
        x = layers.flatten(layers.max_pool(x, 2, 2))
        x = layers.dropout(x, dropout, train=train, key=key)
        return layers.logits(params["dense1"], x), state

    return Network(initial.draw(start), apply)
