"""The training step against sums written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcjax import losses, prune
from hcjax.train import step


def linear(params, state, images, *, train, key):
    return images @ params["w"], state


def make_batch(n=6, seed=0):
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.normal(size=(n, 4)), jnp.float32)
    return {"inputs": images, "labels": jnp.asarray(rng.integers(0, 3, n), jnp.int32)}


def mean_gradient(params, batch, weights):
    """The weighted mean of per-example gradients of cross-entropy, in NumPy."""
    x, y, w = (np.asarray(a, np.float64) for a in (batch["inputs"], batch["labels"], params["w"]))
    z = x @ w
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    p[np.arange(len(y)), y.astype(int)] -= 1
    q = weights[y.astype(int)]
    return x.T @ (p * q[:, None]) / q.sum()


@pytest.mark.parametrize("weights", [np.ones(3), np.array([0.5, 1.0, 4.0])])
def test_a_step_of_sgd_subtracts_the_weighted_mean_gradient(weights):
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)}
    tx, batch = optax.sgd(0.5), make_batch()
    loss_fn = step.make_loss_fn(
        linear, losses.cross_entropy, class_weights=jnp.asarray(weights, jnp.float32)
    )
    train_step = jax.jit(step.make_train_step(loss_fn, tx))
    after, sums = train_step(step.init_state(params, {}, tx), batch, jax.random.key(0))
    expected = np.asarray(params["w"]) - 0.5 * mean_gradient(params, batch, weights)
    np.testing.assert_allclose(after.params["w"], expected, atol=1e-6)
    assert after.step == 1
    gradient = mean_gradient(params, batch, weights)
    norm = float(sums["grad_norm"] / sums["count"])
    assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_a_penalty_is_added_to_the_mean_loss():
    params = {"w": jnp.ones((4, 3))}
    plain = step.make_loss_fn(linear, losses.cross_entropy)
    with_l2 = step.make_loss_fn(linear, losses.cross_entropy, penalty=lambda p: 0.1 * losses.l2(p))
    batch = make_batch()
    a, _ = plain(params, {}, batch, None)
    b, (_, sums) = with_l2(params, {}, batch, None)
    assert float((b - a) / sums["count"]) == pytest.approx(0.1 * 0.5 * 12)


def test_the_moving_average_follows_its_formula():
    params, tx = {"w": jnp.ones((4, 3))}, optax.sgd(0.1)
    loss_fn = step.make_loss_fn(linear, losses.cross_entropy)
    train_step = jax.jit(step.make_train_step(loss_fn, tx, ema_decay=0.5))
    state = step.init_state(params, {}, tx, ema=True)
    average = np.ones((4, 3))
    for i in range(6):
        state, _ = train_step(state, make_batch(seed=i), jax.random.key(0))
        d = min(0.5, (1 + i) / (10 + i))
        average = d * average + (1 - d) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.averaged[0]["w"], average, atol=1e-6)


def test_what_was_pruned_is_zero_in_the_average_too_and_the_rest_follows_the_formula():
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)}
    tx = optax.chain(optax.sgd(0.1), prune.gradual(0.5, begin=3, end=6, every=1, initial=0.4))
    loss_fn = step.make_loss_fn(linear, losses.cross_entropy)
    train_step = jax.jit(step.make_train_step(loss_fn, tx, ema_decay=0.9))
    state = step.init_state(params, {}, tx, ema=True)
    average = np.asarray(params["w"])
    for i in range(8):
        state, _ = train_step(state, make_batch(seed=i), jax.random.key(0))
        d = min(0.9, (1 + i) / (10 + i))
        average = d * average + (1 - d) * np.asarray(state.params["w"])
        mask = np.asarray(optax.tree.get(state.opt_state, "masks")["w"])
        assert i != 3 or np.abs(average[~mask]).max() > 1e-2  # the bare formula remembers
        average[~mask] = 0
        assert not np.asarray(state.averaged[0]["w"])[~mask].any()
        np.testing.assert_allclose(state.averaged[0]["w"], average, atol=1e-6)
    assert (~mask).sum() == 6


def test_the_key_of_a_step_depends_on_the_step():
    seen = []

    def noisy(params, state, images, *, train, key):
        return images @ params["w"] + jax.random.normal(key, (1,)), {"draw": jax.random.normal(key)}

    params, tx = {"w": jnp.ones((4, 3))}, optax.sgd(0.1)
    train_step = jax.jit(step.make_train_step(step.make_loss_fn(noisy, losses.cross_entropy), tx))
    state = step.init_state(params, {"draw": jnp.zeros(())}, tx)
    for _ in range(3):
        state, _ = train_step(state, make_batch(), jax.random.key(0))
        seen.append(float(state.state["draw"]))
    assert len(set(seen)) == 3


def test_init_state_copies_so_that_donation_cannot_delete_the_callers_arrays():
    params, tx = {"w": jnp.ones((4, 3))}, optax.sgd(0.1)
    train_step = jax.jit(
        step.make_train_step(step.make_loss_fn(linear, losses.cross_entropy), tx),
        donate_argnums=0,
    )
    train_step(step.init_state(params, {}, tx), make_batch(), jax.random.key(0))
    np.testing.assert_array_equal(params["w"], np.ones((4, 3)))


def test_prepare_gets_the_same_key_on_every_device_and_the_network_its_own():
    keys = {}

    def prepare(batch, key):
        keys["prepare"] = key
        return batch

    def spy(params, state, images, *, train, key):
        keys["network"] = key
        return images @ params["w"], state

    params, tx = {"w": jnp.ones((4, 3))}, optax.sgd(0.1)
    own = step.ONE_DEVICE._replace(key=lambda key: jax.random.fold_in(key, 7))
    found = []
    for devices in (step.ONE_DEVICE, own):
        loss_fn = step.make_loss_fn(spy, losses.cross_entropy)
        train_step = step.make_train_step(loss_fn, tx, prepare=prepare, devices=devices)
        train_step(step.init_state(params, {}, tx), make_batch(), jax.random.key(0))
        found.append({k: jax.random.key_data(v).tolist() for k, v in keys.items()})
    assert found[0]["prepare"] == found[1]["prepare"]
    assert found[0]["network"] != found[1]["network"]
