"""The U-Net: what it computes, and that it goes through the whole chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax import models, trees
from hcjax.models.network import inference
from tests.draws import normal
from tests.graph.networks import randomized

IMAGES = normal(3, 16, 24, 3)
NETWORK = models.create("unet_tiny", num_classes=3, input_shape=(16, 24, 3))


@pytest.fixture(scope="module")
def trained():
    """Parameters and statistics as of a trained network: none is 0 or 1."""
    params, state = NETWORK.init(jax.random.key(0))
    return randomized(params), jax.tree.map(lambda x: x + 0.3 * jnp.ones_like(x), state)


@pytest.fixture(scope="module")
def model(trained):
    params, state = trained
    return hcjax.fold(hcjax.trace(inference(NETWORK.apply, state), params, IMAGES[:1]))


def test_each_pixel_has_logits_that_far_pixels_reach(trained):
    params, state = trained
    one = lambda x: NETWORK.apply(params, state, x[None])[0][0, 8, 12].sum()
    touched = np.abs(jax.jit(jax.grad(one))(IMAGES[0])).sum(-1) > 0
    assert touched[8, 12] and touched[:, 12].sum() >= 14 and touched[8].sum() >= 14


def test_every_parameter_has_a_gradient_and_statistics_move(trained):
    params, state = trained

    def loss(params):
        logits, new = NETWORK.apply(params, state, IMAGES, train=True)
        return (logits**2 * jnp.arange(1.0, 4.0)).mean(), new

    gradients, new = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert all(np.abs(leaf).max() > 0 for _, leaf in trees.paths(gradients))
    assert all((a != b).all() for a, b in zip(*map(jax.tree.leaves, (state, new)), strict=True))


def test_folding_keeps_the_logits(trained, model):
    params, state = trained
    expected = NETWORK.apply(params, state, IMAGES)[0]
    found = model.apply(model.params, IMAGES)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert trees.num_parameters(model.params) < trees.num_parameters(params)


def test_in_integers_it_is_all_integers_and_what_was_trained(model):
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, IMAGES), bits=4, activation_bits=8)
    whole = hcjax.int8(fake)
    found, expected = (jax.jit(m.apply)(m.params, IMAGES) for m in (whole, fake))
    assert whole.floats == ()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_half_of_the_products_can_be_taken_out_and_a_file_holds_the_rest(model):
    small = hcjax.shrink(model, macs=0.5, images=IMAGES)
    assert hcjax.cost(small).macs <= 0.5 * hcjax.cost(model).macs
    small = hcjax.prune.refit(small, model, IMAGES)
    again = hcjax.unpack(hcjax.pack(small))
    found, expected = (jax.jit(m.apply)(m.params, IMAGES) for m in (again, small))
    assert found.shape == (3, 16, 24, 3)
    np.testing.assert_array_equal(found, expected)
