"""refit: layers of a shrunk network fitted to what they computed before channels went."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax import prune
from hcjax.errors import ConfigError
from tests.draws import normal
from tests.graph.cutting import logits, traced
from tests.graph.networks import randomized


def redundant():
    """Returns a network whose second layer has each channel twice, once scaled."""
    half = normal(6, 4)
    params = {"a": jnp.concatenate([half, 2 * half], 1), "b": normal(8, 3), "c": normal(3)}
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + p["c"]
    return hcjax.trace(apply, params, jnp.ones((1, 6)))


def error(small, model, images):
    return np.abs(logits(small, small.params, images) - logits(model, model.params, images)).max()


@pytest.mark.parametrize("fold", [False, True])
def test_what_the_channels_left_can_express_comes_back_without_training(fold):
    model = hcjax.fold(redundant()) if fold else redundant()
    images = normal(200, 6)
    scores = {p: jnp.zeros(leaf.shape) for p, leaf in model.params.items()}
    first = next(p for p, leaf in model.params.items() if leaf.shape == (6, 8))
    small = hcjax.shrink(model, keep=0.5, scores=scores | {first: jnp.ones((6, 8)) * jnp.arange(8)})
    assert small.cut[0].kept == (4, 5, 6, 7)  # one of each pair
    assert error(small, model, images) > 0.5
    again = prune.refit(small, model, images, ridge=1e-9)
    assert error(again, model, images) < 1e-3
    assert again.cut == small.cut and again.graph is small.graph


def test_it_is_the_least_squares_of_numpy_with_a_bias():
    params = {"a": normal(5, 6), "b": normal(6, 3), "c": normal(3)}
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + p["c"]
    model = hcjax.fold(hcjax.trace(apply, params, jnp.ones((1, 5))))
    images = normal(300, 5)
    small = hcjax.shrink(model, keep=0.5, images=images)
    again = prune.refit(small, model, images, ridge=0.1)
    first, second = (p for p in small.graph.params if small.params[p].ndim == 2)
    hidden = np.maximum(np.asarray(images, np.float64) @ np.asarray(small.params[first]), 0)
    x = np.concatenate([hidden, np.ones((300, 1))], 1)
    present = np.concatenate([small.params[second], params["c"][None]])
    y = logits(model, model.params, images) - x @ present
    strength = 0.1 * np.trace(x.T @ x) / x.shape[1]
    expected = present + np.linalg.solve(x.T @ x + strength * np.eye(len(present)), x.T @ y)
    bias = next(p for p in small.graph.params if again.params[p].shape == (3,))
    got = np.concatenate([again.params[second], again.params[bias][None]])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again.params[first], small.params[first], atol=1e-5)  # as it was


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "linen",
        "equinox",
        "nnx",
        "haiku mobilenet",
        "dense",
        "lenet5",
        "nin_tiny",
        "grouped",
        "padded",
    ],
)
@pytest.mark.parametrize("fold", [False, True])
def test_logits_come_nearer_to_the_originals(name, fold):
    model, _ = traced(name, fold)
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(96, *model.image_shape)), jnp.float32
    )
    shown, other = images[:64], images[64:]
    small = hcjax.shrink(model, keep=0.8, images=shown)
    again = prune.refit(small, model, shown, ridge=0.01)
    shapes = lambda m: jax.tree.map(jnp.shape, m.params)
    assert shapes(again) == shapes(small)
    assert error(again, model, shown) < error(small, model, shown)
    far = np.linalg.norm(logits(small, small.params, other) - logits(model, model.params, other))
    near = np.linalg.norm(logits(again, again.params, other) - logits(model, model.params, other))
    assert near < far


def test_bad_calls_say_what_is_wrong():
    model, images = redundant(), normal(8, 6)
    small = hcjax.shrink(model, keep=0.5, images=images)
    with pytest.raises(ConfigError, match="ridge must be > 0, got 0"):
        prune.refit(small, model, images, ridge=0)
    with pytest.raises(ConfigError, match=r"images must be \[N, 6\], got \(8, 5\)"):
        prune.refit(small, model, images[:, :5])
    other = hcjax.trace(lambda p, x: x @ p["a"], randomized({"a": jnp.ones((6, 3))}), images)
    with pytest.raises(ConfigError, match="must be one that was shrunk from the other"):
        prune.refit(small, other, images)
    with pytest.raises(TypeError, match="expected a Model"):
        prune.refit(small.params, model, images)
