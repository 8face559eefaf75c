"""`log_mel`: the spectrogram of sounds as a strided convolution, part of a network like any layer.

What ships takes sounds. It stays in float, as powers of 80 dB do not fit 8 bits, and takes no room
in a file, as its waves are computed.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.core.regions import in_float
from hcjax.errors import ConfigError


def log_mel(
    sounds: jax.Array,
    *,
    rate: int,
    frame: float = 0.025,
    hop: float = 0.010,
    bands: int = 40,
    floor: float = 1e-6,
) -> jax.Array:
    """Computes log(floor + M |F x|²) of windows of sounds: a picture of time and pitch.

    F is the discrete Fourier transform of a frame under a Hann window, M the triangles of the mel
    scale, mel(f) = 2595 log10(1 + f / 700), from 0 to half of the rate.

    Args:
      sounds: float[N, T], in -1..1.
      rate: samples a second. frame, hop: seconds of a window, and from one to the next.
      bands: of the mel scale, >= 1.
      floor: added before the logarithm, > 0.

    Returns:
      float[N, frames, bands], frames = 1 + (T - frame) // hop in samples.

    Raises:
      ConfigError: if a sound is shorter than a frame, or there are more bands than frequencies.

    Reference:
      O'Shaughnessy, "Speech Communication", 1987: the mel scale.

    Example:
      >>> t = np.arange(800) / 8000
      >>> pitch = log_mel(jnp.sin(2 * jnp.pi * 1000 * t)[None], rate=8000, bands=20)
      >>> pitch.shape, int(pitch[0, 0].argmax())
      ((1, 8, 20), 9)
    """
    size, step = round(frame * rate), round(hop * rate)
    if sounds.shape[1] < size or step < 1:
        raise ConfigError(f"sounds of {sounds.shape[1]} samples are shorter than a frame of {size}")
    count = size // 2 + 1
    if bands >= count or not _triangles(np, rate, count, bands).any(0).all():
        raise ConfigError(f"{bands} bands are too many for the {count} frequencies of a frame")

    def compute(sounds):
        windows = lax.conv_general_dilated(
            sounds[:, :, None], _waves(size), (step,), "VALID", dimension_numbers=_NUMBERS
        )
        power = windows[..., :count] ** 2 + windows[..., count:] ** 2
        return jnp.log(power @ _triangles(jnp, rate, count, bands) + floor)

    return in_float(compute)(sounds)


_NUMBERS = ("NWC", "WIO", "NWC")


def _waves(size: int) -> jax.Array:
    """Computes cosines and sines under a Hann window, float32[size, 1, 2 F]: none need storing."""
    n, k = jnp.arange(size), jnp.arange(size // 2 + 1)
    turns = (n[:, None] * k % size) * np.float32(2 * np.pi / size)  # of one circle: exact
    window = (0.5 - 0.5 * jnp.cos(n * np.float32(2 * np.pi / size))) / size
    return window[:, None, None] * jnp.concatenate([jnp.cos(turns), jnp.sin(turns)], 1)[:, None]


def _triangles(np: Any, rate: int, count: int, bands: int) -> Any:
    """Computes the triangles of the mel scale, float[F, bands], by NumPy or jax.numpy."""
    mel = (2595 / math.log(10)) * np.log1p(np.arange(count) * (rate / (1400 * (count - 1))))
    top = 2595 * math.log10(1 + rate / 1400)
    distance = mel[:, None] * ((bands + 1) / top) - np.arange(1, bands + 1)
    return np.maximum(1 - np.abs(distance), 0)
