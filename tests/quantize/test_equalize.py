"""equalize: the same function, channels of one size, and int8 that survives one step per kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.quantize.ptq.equalize import pairs
from tests.graph.networks import NETWORKS, folded, logits


def unbalanced(model, path, seed=0):
    """Returns the model with the output channels of a kernel, and its bias, made very unlike."""
    kernel = model.params[f"{path}/kernel"]
    sizes = 10.0 ** np.random.default_rng(seed).uniform(-1, 1, kernel.shape[-1])
    new = {f"{path}/kernel": kernel * sizes, f"{path}/bias": model.params[f"{path}/bias"] * sizes}
    return model.replace(params=model.params | jax.tree.map(jnp.float32, new))


QUICK = ("linen", "nnx", "haiku mobilenet", "dense", "lenet5")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_the_function_is_the_same(name):
    model, images = folded(name)
    rng = np.random.default_rng(0)
    if name != "dense":  # whose channels are unlike enough, and shared
        wild = {
            p: v * jnp.float32(10.0 ** rng.uniform(-0.5, 0.5, v.shape))
            for p, v in model.params.items()
        }
        model = model.replace(params=wild)
    same = hcjax.equalize(model)
    expected = logits(model, images)
    scale = np.abs(expected).max()
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(logits(same, images), expected, atol=1e-5 * scale, rtol=0)
    changed = [p for p in model.params if not np.array_equal(model.params[p], same.params[p])]
    kernels = {p for p in changed if model.params[p].ndim > 1}
    found = {n for pair in pairs(model) for n in (pair.first, pair.second)}
    assert kernels == {p for p, n in model.graph.params.items() if n in found}


# names of the layers that follow each other through nothing but homogeneous ops
EXPECTED = {
    "lenet5": ["conv1 conv2", "conv2 dense1", "dense1 dense2"],
    "nnx": ["conv dense"],
    "equinox": [],  # a bias behind a reshape, which fold leaves alone
    "dense": [],  # a concatenation, a shared kernel, a sigmoid
}


@pytest.mark.parametrize("name", EXPECTED)
def test_pairs_are_found_through_pooling_and_flattening(name):
    model, _ = folded(name)
    paths = {number: path for path, number in model.graph.params.items()}
    name_of = lambda number: paths[number].split("/")[-2]
    found = [f"{name_of(p.first)} {name_of(p.second)}" for p in pairs(model)]
    assert found == EXPECTED[name]


def test_a_residual_sum_and_its_readers_are_left_alone():
    model, _ = folded("resnet_tiny")
    found = pairs(model)
    assert found
    sums = {op.output for op in model.graph.ops if op.kind == "add"}
    assert sums
    readers = {}
    for op in model.graph.ops:
        for i in op.inputs:
            readers.setdefault(i, []).append(op)
    layers = {i: op for op in model.graph.ops if op.macs for i in op.inputs}
    for pair in found:  # the first's output is read by relu alone, the second's input is that
        (relu,) = readers[layers[pair.first].output]
        assert relu.kind == "relu" and layers[pair.second].inputs[0] == relu.output


def test_both_sides_of_a_pair_reach_equally_far():
    model, _ = folded("lenet5")
    same = hcjax.equalize(unbalanced(unbalanced(model, "conv2"), "dense1")).params
    conv2, dense1 = same["conv2/kernel"], same["dense1/kernel"]
    first = np.abs(conv2).max((0, 1, 2))
    second = np.abs(dense1).reshape(4, 4, 50, 500).max((0, 1, 3))  # flattened as HWC
    np.testing.assert_allclose(first, second, rtol=0.02)
    first, second = np.abs(dense1).max(0), np.abs(same["dense2/kernel"]).max(1)
    np.testing.assert_allclose(first, second, rtol=0.02)


def noise(model, images, expected, **options):
    """Returns the signal to noise ratio of a model's int8 logits, dB."""
    small = hcjax.int8(model, hcjax.calibrate(model, images, method="minmax"), **options)
    got = logits(small, images)
    return 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum())


def test_it_rescues_kernels_with_one_step_for_wildly_different_channels():
    model, images = folded("lenet5")
    rng = np.random.default_rng(3)
    sizes = jnp.float32(10.0 ** rng.uniform(-1.5, 1.5, 50))
    spread = jnp.float32(10.0 ** rng.uniform(-1.5, 1.5, 500))
    params = dict(model.params)
    for path in ("conv2/kernel", "conv2/bias"):
        params[path] = params[path] * sizes
    params["dense1/kernel"] = params["dense1/kernel"] / jnp.tile(sizes, 16)[:, None] * spread
    params["dense1/bias"] = params["dense1/bias"] * spread
    params["dense2/kernel"] = params["dense2/kernel"] / spread[:, None]
    wild = model.replace(params=params)
    expected = logits(model, images)
    np.testing.assert_allclose(logits(wild, images), expected, rtol=1e-4)
    before = noise(wild, images, expected, granularity="tensor")
    after = noise(hcjax.equalize(wild), images, expected, granularity="tensor")
    untouched = noise(model, images, expected, granularity="tensor")
    assert after > before + 10 and after > untouched - 3


def test_channels_that_are_mixed_or_dead_are_no_pair_and_no_harm():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(5, 8)), "b": rng.normal(size=(4, 3))}
    params = jax.tree.map(jnp.float32, params)

    def summed(p, x):
        y = jax.nn.relu(x @ p["a"])
        return (y.reshape(-1, 4, 2).sum(2)) @ p["b"]

    def highest(p, x):
        y = jax.nn.relu(x @ p["a"])
        return (y.reshape(-1, 4, 2).max(2)) @ p["b"]

    for apply in (summed, highest):
        assert pairs(hcjax.trace(apply, params, jnp.ones((1, 5)))) == ()
    params = {"a": params["a"].at[:, 3].set(0), "b": jnp.float32(rng.normal(size=(8, 3)))}
    params["b"] = params["b"].at[5].set(0)
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 5)))
    same = hcjax.equalize(model)
    images = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
    np.testing.assert_allclose(logits(same, images), logits(model, images), rtol=1e-4, atol=1e-5)
    assert (same.params["a"][:, 3] == 0).all() and (same.params["b"][5] == 0).all()
    np.testing.assert_array_equal(same.params["a"][:, 5], params["a"][:, 5])


def test_old_ranges_and_bad_calls_are_refused():
    model, images = folded("nnx")
    ranges = hcjax.calibrate(model, images)
    with pytest.raises(ValueError, match="those of another model"):
        hcjax.fake_quantize(hcjax.equalize(model), ranges)
    with pytest.raises(ConfigError, match="iterations must be >= 1, got 0"):
        hcjax.equalize(model, iterations=0)
    with pytest.raises(ConfigError, match="equalize it before calibrate"):
        hcjax.equalize(hcjax.fake_quantize(model, ranges))
