"""Tests of whole networks against other ways to compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcjax import losses, models
from hcjax.models.resnet import resnet, resnet_small

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def valid_conv(x, layer):
    windows = np.lib.stride_tricks.sliding_window_view(x, layer["kernel"].shape[:2], (1, 2))
    return np.einsum("nijchw,hwco->nijo", windows, layer["kernel"]) + layer["bias"]


def pool(x, function):
    n, h, w, c = x.shape
    return function(x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def dense(x, layer):
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]


def in_numpy(name):
    """Returns (logits of hcjax, params in float64, images in float64) with random biases."""
    network = models.create(name, input_shape=(28, 28, 1))
    params, state = network.init(KEY)
    params = jax.tree.map(lambda p: p + 0.1 * RNG.normal(size=p.shape).astype(np.float32), params)
    images = RNG.normal(size=(2, 28, 28, 1))
    logits = jax.jit(network.apply)(params, state, jnp.array(images, jnp.float32))[0]
    return logits, jax.tree.map(lambda p: np.asarray(p, np.float64), params), images


def test_seed_cnn_in_numpy():
    logits, p, x = in_numpy("seed_cnn_tiny")
    x = pool(np.maximum(valid_conv(x, p["conv1"]), 0), np.max)
    np.testing.assert_allclose(logits, dense(x, p["dense1"]), rtol=1e-4, atol=1e-4)


def test_lenet5_in_numpy_has_one_relu():
    logits, p, x = in_numpy("lenet5_tiny")
    x = pool(valid_conv(x, p["conv1"]), np.max)
    x = pool(valid_conv(x, p["conv2"]), np.max)
    x = np.maximum(dense(x, p["dense1"]), 0)
    np.testing.assert_allclose(logits, dense(x, p["dense2"]), rtol=1e-4, atol=1e-4)


def test_lenet5_1998_in_numpy_pads_to_32():
    logits, p, x = in_numpy("lenet5_1998")

    def tanh(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    x = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    x = pool(tanh(valid_conv(x, p["conv1"])), np.mean)
    x = pool(tanh(valid_conv(x, p["conv2"])), np.mean)
    x = tanh(dense(tanh(dense(x, p["dense1"])), p["dense2"]))
    np.testing.assert_allclose(logits, dense(x, p["dense3"]), rtol=1e-4, atol=1e-4)


def test_blocks_that_start_at_zero_leave_the_shortcuts_of_the_small_resnet():
    network = resnet_small(depth=8, width=4, zero_init=True, input_shape=(8, 8, 3))
    params, state = network.init(KEY)
    images = jnp.array(RNG.normal(size=(2, 8, 8, 3)), jnp.float32)
    logits, _ = jax.jit(network.apply)(params, state, images)
    stem = jax.lax.conv_general_dilated(
        images, params["stem"]["conv"]["kernel"], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    x = np.maximum(np.asarray(stem) / np.sqrt(1 + 1e-5), 0)[:, ::4, ::4].mean(axis=(1, 2))
    x = np.concatenate([x, np.zeros((2, 12))], axis=1)  # the new channels are zero, appended
    np.testing.assert_allclose(logits, dense(x, params["dense1"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride_in, conv", [("1x1", "conv1"), ("3x3", "conv2")])
def test_the_stride_is_where_it_was_asked_for(stride_in, conv):
    network = resnet(stages=(1, 1), width=2, stride_in=stride_in, input_shape=(32, 32, 3))
    params, state = jax.eval_shape(network.init, KEY)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(network.apply)(params, state, images)
    strided = [
        eqn.invars[1].aval.shape
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "conv_general_dilated" and eqn.params["window_strides"] == (2, 2)
    ]
    block = params["stage2_block1"]
    kernels = [params["stem"]["conv"], block[conv], block["conv_shortcut"]]
    assert strided == [kernel["kernel"].shape for kernel in kernels]


def test_resnet50_halves_the_image_five_times():
    network = models.create("resnet50", num_classes=1000, input_shape=(224, 224, 3))
    params, state = jax.eval_shape(network.init, KEY)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(network.apply)(params, state, images)
    maps = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name.startswith("conv_gen")]
    assert (len(maps), maps[0], maps[-1]) == (53, (1, 112, 112, 64), (1, 7, 7, 2048))


def test_nin_has_no_dense_layer_and_pools_16_and_8():
    network = models.create("nin", input_shape=(32, 32, 3))
    params, _ = jax.eval_shape(network.init, KEY)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(network.apply)(params, {}, images)
    maps = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name.startswith("conv_gen")]
    sides = [(32, 192), (32, 160), (32, 96), (16, 192), (16, 192), (16, 192), (8, 192), (8, 192)]
    assert maps == [(1, side, side, channels) for side, channels in [*sides, (8, 10)]]
    assert sum(e.primitive.name == "custom_jvp_call" for e in jaxpr.eqns) == 8  # the last: no relu


DEEPER = [
    pytest.param("alexnet_tiny", marks=pytest.mark.slow),
    pytest.param("nin_tiny", marks=pytest.mark.slow),
    "vgg_tiny",
    pytest.param("resnet_tiny", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", DEEPER)
def test_the_deeper_families_fit_eight_images(name):
    shape = (8, 8, 3)
    options = {} if name == "resnet_tiny" else {"dropout": 0.0}
    network = models.create(name, num_classes=2, input_shape=shape, **options)
    params, state = network.init(KEY)
    images = jnp.array(RNG.normal(size=(8, *shape)), jnp.float32)
    labels = jnp.array([0, 1] * 4)
    tx = optax.adam(1e-2)

    def loss(params, state):
        logits, state = network.apply(params, state, images, train=True, key=KEY)
        return losses.cross_entropy(logits, labels).mean(), state

    @jax.jit
    def train(params, state):
        def step(carry, _):
            params, state, opt_state = carry
            (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), state, opt_state), (value, grads)

        carry = params, state, tx.init(params)
        return jax.lax.scan(step, carry, length=60)

    _, (values, grads) = train(params, state)
    assert float(values[-1]) < 0.1 < float(values[0])
    # the first gradient reaches every layer
    reached = jax.tree.map(lambda g: bool(jnp.abs(g[0]).max() > 0), grads)
    assert all(any(jax.tree.leaves(layer)) for layer in reached.values())
