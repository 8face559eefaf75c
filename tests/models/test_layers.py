"""Tests of layers and initial values against NumPy, by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax.models import initial, layers
from hcjax.models.alexnet import response_norm

RNG = np.random.default_rng(0)


def conv_by_definition(x, kernel, bias, stride, groups):
    """Returns the valid convolution in float64, one output pixel at a time."""
    size, _, depth, outputs = kernel.shape
    side = (x.shape[1] - size) // stride + 1
    out = np.zeros((len(x), side, side, outputs))
    for i in range(side):
        for j in range(side):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            for o in range(outputs):
                g = o // (outputs // groups)
                part = window[..., g * depth : (g + 1) * depth]
                out[:, i, j, o] = (part * kernel[..., o]).sum(axis=(1, 2, 3)) + bias[o]
    return out


@pytest.mark.parametrize("stride, groups, padding", [(1, 1, "VALID"), (2, 2, (1, 2))])
def test_conv_by_definition(stride, groups, padding):
    x = RNG.normal(size=(2, 7, 7, 4)).astype(np.float32)
    kernel = RNG.normal(size=(3, 3, 4 // groups, 6)).astype(np.float32)
    bias = RNG.normal(size=6).astype(np.float32)
    out = layers.conv(
        {"kernel": kernel, "bias": bias},
        jnp.array(x),
        stride=stride,
        padding=padding,
        groups=groups,
    )
    border = (0, 0) if padding == "VALID" else padding
    wide = np.pad(x.astype(np.float64), [(0, 0), border, border, (0, 0)])
    expected = conv_by_definition(wide, kernel, bias, stride, groups)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_pools_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert layers.max_pool(x, 2, 2).ravel().tolist() == [5, 7, 13, 15]
    assert layers.avg_pool(x, 2, 2).ravel().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_max_pool_ignores_its_padding_and_average_pool_does_not_count_it():
    x = -jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(layers.max_pool(x, 3, 2, padding="SAME"), -np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(layers.avg_pool(x, 3, 2, padding="SAME"), -np.ones((1, 2, 2, 1)))


def test_activations_by_hand():
    x = jnp.array([[-2.0, 0.0, 3.0]])
    slope = {"slope": jnp.array([0.25, 0.5, 0.5])}
    assert layers.activate("relu", {}, x).tolist() == [[0, 0, 3]]
    assert layers.activate("prelu", slope, x).tolist() == [[-0.5, 0, 3]]
    assert layers.activate("identity", {}, x).tolist() == [[-2, 0, 3]]
    tanh = layers.activate("tanh", {}, jnp.array([-1.0, 1.0]))
    np.testing.assert_allclose(tanh, [-1, 1], atol=1e-4)  # the paper's constants are rounded


def test_dropout_keeps_the_mean_and_drops_the_stated_part():
    x = jnp.ones((100, 1000))
    out = np.asarray(layers.dropout(x, 0.2, train=True, key=jax.random.key(0)))
    assert set(np.unique(out)) == {0, np.float32(1.25)}
    assert abs((out == 0).mean() - 0.2) < 0.006  # 5 standard deviations of 100,000 draws
    assert layers.dropout(x, 0.2, train=False, key=None) is x


def test_response_norm_by_definition():
    x = RNG.normal(size=(1, 2, 2, 8)).astype(np.float32) * 50
    expected = np.empty_like(x)
    for c in range(8):
        total = (x[..., max(0, c - 2) : c + 3].astype(np.float64) ** 2).sum(axis=-1)
        expected[..., c] = x[..., c] / (2 + 1e-4 * total) ** 0.75
    np.testing.assert_allclose(response_norm(jnp.array(x)), expected, rtol=1e-5)


def test_spatial_rounds_down_and_names_the_window_that_does_not_fit():
    assert layers.spatial((28, 20, 1), [(5, 1, 0), (2, 2, 0)]) == (12, 8)
    with pytest.raises(ValueError, match="nothing is left after a 5×5 window"):
        layers.spatial((4, 28, 1), [(5, 1, 0)])


@pytest.mark.parametrize(
    "activation, variance", [("relu", 2), ("prelu", 2 / (1 + 0.25**2)), ("identity", 1)]
)
def test_he_initialisation_has_the_papers_variance(activation, variance):
    init = initial.draw({"dense1": initial.dense((400, 500), activation=activation)})
    params = init(jax.random.key(0))[0]["dense1"]
    kernel = np.asarray(params["kernel"])
    assert kernel.var() == pytest.approx(variance / 400, rel=0.02)  # 6 standard deviations
    assert abs(kernel.mean()) < 6 * np.sqrt(variance / 400 / kernel.size)
    assert not params["bias"].any()


def test_relu_layers_keep_the_second_moment_of_the_signal():
    depth, width = 12, 300
    start = {f"dense{n}": initial.dense((width, width), activation="relu") for n in range(depth)}
    params, _ = initial.draw(start)(jax.random.key(1))
    x = RNG.normal(size=(200, width))
    for n in range(depth):  # in NumPy: the property of the weights, not of our layers
        x = np.maximum(x @ np.asarray(params[f"dense{n}"]["kernel"], np.float64), 0)
    assert 0.4 < 2 * (x**2).mean() / 2 < 2.5  # Xavier's rule would leave 2^-12


def test_every_kernel_gets_numbers_of_its_own():
    start = {name: initial.dense((20, 20)) for name in "ab"}
    params, _ = initial.draw(start)(jax.random.key(0))
    together = np.corrcoef(*(np.ravel(params[name]["kernel"]) for name in "ab"))
    assert abs(together[0, 1]) < 0.25  # 5 standard deviations of 400 pairs
