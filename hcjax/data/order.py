"""Randomness on the host: permutations that are pure functions of integers.

In: a seed and a stream number. Out: a permutation. There is no state, so a run resumes at any
step, on any number of hosts, with the same order.
"""

from __future__ import annotations

import jax
import numpy as np

from hcjax.errors import ConfigError

# Streams 0, 1, 2, ... are the epochs; these two are far above any epoch.
SPLIT_STREAM = 2**63
SAMPLE_STREAM = 2**63 + 1


def permutation(*, seed: int, stream: int, size: int) -> np.ndarray:
    """Draws a random order of `0 .. size-1` that depends on the three arguments only.

    Example i gets the i-th 64-bit word of Philox with the key (seed, stream), and the examples
    are sorted by their words. The raw words of a NumPy bit generator never change between
    releases (the methods of `Generator`, such as `permutation`, may).

    Args:
      seed: in [0, 2**64).
      stream: in [0, 2**64): an epoch's number, or one of this module's streams.
      size: number of examples, >= 0.

    Returns:
      int64[size], each of 0 .. size-1 once.

    Raises:
      ConfigError: if `seed` is out of range.

    Reference:
      Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox).

    Example:
      >>> permutation(seed=0, stream=0, size=5).tolist()
      [0, 2, 1, 4, 3]
    """
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be an integer in [0, 2**64), got {seed}")
    words = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(size)
    return np.argsort(words, kind="stable").astype(np.int64)


def seed_of(key: jax.Array) -> int:
    """Converts a PRNG key's last 64 bits to an integer, the seed of the batch order.

    Example:
      >>> seed_of(jax.random.key(7))
      7
    """
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return sum(word << (32 * i) for i, word in enumerate(reversed(words[-2:])))
