"""RigL and SET against a NumPy run of the algorithm; counts that never change."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcjax import prune
from hcjax.errors import ConfigError
from hcjax.prune.rigl import _move_mask
from tests.draws import normal

SHAPES = {"conv": (3, 3, 2, 4), "dense": (12, 8), "bias": (8,)}
pytestmark = pytest.mark.slow
KERNELS = ("conv", "dense")


def draw(seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in SHAPES.items()}


def counts(masks):
    return {name: int(masks[name].sum()) for name in KERNELS}


def follow(tx, steps):
    """Returns the (params, grads, state, params after) of each step."""
    params, update, rows = draw(0), jax.jit(tx.update), []
    state = tx.init(params)
    for i in range(steps):
        grads = draw(100 + i)
        updates, after = update(grads, state, params)
        new = optax.apply_updates(params, updates)
        rows.append((params, grads, state, after, new))
        params, state = new, after
    return rows


def take(scores, count):
    """Returns which `count` of the scores are the highest; of equal ones the higher index."""
    best = np.argsort(scores, kind="stable")[len(scores) - count :]
    return np.isin(np.arange(len(scores)), best)


@pytest.mark.parametrize("scope", ["erk", "uniform", "global", {"conv": 0.5, "dense": 0.9}])
def test_the_number_of_weights_is_the_same_at_every_step(scope):
    sparsity = None if isinstance(scope, dict) else 0.8
    tx = prune.rigl(optax.adam(0.1), sparsity=sparsity, key=jax.random.key(0), every=3, scope=scope)
    rows = follow(tx, 50)
    first = counts(rows[0][2].masks)
    if isinstance(scope, dict):
        assert first == {"conv": 36, "dense": 96 - math.floor(0.9 * 96 + 0.5)}
    elif scope == "erk":
        each = prune.erk({name: SHAPES[name] for name in KERNELS}, 0.8)
        sizes = {name: math.prod(SHAPES[name]) for name in KERNELS}
        assert first == {n: sizes[n] - math.floor(each[n] * sizes[n] + 0.5) for n in KERNELS}
    moves = 0
    for i, (_, _, before, after, params) in enumerate(rows):
        assert counts(after.masks) == first and bool(after.masks["bias"])
        for name in KERNELS:
            assert not np.asarray(params[name])[~np.asarray(after.masks[name])].any()
        moved = any((before.masks[name] != after.masks[name]).any() for name in KERNELS)
        assert not moved or (i > 0 and i % 3 == 0)
        moves += moved
    assert moves > 10


def test_each_move_is_the_algorithms():
    rate, alpha, end = 0.1, 0.4, 20
    tx = prune.rigl(
        optax.sgd(rate), sparsity=0.7, key=jax.random.key(1), every=4, alpha=alpha, end=end
    )
    for step, (params, grads, before, after, new) in enumerate(follow(tx, 26)):
        for name in SHAPES:
            w, g = (np.asarray(t[name], np.float32).reshape(-1) for t in (params, grads))
            old = np.broadcast_to(before.masks[name], SHAPES[name]).reshape(-1)
            found = np.broadcast_to(after.masks[name], SHAPES[name]).reshape(-1)
            trained = np.where(old, w - np.float32(rate) * g, 0)
            if name == "bias" or step == 0 or step % 4 or step >= end:
                np.testing.assert_array_equal(found, old)
            else:
                part = alpha / 2 * (1 + math.cos(math.pi * step / end))
                k = math.floor(part * old.sum() + 0.5)
                stay = take(np.where(old, np.abs(trained), -1), old.sum() - k)
                grown = take(np.where(stay, -1, np.abs(g)), k)
                np.testing.assert_array_equal(found, stay | grown)
            expected = np.where(found & old, trained, 0)
            np.testing.assert_allclose(np.asarray(new[name]).reshape(-1), expected, atol=1e-6)


def test_the_optimiser_begins_anew_with_weights_that_come_and_sees_sparse_gradients_only():
    inner = optax.chain(optax.clip_by_global_norm(1e3), optax.adam(0.1))
    tx = prune.rigl(inner, sparsity=0.7, key=jax.random.key(1), every=4)
    came_at_all = 0
    for step, (_, grads, before, after, params) in enumerate(follow(tx, 13)):
        for moment, decay, power in (("mu", 0.9, 1), ("nu", 0.999, 2)):
            old, new = (optax.tree.get(s.inner, moment) for s in (before, after))
            for name in SHAPES:
                was, now = (np.broadcast_to(s.masks[name], SHAPES[name]) for s in (before, after))
                seen = np.where(was, grads[name], 0) ** power
                expected = decay * np.asarray(old[name]) + (1 - decay) * seen
                expected = np.where(now & ~was, 0, expected)
                np.testing.assert_allclose(new[name], expected, rtol=1e-5, atol=1e-7)
                came_at_all += (now & ~was).sum() if step else 0
                assert not np.asarray(params[name])[now & ~was].any()  # old moments move nothing
        assert optax.tree.get(after.inner, "count") == step + 1
    assert came_at_all > 20


def test_what_is_restarted_is_what_init_makes_and_belongs_to_the_parameter():
    # rmsprop starts at 0.5; 'deep/w' and 'w' have one shape, and a list is indexed as a chain is
    params = {"w": jnp.ones((4, 4)), "deep": {"w": jnp.ones((4, 4))}, "list": [jnp.ones((4, 4))]}
    inner = optax.chain(optax.scale_by_rms(initial_scale=0.5), optax.scale(0.0))
    tx = prune.rigl(inner, sparsity=0.5, key=jax.random.key(0), every=1, alpha=1.0)
    state = tx.init(params)
    grads = jax.tree.map(
        lambda w, k: jax.random.normal(k, w.shape), params,
        optax.tree.split_key_like(jax.random.key(5), params),
    )  # fmt: skip
    for _ in range(2):
        before = state
        _, state = jax.jit(tx.update)(grads, state, params)
    moments = optax.tree.get(state, "nu")
    for found, old, new, g in zip(
        *map(jax.tree.leaves, (moments, before.masks, state.masks, grads)), strict=True
    ):
        came = np.asarray(new & ~old)
        assert came.any()
        np.testing.assert_array_equal(np.asarray(found)[came], 0.5)
        touched = np.asarray(new & old & (jnp.abs(g) > 1e-3))
        assert (np.asarray(found)[touched] != 0.5).all()


def test_what_is_not_pruned_keeps_its_moments():
    """The block's 'w', not selected, has the name and the shape of the one that is."""
    params = {"w": jnp.ones((4, 4)), "block": {"w": jnp.ones((4, 4))}}
    options = {"sparsity": 0.5, "key": jax.random.key(0), "every": 1, "select": "w"}
    tx = prune.rigl(optax.sgd(0.1, momentum=0.9), **options)
    state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
    grads["w"] = normal(4, 4, seed=5)
    first = state.masks["w"]
    for _ in range(2):
        _, state = jax.jit(tx.update)(grads, state, params)
    assert (state.masks["w"] != first).any()
    np.testing.assert_allclose(optax.tree.get(state, "trace")["block"]["w"], 1.9)


def test_random_growth_is_anywhere_and_another_at_each_step():
    options = {"sparsity": 0.7, "every": 1, "alpha": 0.5}
    tx = prune.rigl(optax.sgd(0.0), key=jax.random.key(1), grow="random", **options)
    rows = follow(tx, 12)
    grown = [np.flatnonzero(after.masks["dense"] & ~before.masks["dense"])
             for _, _, before, after, _ in rows[1:]]  # fmt: skip
    assert all(map(len, grown)) and len({tuple(g) for g in grown}) == len(grown)
    assert len(set(np.concatenate(grown))) > 48  # of 96 places; a gradient's would not matter
    assert all(counts(after.masks) == counts(rows[0][2].masks) for _, _, _, after, _ in rows)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_go_by_index_and_counts_hold_for_any_scores(data):
    n = data.draw(st.sampled_from([1, 4, 9]))  # each size is compiled once
    few = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=n, max_size=n)
    size, wanted = (np.array(data.draw(few), np.float32) for _ in range(2))
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    part = data.draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    found = np.asarray(_move_mask(jnp.asarray(kept), jnp.asarray(size), jnp.asarray(wanted), part))
    k = math.floor(np.float32(part) * kept.sum() + 0.5)
    stay = take(np.where(kept, size, -1), kept.sum() - k)
    np.testing.assert_array_equal(found, stay | take(np.where(stay, -1, wanted), k))
    assert found.sum() == kept.sum()


def test_blocks_move_whole():
    tx = prune.rigl(
        optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0), every=2, structure=prune.Block((2, 2))
    )
    rows = follow(tx, 12)
    for _, _, before, after, _ in rows:
        tiles = np.asarray(after.masks["dense"]).reshape(6, 2, 4, 2)
        assert (tiles.all((1, 3)) == tiles.any((1, 3))).all()
        assert counts(before.masks) == counts(after.masks)
    assert (rows[0][2].masks["dense"] != rows[-1][3].masks["dense"]).any()


def test_it_goes_on_from_its_state_bit_for_bit():
    tx = prune.rigl(optax.adam(0.1), sparsity=0.7, key=jax.random.key(1), every=2, grow="random")
    rows = follow(tx, 9)
    _, _, state, _, _ = rows[4]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert not any(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                   for leaf in jax.tree.leaves(state))  # fmt: skip
    params, state = jax.tree.map(np.array, (rows[4][0], state))
    update = jax.jit(tx.update)
    for i in range(4, 9):
        updates, state = update(draw(100 + i), state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, state.masks, rows[-1][3].masks)


def test_donating_the_state_does_not_take_the_callers_key():
    key = jax.random.key(0)
    tx, params = prune.rigl(optax.sgd(0.1), sparsity=0.5, key=key), draw(0)
    jax.jit(tx.update, donate_argnums=1)(params, tx.init(params), params)
    assert jax.random.key_data(key).tolist() == [0, 0]


def test_a_schedule_that_reads_the_loss_gets_it():
    plateau = optax.contrib.reduce_on_plateau(patience=1)
    tx = prune.rigl(optax.chain(optax.sgd(0.1), plateau), sparsity=0.5, key=jax.random.key(0))
    params = draw(0)
    _, state = tx.update(params, tx.init(params), params, value=3.0)
    assert optax.tree.get(state, "best_value") == 3.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"grow": "gradients"}, "did you mean 'gradient'"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"every": 0}, "every is 0"),
        ({"end": 0}, "end is 0"),
        ({"structure": (2, 4)}, "Block"),
        ({"scope": {"conv": 0.5}}, "leave sparsity out"),
        ({"sparsity": 1.5}, r"1\.5"),
    ],
)
def test_illegal_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        options = {"sparsity": 0.5, "key": jax.random.key(0), **arguments}
        prune.rigl(optax.sgd(0.1), **options).init(draw(0))
