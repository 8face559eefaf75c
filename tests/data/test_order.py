import jax
import numpy as np
import pytest

from hcjax.data import order
from hcjax.errors import ConfigError


def philox_words(key: list[int], size: int) -> list[int]:
    """Philox4x64-10 as in Salmon et al., section 3.3, in plain integers; counters 1, 2, ...."""
    words = []
    for count in range(1, -(-size // 4) + 1):
        (k0, k1), (a, b, c, d) = key, (count, 0, 0, 0)
        for _ in range(10):
            low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
            a, b, c, d = (high >> 64) ^ b ^ k0, high % 2**64, (low >> 64) ^ d ^ k1, low % 2**64
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) % 2**64, (k1 + 0xBB67AE8584CAA73B) % 2**64
        words += [a, b, c, d]
    return words[:size]


def test_order_is_that_of_the_published_generator():
    words = philox_words([3, 1], 11)
    expected = sorted(range(11), key=lambda i: words[i])
    assert order.permutation(seed=3, stream=1, size=11).tolist() == expected


def test_each_number_occurs_once():
    assert sorted(order.permutation(seed=9, stream=2, size=1000)) == list(range(1000))


def test_seeds_and_streams_give_other_orders():
    orders = [order.permutation(seed=s, stream=e, size=50) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4


def test_every_place_is_equally_likely():
    # 1,200 orders of 6: each example is first 200 times, sd 12.9; 5 sd allowed
    first = [order.permutation(seed=0, stream=e, size=6)[0] for e in range(1200)]
    assert np.abs(np.bincount(first, minlength=6) - 200).max() < 65


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed must be an integer in"):
        order.permutation(seed=-1, stream=0, size=2)


def test_the_seed_of_a_key_is_its_last_64_bits():
    words = np.array([1, 2, 3, 4], np.uint32)
    for key, expected in (
        (jax.random.wrap_key_data(words[:2]), 1 * 2**32 + 2),
        (jax.random.wrap_key_data(words, impl="rbg"), 3 * 2**32 + 4),  # keys of 128 bits
        (jax.random.key(7, impl="unsafe_rbg"), 7),
    ):
        assert order.seed_of(key) == expected
