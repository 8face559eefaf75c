"""Whatever is bfloat16 or float16, what adds up small numbers is float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax import losses, optim, prune
from hcjax.models import layers, norm
from hcjax.train import step
from tests import tiny

NARROW = [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
QUICK = {"sgd"}
TRAINED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in optim.OPTIMIZERS
]
RNG = np.random.default_rng(0)
PARAMS = {"conv": {"kernel": RNG.uniform(0.5, 2, (2, 2, 3, 4))}, "bias": RNG.uniform(0.5, 2, 4)}
GRADS = jax.tree.map(lambda p: RNG.uniform(-1, 1, p.shape), PARAMS)


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def trained(tx, params, steps):
    """Returns the state after steps whose gradients are GRADS, in the dtype of the params."""
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), cast(GRADS, jnp.bfloat16), params)

    def loss_fn(params, state, batch, key):
        each = jax.tree.map(lambda g, p: (g * p).astype(jnp.float32).sum(), grads, params)
        return sum(jax.tree.leaves(each)), (state, {"count": jnp.ones(())})

    train_step = step.make_train_step(loss_fn, tx)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: train_step(s, {}, jax.random.key(0)), s,
                                         length=steps))  # fmt: skip
    return run(step.init_state(params, {}, tx))[0]


@pytest.mark.parametrize("dtype", NARROW)
def test_a_moving_average_of_narrow_parameters_moves_as_its_formula_says(dtype):
    after = {"w": jnp.full(3, 2, dtype)}

    def move(average, i):
        return step.moving_average(average, after, i + 10_000, 0.999), None

    average, _ = jax.lax.scan(move, {"w": jnp.ones(3, jnp.float32)}, jnp.arange(1000))
    np.testing.assert_allclose(average["w"], 2 - 0.999**1000, rtol=1e-4)
    again = step.moving_average({"w": jnp.ones(3, dtype)}, after, 10_000, 0.999)["w"]
    np.testing.assert_allclose(again, 1.001, rtol=1e-6)  # though given in bfloat16


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", TRAINED)
def test_narrow_parameters_train_as_float32_ones_that_are_rounded(name, dtype):
    if name == "muon" and not hasattr(optax.contrib, "muon"):
        pytest.skip("this optax has no muon")
    tx = optim.create(name, learning_rate=1e-5, clip_norm=1.0, accumulate_steps=2)
    narrow = cast(PARAMS, dtype)
    expected = trained(tx, cast(narrow, jnp.float32), 60).params
    state = trained(tx, narrow, 60)
    for new, right, old in zip(
        *map(jax.tree.leaves, (state.params, expected, narrow)), strict=True
    ):
        assert new.dtype == dtype
        np.testing.assert_array_equal(new, right.astype(dtype))
        assert (right != old.astype(jnp.float32)).mean() > 0.9
    for kept, right in zip(*map(jax.tree.leaves, (state.opt_state.params, expected)), strict=True):
        np.testing.assert_array_equal(kept, right)


def test_narrow_parameters_are_pruned_cut_averaged_and_may_be_changed_between_steps():
    params = cast(PARAMS, jnp.bfloat16)
    tx = optax.chain(optim.create("adam", learning_rate=1e-3),
                     prune.gradual(0.5, begin=0, end=4, every=1))  # fmt: skip
    state = trained(tx, params, 6)
    masks = optax.tree.get(state.opt_state, "masks")
    kernel = state.params["conv"]["kernel"]
    np.testing.assert_array_equal(kernel != 0, masks["conv"]["kernel"])
    cuts = [hcjax.graph.model.Cut("conv/kernel", 3, (0, 2), 4)]
    narrow = hcjax.cut(state.opt_state, cuts)
    assert {x.shape[-1] for x in jax.tree.leaves(narrow) if x.ndim == 4} == {2}
    # a copy in the state does not undo what someone else does to the parameters
    tx = optim.in_float32(optax.sgd(0.0))
    opt_state = tx.init(params)
    zeros = cast(jax.tree.map(np.zeros_like, PARAMS), jnp.bfloat16)
    updates, _ = tx.update(zeros, opt_state, zeros)
    assert not any(x.any() for x in jax.tree.leaves(optax.apply_updates(zeros, updates)))


@pytest.mark.slow
def test_fit_returns_and_load_gives_back_the_average_in_the_dtype_of_the_parameters(tmp_path):
    data = hcjax.data.load("npz", path=str(tiny.npz(tmp_path / "a.npz")), validation=16)
    params = {"kernel": jnp.ones((64, 3), jnp.bfloat16)}

    def apply(params, images):
        return images.reshape(len(images), -1) @ params["kernel"].astype(jnp.float32)

    def fit(params):
        return hcjax.fit(apply, params, data, loss=losses.cross_entropy, tx=optax.sgd(1e-3),
                         steps=4, key=jax.random.key(0), batch_size=16, ema_decay=0.9,
                         workdir=tmp_path / "run", quiet=True)  # fmt: skip

    done = fit(params)
    loaded = hcjax.load(tmp_path / "run", apply=apply)
    assert done.params["kernel"].dtype == loaded.params["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(done.params["kernel"], loaded.params["kernel"])
    assert done.train_state.ema[0]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(fit(params).params["kernel"], done.params["kernel"])  # resumed


@pytest.mark.parametrize("dtype", NARROW)
def test_statistics_of_narrow_activations_are_float32(dtype):
    x = jnp.asarray(RNG.normal(3, 2, (8, 16, 16, 5)), dtype)
    wide = np.asarray(x, np.float64)
    params = {"scale": jnp.ones(5, dtype), "bias": jnp.zeros(5, dtype)}
    state = {"mean": jnp.ones(5, dtype), "variance": jnp.ones(5, dtype)}
    for _ in range(10):
        _, state = norm.batch_norm(params, state, x, train=True, momentum=0.999)
    left = 0.999**10
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    np.testing.assert_allclose(state["mean"], left + (1 - left) * mean, rtol=2e-3)
    np.testing.assert_allclose(state["variance"], left + (1 - left) * variance, rtol=2e-3)
    large = jnp.full((1, 16, 16, 1), 1001, dtype)  # 256 of them are more than float16 holds
    assert float(layers.avg_pool(large, 16, 16)[0, 0, 0, 0]) == float(large[0, 0, 0, 0])


def test_blocks_of_narrow_weights_are_scored_in_float32():
    weights = jnp.asarray([[1, 1, 1, 1.0078125], [1, 1, 1, 1]], jnp.bfloat16)
    masks = prune.masks({"w": weights}, sparsity=0.5, structure=prune.Block((1, 4)))
    assert masks["w"].tolist() == [[True] * 4, [False] * 4]
