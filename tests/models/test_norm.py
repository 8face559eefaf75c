"""Tests of batch normalisation: against Linen, shards, bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.models.norm import batch_norm

RNG = np.random.default_rng(0)
X = jnp.array(RNG.normal(3.0, 2.0, size=(8, 4, 4, 5)), jnp.float32)
PARAMS = {"scale": jnp.linspace(0.5, 2, 5), "bias": jnp.linspace(-1, 1, 5)}
STATE = {"mean": jnp.full(5, 0.3), "variance": jnp.full(5, 1.7)}


def test_training_and_inference_agree_with_linen():
    import flax.linen as nn

    layer = nn.BatchNorm(momentum=0.8, epsilon=1e-5)
    stats = {"mean": STATE["mean"], "var": STATE["variance"]}
    variables = {"params": PARAMS, "batch_stats": stats}
    for train in (True, False):
        y, state = batch_norm(PARAMS, STATE, X, train=train, momentum=0.8)
        expected, changed = layer.apply(
            variables, X, use_running_average=not train, mutable=["batch_stats"]
        )
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
        new = changed["batch_stats"]
        np.testing.assert_allclose(state["mean"], new["mean"], rtol=1e-5)
        np.testing.assert_allclose(state["variance"], new["var"], rtol=1e-4)


def test_shards_normalise_alone_by_default_and_together_over_an_axis():
    shards = X.reshape(4, 2, 4, 4, 5)
    whole, whole_state = batch_norm(PARAMS, STATE, X, train=True)
    synced = functools.partial(batch_norm, PARAMS, STATE, train=True, axis_name="devices")
    y, state = jax.vmap(synced, axis_name="devices")(shards)
    np.testing.assert_allclose(y.reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)
    for name in state:
        for device in range(4):
            np.testing.assert_allclose(state[name][device], whole_state[name], rtol=1e-5)
    alone = functools.partial(batch_norm, PARAMS, STATE, train=True)
    y, state = jax.vmap(alone, axis_name="devices")(shards)
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), np.tile(PARAMS["bias"], (4, 1)), atol=1e-5)
    np.testing.assert_allclose(state["mean"].mean(axis=0), whole_state["mean"], rtol=1e-5)


def test_statistics_of_bfloat16_images_are_float32():
    x = jnp.tile(jnp.array([1.0, 1 + 2**-7], jnp.bfloat16), 512).reshape(4, 16, 16, 1)
    params, state = ({k: v[:1] for k, v in tree.items()} for tree in (PARAMS, STATE))
    y, new = batch_norm(params, state, x, train=True, momentum=0.0)
    assert y.dtype == jnp.bfloat16
    assert new["mean"].tolist() == [1 + 2**-8]  # which bfloat16 cannot hold
    np.testing.assert_allclose(new["variance"], [2**-16], rtol=0.02)


def test_a_constant_channel_is_finite():
    y, state = batch_norm(PARAMS, STATE, jnp.full((4, 2, 2, 5), 1e3), train=True)
    assert np.isfinite(y).all() and (state["variance"] >= 0).all()
    np.testing.assert_allclose(y[0, 0, 0], PARAMS["bias"], atol=1e-3)
