"""A small convolutional network for text: embeddings, convolutions along the words, two pools."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError
from hcjax.models import initial, layers
from hcjax.models.network import Network, check_dtype


def text_cnn(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (24,),
    dtype: str = "float32",
    tokens: int = 10_002,
    width: int = 32,
    filters: Sequence[int] = (64, 64),
    size: int = 3,
    dropout: float = 0.4,
    token_dropout: float = 0.05,
    embedding_dropout: float = 0.2,
) -> Network:
    """Returns embeddings, convolutions along the text with residual sums, two pools, dense.

    h_0 = table[tokens];  h_i = relu(conv_i(h_{i-1})) + h_{i-1} where the widths are equal;
    logits = [max_l h, Σ_l w_l · h_l] · kernel + bias: the second pool weighs each place of each
    channel, as a depthwise convolution as long as the text. The end of a text needs no mask: what
    follows it is a token (0) with an embedding of its own. So everything is rounded and packed as
    the layers of an image network are.

    Args:
      num_classes: K.
      input_shape: (L,), tokens in a text.
      tokens: numbers of tokens are in 0..tokens - 1; 1 is the one of unknown words.
      dtype: compute dtype, "float32" or "bfloat16".
      width: of an embedding.
      filters: channels of each convolution.
      size: tokens that a convolution sees, odd.
      dropout: rate before the dense layer, in [0, 1).
      token_dropout: rate of tokens that become unknown in training, in [0, 1).
      embedding_dropout: rate of numbers of the embeddings and between convolutions, in [0, 1).

    Returns:
      Network with params "embed", "conv1", ..., "places", "dense1" and no state; its inputs are
      int32[N, L].

    Raises:
      ConfigError: if an option is out of range.

    Reference:
      Kim, "Convolutional Neural Networks for Sentence Classification", 2014, arXiv:1408.5882.
      Deviations: one size of windows, twice, in place of several beside each other; the second
      pool.

    Example:
      >>> params, _ = text_cnn(num_classes=3, input_shape=(8,), tokens=50).init(jax.random.key(0))
      >>> params["embed"]["table"].shape, params["dense1"]["kernel"].shape
      ((50, 32), (128, 3))
    """
    dtype = check_dtype(dtype)
    rates = {
        "dropout": dropout,
        "token_dropout": token_dropout,
        "embedding_dropout": embedding_dropout,
    }
    for name, rate in rates.items():
        layers.check_rate(name, rate)
    if len(input_shape) != 1 or input_shape[0] < 1:
        raise ConfigError(f"input_shape must be (L,), the length of a text, got {input_shape!r}")
    if tokens < 2 or not filters:
        raise ConfigError(f"tokens must be >= 2 and filters not empty, got {tokens}, {filters!r}")
    if min(width, *filters) < 1:
        raise ConfigError(f"width and filters must be counts >= 1, got {width}, {filters!r}")
    if size < 1 or size % 2 == 0:
        raise ConfigError(f"size must be odd, so that it has a middle, got {size}")
    length, channels = input_shape[0], (width, *filters)
    start = {"embed": {"table": initial.Initial((tokens, width), std=0.1)}}
    for n, (inputs, outputs) in enumerate(zip(channels, filters, strict=False), start=1):
        start[f"conv{n}"] = initial.conv((size, 1, inputs, outputs), activation="relu")
    last = channels[-1]
    start["places"] = {"kernel": initial.Initial((length, 1, 1, last), value=1 / length**0.5)}
    start["dense1"] = initial.dense((2 * last, num_classes))

    def apply(params, state, text, *, train=False, key=None):
        count = len(filters) + 2
        keys = iter([None] * count if key is None else jax.random.split(key, count))
        if train and token_dropout:
            ones = jnp.ones(text.shape, dtype)
            kept = layers.dropout(ones, token_dropout, train=train, key=next(keys)) > 0
            text = jnp.where(kept | (text == 0), text, 1)
        x = jnp.asarray(params["embed"]["table"], dtype)[text][:, :, None]
        for n in range(1, len(filters) + 1):
            x = layers.dropout(x, embedding_dropout, train=train, key=next(keys))
            y = layers.activate("relu", {}, layers.conv(params[f"conv{n}"], x))
            x = x + y if x.shape == y.shape else y
        placed = layers.conv(params["places"], x, padding="VALID", groups=last)
        x = jnp.concatenate([x.max(1), placed[:, 0]], -1)[:, 0]
        x = layers.dropout(x, dropout, train=train, key=next(keys))
        return layers.logits(params["dense1"], x), state

    return Network(initial.draw(start), apply)
