"""Networks with channels to cut, and the definition that a cut network is held to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hcjax
from tests.draws import normal
from tests.graph.networks import FROZEN, NETWORKS, ours, randomized


def conv(x, k, padding="SAME", **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=numbers, **options)


def written(shapes, image=(6, 6, 3)):
    """Makes a network of a function (params, images) -> logits and its parameters' shapes."""

    def make(apply):
        params = {name: jnp.zeros(shape) - 0.1 for name, shape in shapes.items()}
        return lambda: (apply, randomized(params), jnp.ones((1, *image)))

    return make


@written({"a": (3, 3, 3, 12), "b": (3, 3, 3, 8), "c": (8, 10)})
def grouped(p, x):
    """A convolution of four groups of three channels, which make two each."""
    y = jax.nn.relu(conv(x, p["a"]))
    return jax.nn.relu(conv(y, p["b"], feature_group_count=4)).mean((1, 2)) @ p["c"]


@written({"a": (1, 1, 3, 8), "b": (3, 3, 4, 8), "c": (1, 1, 8, 8), "d": (8, 10)})
def shuffled(p, x):
    """Channels that are shuffled before and after a convolution of two groups."""
    shuffle = lambda y: y.reshape(*y.shape[:3], 2, 4).swapaxes(3, 4).reshape(y.shape)
    y = jax.nn.relu(conv(shuffle(conv(x, p["a"])), p["b"], feature_group_count=2))
    return conv(shuffle(y), p["c"]).max((1, 2)) @ p["d"]


@written({"a": (3, 3, 3, 12), "b": (3, 3, 1, 24), "c": (24 * 36, 10)})
def gated(p, x):
    """Halves that gate one another, depthwise with two outputs each, flattened channels first."""
    left, right = jnp.split(conv(x, p["a"]), 2, axis=-1)
    y = jnp.concatenate([left * jax.nn.sigmoid(right), jax.nn.elu(left)[..., ::-1]], -1)
    y = conv(y, p["b"], feature_group_count=12).transpose(0, 3, 1, 2)
    return y.reshape(y.shape[0], -1) @ p["c"]


@written({"a": (3, 3, 3, 6), "b": (3, 3, 10, 10), "slope": (6, 1, 1), "c": (5, 10)})
def padded(p, x):
    """Padding before and after the channels, a slice of them, and a PReLU with axes."""
    y = conv(x, p["a"])
    y = jnp.where(y > 0, y, y * p["slope"].reshape(6))
    y = jnp.pad(y, ((0, 0), (1, 0), (0, 0), (1, 3)), constant_values=0.5)
    return (conv(y, p["b"]) + y)[..., 2:7].mean((1, 2)) @ p["c"]


MORE = {
    "grouped": grouped,
    "shuffled": shuffled,
    "gated": gated,
    "padded": padded,
    "resnet20": ours("resnet20", (32, 32, 3)),
    "resnet50_tiny": ours("resnet50_tiny", (32, 32, 3)),
    "nin_tiny": ours("nin_tiny", (16, 16, 3)),
    "alexnet_tiny": ours("alexnet_tiny", (16, 16, 3)),
    "fast_cnn": ours("fast_cnn", (28, 28, 1)),
    "lenet_300_100": ours("lenet_300_100", (28, 28, 1)),
}
ALL = NETWORKS | MORE


@functools.cache
def traced(name, fold=False):
    """Returns a network's Model and five random images."""
    if fold:
        model, images = traced(name)
        return hcjax.fold(model), images
    apply, params, image = ALL[name]()
    images = normal(5, *image.shape[1:], seed=1)
    return hcjax.trace(apply, params, image, frozen=FROZEN.get(name, "")), images


def zeroed(model, cuts):
    """Returns a model's params with zeros in all that was cut from them."""
    params = {path: np.array(leaf) for path, leaf in model.params.items()}
    for path, axis, kept, size in cuts:
        if path in params:
            gone = np.setdiff1d(np.arange(size), kept)
            params[path][(slice(None),) * axis + (gone,)] = 0
    return params


def logits(model, params, images):
    return np.asarray(jax.jit(model.apply)(params, images))


def check_cut(model, small, images, *, alive=True):
    """Asserts that a cut network is the whole one with zeros in what was cut.

    Where next to nothing is kept, relu may leave nothing to compare but zeros: not alive.
    """
    expected = logits(model, zeroed(model, small.cut), images)
    got = logits(small, small.params, images)
    assert not alive or np.ptp(expected) > 1e-4
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
