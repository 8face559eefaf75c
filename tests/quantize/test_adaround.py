"""adaround: rounding up or down keeps a layer's output nearer than rounding to nearest."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from tests.graph import reference
from tests.graph.networks import logits
from tests.quantize.test_bias_correction import calibrated

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def error(model, fake, images):
    return float(np.square(logits(fake, images) - logits(model, images)).mean())


@lru_cache
def one_layer():
    """Returns a dense layer on images of MNIST: (model, 4-bit model, its images, others)."""
    data = hcjax.data.load("mnist")
    images = jnp.float32(data.train.images[:384].reshape(384, 784) / 255.0)
    w = jnp.float32(np.random.default_rng(0).normal(size=(784, 10)) / 28)
    w = w.at[::3].set(0)  # pruned
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": w}, images)
    ranges = hcjax.calibrate(model, images, method="minmax")
    fake = hcjax.fake_quantize(model, ranges, bits=4, activation_bits=8)
    return model, fake, images[:256], images[256:]


def test_a_layers_output_is_nearer_than_by_rounding_to_the_nearest():
    model, fake, images, others = one_layer()
    better = hcjax.adaround(model, fake, images, key=KEY, steps=300)
    assert error(model, better, images) < 0.5 * error(model, fake, images)
    assert error(model, better, others) < 0.7 * error(model, fake, others)
    step = np.asarray(fake.params["w/kernel_step"])
    was, now = (np.asarray(m.params["w"]) / step for m in (fake, better))
    whole = np.round(now)
    np.testing.assert_allclose(now, whole, atol=1e-5)  # in the middle of its integer
    assert ((whole == np.floor(was)) | (whole == np.ceil(was))).all()
    assert 0.02 < (whole != np.round(was)).mean() < 0.5
    assert (whole[was == 0] == 0).all() and np.abs(whole).max() == 7
    np.testing.assert_array_equal(hcjax.int8(better).params["w"].values, whole)


@pytest.mark.parametrize(
    "name, granularity",
    [pytest.param("lenet5", "channel", marks=pytest.mark.long), ("seed_cnn_tiny", "tensor")],
)
def test_a_whole_network_is_nearer_and_int8_follows(name, granularity):
    model, images, ranges = calibrated(name)
    options = {"bits": 4, "activation_bits": 8, "granularity": granularity}
    fake = hcjax.fake_quantize(model, ranges, **options)
    better = hcjax.adaround(model, fake, images, key=KEY, steps=60)
    assert error(model, better, images) < 0.9 * error(model, fake, images)
    small = hcjax.int8(better)
    np.testing.assert_array_equal(logits(small, images), logits(better, images))
    some = images[:4]
    np.testing.assert_array_equal(logits(small, some), reference.logits(small, some))
    changed = {p for p in fake.params if not np.array_equal(fake.params[p], better.params[p])}
    assert changed == {p for p in fake.params if p.endswith("/kernel")}


def test_what_does_not_help_is_not_done():
    model, fake, images, _ = one_layer()
    same = hcjax.adaround(model, fake, images[:32], key=KEY, steps=1, learning_rate=0.0, pull=0.0)
    step = np.asarray(fake.params["w/kernel_step"])
    nearest = np.round(np.asarray(fake.params["w"]) / step)
    np.testing.assert_array_equal(np.round(np.asarray(same.params["w"]) / step), nearest)
    np.testing.assert_array_equal(logits(same, images), logits(fake, images))


def test_bad_calls_are_refused():
    model, fake, images, _ = one_layer()
    with pytest.raises(ConfigError, match="no images"):
        hcjax.adaround(model, fake, images[:0], key=KEY)
    with pytest.raises(ConfigError, match="steps must be >= 1, got 0"):
        hcjax.adaround(model, fake, images, key=KEY, steps=0)
    with pytest.raises(ConfigError, match="not from fake_quantize"):
        hcjax.adaround(fake, model, images, key=KEY)
