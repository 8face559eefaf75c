"""Tests of the Linen adapter with BatchNorm, dropout and every name of the training flag."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import models
from hcjax.errors import ConfigError

KEY = jax.random.key(0)
IMAGES = jnp.array(np.random.default_rng(0).normal(size=(4, 6, 6, 1)), jnp.float32)


class CNN(nn.Module):
    """A convolution with BatchNorm, dropout and a dense layer, computed in bfloat16."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        self.sow("intermediates", "features", x)
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(3, dtype=self.dtype)(x)


def test_a_linen_cnn_trains_its_statistics_and_drops_by_key():
    network = models.linen(CNN(), (6, 6, 1))
    params, state = network.init(KEY)
    assert set(params) == {"Conv_0", "BatchNorm_0", "Dense_0"} and set(state) == {"batch_stats"}
    one, new = network.apply(params, state, IMAGES, train=True, key=jax.random.key(1))
    other, _ = network.apply(params, state, IMAGES, train=True, key=jax.random.key(2))
    assert not np.allclose(one, other)
    features = nn.Conv(4, (3, 3)).apply({"params": params["Conv_0"]}, IMAGES)
    mean = new["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * features.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    assert not state["batch_stats"]["BatchNorm_0"]["mean"].any()  # the old state is untouched


def test_inference_is_the_modules_own():
    network = models.linen(CNN(), (6, 6, 1))
    params, state = network.init(KEY)
    logits, after = network.apply(params, state, IMAGES)
    expected = CNN().apply({"params": params, **state}, IMAGES, train=False)
    np.testing.assert_array_equal(logits, expected)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    f = models.inference(network.apply, state)
    np.testing.assert_array_equal(f(params, IMAGES), expected)


def test_logits_are_float32_and_shapes_can_be_had_without_computing():
    network = models.linen(CNN(dtype="bfloat16"), (6, 6, 1))
    params, state = jax.eval_shape(network.init, KEY)
    logits, _ = jax.eval_shape(network.apply, params, state, IMAGES)
    assert (logits.shape, logits.dtype) == ((4, 3), jnp.float32)


class Flagged(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(x.reshape(len(x), -1))


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x.reshape(len(x), -1))


class Strange(nn.Module):
    def __call__(self, x, temperature):
        return x / temperature


def test_deterministic_is_the_opposite_of_train():
    network = models.linen(Flagged(), (6, 6, 1))
    logits, _ = network.apply({}, {}, IMAGES, train=True, key=KEY)
    assert (np.asarray(logits) == 0).any()
    np.testing.assert_array_equal(network.apply({}, {}, IMAGES)[0], IMAGES.reshape(4, -1))


def test_a_module_without_state_or_flag_keeps_an_empty_state_in_training():
    network = models.linen(Plain(), (6, 6, 1))
    params, state = network.init(KEY)
    logits, new = network.apply(params, state, IMAGES, train=True, key=KEY)
    assert logits.shape == (4, 2) and state == new == {}


def test_a_call_with_other_arguments_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"Strange\.__call__ .* it also needs temperature"):
        models.linen(Strange(), (6, 6, 1))
