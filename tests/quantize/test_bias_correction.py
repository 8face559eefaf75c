"""correct_bias: layers whose mean outputs are those of the float network again."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.graph.model import run
from tests.draws import normal
from tests.graph import reference
from tests.graph.networks import folded, logits

pytestmark = pytest.mark.slow


@lru_cache
def calibrated(name="lenet5", count=64):
    """Returns a folded network, images of MNIST if it takes them, and its ranges."""
    model, _ = folded(name)
    images = normal(count, *model.image_shape, seed=2)
    if model.image_shape == (28, 28, 1):
        data = hcjax.data.load("mnist")
        images = jnp.asarray((data.train.images[:count].reshape(images.shape) / 255.0 - 0.13) / 0.3)
    return model, images, hcjax.calibrate(model, images)


def largest(model, fake, images):
    """Returns each layer's greatest mean error of a channel, in its outputs' deviation."""
    errors = hcjax.mean_errors(model, fake, images)
    activations = {}
    run(model.graph, model.leaves(model.params), [images], visit=activations.__setitem__)
    layers = [op for op in model.graph.ops if op.macs]
    sizes = [float(jnp.std(activations[op.output])) for op in layers]
    return {n: np.abs(e).max() / s for (n, e), s in zip(errors.items(), sizes, strict=True)}


@pytest.mark.parametrize("name, granularity", [("lenet5", "channel"), ("seed_cnn_tiny", "tensor")])
def test_mean_errors_all_but_vanish(name, granularity):
    model, images, ranges = calibrated(name)
    options = {"bits": 3, "activation_bits": 8, "granularity": granularity}
    fake = hcjax.fake_quantize(model, ranges, **options)
    better = hcjax.correct_bias(model, fake, images)
    before, after = largest(model, fake, images), largest(model, better, images)
    assert list(before) == [row.name for row in hcjax.cost(model).rows]
    for name in before:
        assert before[name] > 0.002 and after[name] < before[name] / 5, (name, before, after)
    changed = {p for p in fake.params if not np.array_equal(fake.params[p], better.params[p])}
    assert changed == {f"{name}/bias" for name in before}
    expected = logits(model, images)
    errors = [np.square(logits(m, images) - expected).mean() for m in (fake, better)]
    assert errors[1] < errors[0]
    small = hcjax.int8(better)
    np.testing.assert_array_equal(logits(small, images), logits(better, images))
    some = images[:4]
    np.testing.assert_array_equal(logits(small, some), reference.logits(small, some))


def test_a_mean_error_is_that_of_the_kernels_rounding_where_inputs_are_exact():
    rng = np.random.default_rng(0)
    params = {"w": jnp.float32(rng.normal(size=(6, 4))), "b": jnp.float32(rng.normal(size=4))}
    images = jnp.float32(rng.integers(-127, 128, (50, 6))).at[0, 0].set(127)
    model = hcjax.fold(hcjax.trace(lambda p, x: x @ p["w"] + p["b"], params, images))
    ranges = hcjax.calibrate(model, images, method="minmax")
    fake = hcjax.fake_quantize(model, ranges, bits=2, activation_bits=8)
    step = np.abs(params["w"]).max(0)
    rounded = np.round(np.asarray(params["w"]) / step) * step
    expected = np.asarray(images).mean(0) @ (rounded - params["w"])
    for size in (50, 7):  # for any batch size
        found = hcjax.mean_errors(model, fake, images, batch_size=size)["w"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    better = hcjax.correct_bias(model, fake, images)
    bias = next(p for p in fake.params if p.endswith("bias"))
    np.testing.assert_allclose(
        better.params[bias], np.asarray(params["b"]) - expected, rtol=1e-3, atol=1e-3
    )


def test_layers_without_a_bias_stay_and_are_still_listed():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(6, 9)), "b": rng.normal(size=9), "c": rng.normal(size=(9, 3))}
    params = jax.tree.map(jnp.float32, params)
    images = jnp.float32(rng.normal(size=(40, 6)))
    apply = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]
    model = hcjax.fold(hcjax.trace(apply, params, images))
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images), bits=3)
    better = hcjax.correct_bias(model, fake, images)
    before, after = (hcjax.mean_errors(model, m, images) for m in (fake, better))
    assert list(after) == ["a", "c"]
    assert np.abs(after["a"]).max() < np.abs(before["a"]).max() / 5
    np.testing.assert_array_equal(fake.params["c/kernel"], better.params["c/kernel"])
    plain = hcjax.trace(apply, params, images)  # whose bias is an op of its own
    fake = hcjax.fake_quantize(plain, hcjax.calibrate(plain, images), bits=3)
    with pytest.raises(ConfigError, match="no layer has a bias that could be corrected: fold"):
        hcjax.correct_bias(plain, fake, images)


def test_biases_that_were_pruned_stay_zero_where_masks_say_so():
    rng = np.random.default_rng(0)
    params = {"w": jnp.float32(rng.normal(size=(6, 4))), "b": jnp.float32([0, 0.5, 0, -1])}
    images = jnp.float32(rng.normal(size=(40, 6)))
    model = hcjax.fold(hcjax.trace(lambda p, x: x @ p["w"] + p["b"], params, images))
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images), bits=2)
    (path,) = (p for p in fake.params if p.endswith("bias"))
    masks = hcjax.prune.nonzero(fake.params, select=path)
    found = hcjax.correct_bias(model, fake, images, masks=masks).params[path]
    every = hcjax.correct_bias(model, fake, images).params[path]
    assert every.all() and not np.asarray(found)[[0, 2]].any()
    np.testing.assert_array_equal(found[1::2], every[1::2])
    for wrong, message in (({}, "has none"), ({path: np.ones(3, bool)}, r"has one of \(3,\)")):
        with pytest.raises(ConfigError, match=message):
            hcjax.correct_bias(model, fake, images, masks=wrong)


def test_models_that_do_not_belong_together_are_refused():
    model, images, ranges = calibrated()
    fake = hcjax.fake_quantize(model, ranges)
    with pytest.raises(ConfigError, match=r"the second model is not from fake_quantize$"):
        hcjax.correct_bias(model, hcjax.int8(fake), images)
    other, _, _ = calibrated("seed_cnn_tiny")
    with pytest.raises(ConfigError, match="not from fake_quantize of the first"):
        hcjax.correct_bias(other, fake, images)
    with pytest.raises(ConfigError, match="no images"):
        hcjax.correct_bias(model, fake, images[:0])
