"""Small networks for the tests of exports: (model in float, model in integers, images)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import hcjax
from tests.draws import normal

ABOUT = {"class_names": ["ant", "bee", "cat"], "mean": [0.25], "std": [0.5]}


@functools.cache
def dense():
    """Returns a network of two dense layers."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
    params = {"first": {"kernel": draw(6, 8)}, "second": {"kernel": draw(8, 3), "bias": draw(3)}}

    def apply(p, x):
        hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["first"]["kernel"])
        return hidden @ p["second"]["kernel"] + p["second"]["bias"]

    images = normal(20, 2, 3, 1, seed=1)
    model = hcjax.trace(apply, params, images[:1]).replace(about=ABOUT)
    small = hcjax.int8(model, hcjax.calibrate(model, images)).replace(about=ABOUT)
    return model, small, images


@functools.cache
def convolutional():
    """Returns a LeNet-5, whose bits in float depend on whether the compiler sees its weights."""
    network = hcjax.models.create("lenet5_tiny", input_shape=(28, 28, 1))
    params, state = network.init(jax.random.key(0))
    images = normal(16, 28, 28, 1, seed=2)
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, images[:1]))
    return model, hcjax.int8(model, hcjax.calibrate(model, images)), images


def outputs(model, *inputs):
    """Returns what a network gives, compiled, as NumPy arrays in its tree."""
    return jax.tree.map(np.asarray, jax.jit(model.apply)(model.params, *inputs))
