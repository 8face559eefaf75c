"""A small convolutional network for short sounds, with the spectrogram as its first layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hcjax.core.regions import in_float
from hcjax.data.sound import log_mel
from hcjax.errors import ConfigError
from hcjax.models import initial, layers, norm
from hcjax.models.network import Network, check_dtype

FRAME, HOP, BANDS, FLOOR = 0.025, 0.0125, 32, 1e-7
POOLS = 2  # 2×2 max-pools, after the first convolutions


def sound_cnn(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (8000,),
    dtype: str = "float32",
    rate: int = 8000,
    filters: Sequence[int] = (16, 32, 32, 32),
    dropout: float = 0.0,
    tempo: Sequence[float] = (0.7, 2.0),
    hidden_time: float = 0.125,
    hidden_pitch: int = 6,
    axis_name: str | None = None,
    norm_momentum: float = 0.9,
) -> Network:
    """Returns log-mel, conv 5×5 / 2, 2×2 max-pool, conv 3×3, 2×2 max-pool, convs 3×3, mean, dense.

    The picture that the convolutions see is (log_mel - mean) / 3, where mean is that of each band
    over the sound, so that no loudness and no colour of a microphone is left. BatchNorm and relu
    follow each convolution. With the defaults 23,994 parameters and 6 M MACs a second of sound.

    Args:
      num_classes: K.
      input_shape: (T,), samples of a sound.
      dtype: compute dtype of the convolutions, "float32" or "bfloat16".
      rate: samples a second.
      filters: channels of the convolutions, the first 5×5 and of stride 2; 2 of them or more.
      dropout: rate before the dense layer, in [0, 1).
      tempo: least and largest factor that sounds are drawn out by in training, > 0.
      hidden_time: seconds, at most, that are hidden in training, >= 0.
      hidden_pitch: bands of 32, at most, that are hidden in training, >= 0.
      axis_name: mapped axis that synchronises BatchNorm; None: per device.
      norm_momentum: weight of the old running statistics in [0, 1).

    Returns:
      Network with params "conv1", "norm1", …, "dense1", and running statistics as state. It takes
      float[N, T] in -1..1; in training, with a key.

    Raises:
      ConfigError: if an option is out of range or the sounds are too short.

    Reference:
      Park et al., "SpecAugment", 2019, arXiv:1904.08779: what is hidden. Deviation: the whole sound
      is drawn out instead of warped within.

    Example:
      >>> network = sound_cnn(filters=(4, 8))
      >>> params, state = network.init(jax.random.key(0))
      >>> network.apply(params, state, jnp.zeros((2, 8000)))[0].shape
      (2, 10)
    """
    dtype = check_dtype(dtype)
    layers.check_rate("dropout", dropout)
    norm.check_momentum(norm_momentum)
    if len(filters) < POOLS:
        raise ConfigError(f"filters: expected {POOLS} convolutions or more, got {tuple(filters)}")
    if min(filters) < 1:
        raise ConfigError(f"filters: expected counts >= 1, got {tuple(filters)}")
    if HOP * rate < 1:
        raise ConfigError(f"rate: expected {1 / HOP:.0f} samples a second or more, got {rate}")
    if len(tempo) != 2 or not 0 < tempo[0] <= tempo[1] < math.inf:
        raise ConfigError(f"tempo: expected the least and the largest factor, got {tuple(tempo)}")
    if hidden_time < 0 or hidden_pitch < 0:
        raise ConfigError("hidden_time and hidden_pitch must be >= 0")
    frames = 1 + (input_shape[0] - round(FRAME * rate)) // round(HOP * rate)
    layers.spatial((frames, BANDS), [(2, 2, 0)] * (1 + POOLS))
    options = {"axis_name": axis_name, "momentum": norm_momentum}
    hidden = (math.ceil(hidden_time / HOP), hidden_pitch)

    start, statistics, inputs = {}, {}, 1
    for n, outputs in enumerate(filters, start=1):
        size = 5 if n == 1 else 3
        start[f"conv{n}"], start[f"norm{n}"], statistics[f"norm{n}"] = initial.normed_conv(
            (size, size, inputs, outputs), activation="relu"
        )
        inputs = outputs
    start["dense1"] = initial.dense((inputs, num_classes))

    def apply(params, state, sounds, *, train=False, key=None):
        x, new = in_float(lambda sounds: _picture(sounds, rate))(sounds), {}
        if train:
            if key is None:
                raise ValueError("a network that changes sounds in training needs key= there")
            tempo_key, hide_key, key = jax.random.split(key, 3)
            x = _hide(hide_key, _draw_out(tempo_key, x, tempo), hidden)
        x = x[..., None].astype(dtype)
        for n in range(1, len(filters) + 1):
            x = layers.conv(params[f"conv{n}"], x, stride=2 if n == 1 else 1)
            name = f"norm{n}"
            x, new[name] = norm.batch_norm(params[name], state[name], x, train=train, **options)
            x = jax.nn.relu(x)
            x = layers.max_pool(x, 2, 2) if n <= POOLS else x
        x = layers.dropout(layers.global_average(x), dropout, train=train, key=key)
        return layers.logits(params["dense1"], x), new

    return Network(initial.draw(start, statistics), apply)


def _picture(sounds: jax.Array, rate: int) -> jax.Array:
    """Returns float[N, frames, bands] without the mean of each band, of about ±1."""
    x = log_mel(sounds, rate=rate, frame=FRAME, hop=HOP, bands=BANDS, floor=FLOOR)
    return (x - x.mean(1, keepdims=True)) / 3


def _draw_out(key: jax.Array, x: jax.Array, limits: Sequence[float]) -> jax.Array:
    """Draws out each picture in time, about its middle, by a factor of its own, log-uniform."""
    low, high = (math.log(limit) for limit in limits)
    factor = jnp.exp(jax.random.uniform(key, (len(x), 1), minval=low, maxval=high))
    place, middle = jnp.arange(x.shape[1]), (x.shape[1] - 1) / 2
    source = jnp.clip(middle + (place - middle) / factor, 0, x.shape[1] - 1)
    weights = jnp.maximum(1 - jnp.abs(source[..., None] - place), 0)  # linear interpolation
    return jnp.einsum("nts,nsb->ntb", weights, x)


def _hide(key: jax.Array, x: jax.Array, most: Sequence[int]) -> jax.Array:
    """Sets a stretch of frames, and one of bands, of each sound to 0, their mean."""
    for axis, size in zip((1, 2), most, strict=True):
        key, width_key, start_key = jax.random.split(key, 3)
        width = jnp.floor(jax.random.uniform(width_key, (len(x), 1)) * (size + 1))
        start = jax.random.uniform(start_key, (len(x), 1)) * x.shape[axis]
        place = jnp.arange(x.shape[axis])
        hidden = (place >= start) & (place < start + width)
        x = jnp.where(jnp.expand_dims(hidden, 3 - axis), 0, x)
    return x
