"""share: few different numbers, exact zeros, centroids that train, and files that are small."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hcjax
from hcjax.errors import ConfigError
from hcjax.graph.constants import evaluate_constants
from tests.graph.networks import folded, logits


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([1, 2, 30, 400]), st.sampled_from([1, 2, 16]),
    st.sampled_from(["linear", "density", "random"]), st.floats(0, 1), st.integers(0, 99),
)  # fmt: skip
def test_every_weight_is_at_its_nearest_centroid_which_is_its_clusters_mean(
    size, clusters, init, sparsity, seed
):
    rng = np.random.default_rng(seed)
    w = np.float32(rng.normal(size=size) * 10.0 ** rng.integers(-6, 6))
    w[rng.random(size) < sparsity] = 0
    tree = {"w": jnp.asarray(w.reshape(1, -1)), "b": jnp.ones(3)}
    found = hcjax.share(tree, clusters=clusters, init=init, key=jax.random.key(seed))
    assert found["b"] is tree["b"]
    shared, dense = found["w"], np.asarray(found["w"].dense())[0]
    assert shared.dense().shape == (1, size) and shared.dense().dtype == jnp.float32
    assert ((dense == 0) == (w == 0)).all() or 0 in np.asarray(shared.codebook)
    assert (dense[w == 0] == 0).all()
    book = np.asarray(shared.codebook, np.float64)
    assert book.size <= clusters and (np.diff(book) > 0).all()
    assert shared.below == (book < 0).sum()
    if not (w != 0).any():
        assert book.size == 0
        return
    some = w != 0
    nearest = np.abs(w[some, None] - book).min(1)
    slack = 1e-6 * np.abs(w).max()
    assert (np.abs(dense[some] - w[some]) <= nearest + slack).all()
    for center in book:
        members = w[some & (dense == np.float32(center))]
        if members.size:
            np.testing.assert_allclose(
                members.mean(dtype=np.float64), center, rtol=1e-3, atol=slack
            )


def test_few_different_numbers_are_kept_exactly_and_many_clusters_take_wider_indices():
    w = jnp.asarray(np.random.default_rng(0).choice([-2.5, 0.0, 0.1, 7.0], (20, 30)), jnp.float32)
    shared = hcjax.share({"w": w}, clusters=8, init="density")["w"]
    np.testing.assert_array_equal(shared.dense(), w)
    assert sorted(np.unique(shared.indices)) == [-1, 0, 1, 2] and shared.bits == 2
    assert shared.nbytes == 3 * 4 + 600 * 2 / 8
    w = jnp.float32(np.random.default_rng(0).uniform(0.5, 1.5, (40, 50)))
    shared = hcjax.share({"w": w}, clusters=300)["w"]
    assert shared.indices.dtype == jnp.int16 and int(shared.indices.max()) > 200
    assert float(jnp.abs(shared.dense() - w).max()) < 0.01


def test_it_is_a_pytree_that_runs_under_jit():
    shared = hcjax.share({"w": jnp.float32([[1.0, -2.0, 0.0]])}, clusters=2)["w"]
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: x, s).dense() * 2)(shared)
    assert doubled.tolist() == [[2.0, -4.0, 0.0]]


@pytest.mark.parametrize(
    "name", ["lenet5", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dense", "resnet_tiny"))]
)
def test_a_model_computes_with_the_centroids(name):
    model, images = folded(name)
    small = hcjax.share(model, clusters=16)
    kernels = [p for p, v in model.params.items() if v.ndim > 1]
    tree = hcjax.share(model.params, clusters=16)
    dense = {p: v.dense() if p in kernels else v for p, v in tree.items()}
    expected = logits(model.replace(params=dense), images)
    np.testing.assert_array_equal(logits(small, images), expected)
    assert all(small.params[p].shape == tree[p].codebook.shape for p in kernels)
    assert np.ptp(expected) > 1e-3
    original = logits(model, images)
    assert np.abs(expected - original).max() < 0.3 * np.ptp(original)


def test_a_centroids_gradient_is_the_sum_of_its_weights_gradients():
    model, images = folded("lenet5")
    small = hcjax.share(model, clusters=8)
    tree = hcjax.share(model.params, clusters=8)
    dense = {p: v.dense() if isinstance(v, hcjax.Shared) else v for p, v in tree.items()}
    theirs = jax.jit(jax.grad(lambda p: (model.apply(p, images) ** 2).sum()))(dense)
    ours = jax.jit(jax.grad(lambda p: (small.apply(p, images) ** 2).sum()))(small.params)
    for path in ("conv2/kernel", "dense1/kernel", "dense2/kernel"):
        index, g = np.asarray(tree[path].indices), np.asarray(theirs[path], np.float64)
        marks = [*range(-tree[path].below, 0), *range(1, 9 - tree[path].below)]
        expected = [g[index == i].sum() for i in marks]
        np.testing.assert_allclose(ours[path], expected, rtol=1e-3, atol=1e-3 * np.abs(g).max())
    np.testing.assert_allclose(ours["dense1/bias"], theirs["dense1/bias"], rtol=1e-3, atol=1e-3)


def test_pruned_zeros_stay_zero_while_centroids_train():
    model, images = folded("seed_cnn_tiny")
    images = jax.random.normal(jax.random.key(1), images.shape)  # that two values can fit
    rng = np.random.default_rng(0)
    random = {p: jnp.float32(rng.normal(size=v.shape) / 3) for p, v in model.params.items()}
    model = model.replace(params=random)
    masks = hcjax.prune.masks(model.params, sparsity=0.5)
    sparse = model.replace(params=hcjax.prune.apply(masks, model.params))
    small = hcjax.share(sparse, clusters=2)
    expected, tx = logits(sparse, images), optax.adam(1e-2)
    params, state = small.params, tx.init(small.params)
    scale = float(np.square(expected).mean())

    @jax.jit
    def step(params, state):
        loss = lambda p: jnp.square(small.apply(p, images) - expected).mean() / scale
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(30):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    _, values, _ = evaluate_constants(small.replace(params=params))
    for path, number in sparse.graph.params.items():
        if sparse.params[path].ndim > 1:
            kernel = np.asarray(values[number])
            assert (kernel[~np.asarray(masks[path])] == 0).all()
            assert np.unique(kernel).size <= 3
            assert not np.array_equal(params[path], small.params[path])


def test_a_file_is_about_as_small_as_its_indices_entropy():
    model, images = folded("resnet_tiny")
    small = hcjax.share(model, clusters=16)
    blob = hcjax.pack(small)
    back = hcjax.unpack(blob)
    np.testing.assert_array_equal(logits(back, images), logits(small, images))
    tree = hcjax.share(model.params, clusters=16)
    bits = 0.0
    for leaf in tree.values():
        if isinstance(leaf, hcjax.Shared):
            _, counts = np.unique(leaf.indices, return_counts=True)
            bits -= (counts * np.log2(counts / leaf.indices.size)).sum()
    rest = sum(p.nbytes for p in small.params.values())
    assert len(blob) < 1.05 * bits / 8 + rest + 4096
    assert len(blob) < len(hcjax.pack(model)) / 4
    assert back.params.keys() == small.params.keys()
    assert all(back.params[p].shape == small.params[p].shape for p in back.params)
    gradients = jax.jit(jax.grad(lambda p: (back.apply(p, images) ** 2).sum()))(back.params)
    assert all(np.abs(g).max() > 0 for g in gradients.values())
    assert hcjax.pack(back) == blob


def test_it_composes_with_int8():
    model, images = folded("nnx")
    small = hcjax.share(model, clusters=16)
    whole = hcjax.int8(small, hcjax.calibrate(small, images))
    kernel = whole.params["conv/kernel"]
    assert kernel.bits == 8 and whole.floats == ()
    assert np.unique(kernel.values[..., 0]).size <= 16 < kernel.values[..., 0].size
    expected = logits(small, images)
    assert np.abs(logits(whole, images) - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clusters": 0}, r"clusters must be an integer in \[1, 32767\], got 0"),
        ({"clusters": 40000}, "clusters must be an integer .* got 40000"),
        ({"clusters": 2.5}, "clusters must be an integer .* got 2.5"),
        ({"init": "liner"}, "unknown init 'liner'; did you mean 'linear'"),
        ({"init": "random"}, 'init="random" needs key='),
        ({"select": "x"}, "pattern 'x' matches no parameter"),
        ({"select": lambda path, leaf: False}, "nothing is shared"),
    ],
)
def test_illegal_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        hcjax.share(folded("lenet5")[0], **options)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_without_a_centroid_are_named(number):
    with pytest.raises(ConfigError, match="w holds NaN or infinity"):
        hcjax.share({"w": jnp.array([[-1.0, number, 0.5]])}, clusters=2)


def test_no_centroid_is_zero():
    with pytest.raises(ConfigError, match="w: one of 1 centroids is 0"):
        hcjax.share({"w": jnp.array([[-1.0, 1.0]])}, clusters=1)
    assert hcjax.share({"w": jnp.array([[-1.0, 0, 1]])}, clusters=2)["w"].dense().tolist() == [
        [-1, 0, 1]
    ]


def test_as_many_clusters_as_indices_hold():
    numbers = jnp.linspace(1.0, 2.0, 40000).reshape(200, 200)
    shared = hcjax.share({"w": numbers}, clusters=2**15 - 1, init="density")["w"]
    assert shared.indices.dtype == np.int16 and (shared.indices > 0).all()
    np.testing.assert_allclose(shared.dense(), numbers, atol=1e-4)


def test_integers_are_not_shared():
    with pytest.raises(ConfigError, match="w is int32; only arrays of floating point"):
        hcjax.share({"w": jnp.ones((2, 2), jnp.int32)})
    model, images = folded("nnx")
    with pytest.raises(ConfigError, match="the model is quantized"):
        hcjax.share(hcjax.int8(model, hcjax.calibrate(model, images)))
