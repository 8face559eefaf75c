"""Masks have exact counts and the structure asked for; pruned weights are exactly zero."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hcjax import prune
from hcjax.errors import ConfigError
from hcjax.prune import allocation
from hcjax.prune.masks import smallest


def weights(seed=0, ties=False):
    rng = np.random.default_rng(seed)
    draw = (lambda s: rng.integers(-2, 3, s)) if ties else rng.standard_normal
    shapes = {"conv/kernel": (3, 3, 4, 8), "dense/kernel": (32, 12), "dense/bias": (12,)}
    return {name: jnp.asarray(draw(shape), jnp.float32) for name, shape in shapes.items()}


def zeros(masks):
    return {name: int((~np.asarray(m)).sum()) for name, m in masks.items()}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.floats(0, 1))
def test_the_smallest_are_taken_exactly_and_ties_by_index(values, part):
    count = int(part * len(values))
    scores = jnp.asarray(values, jnp.float32)
    expected = np.argsort(np.asarray(values), kind="stable")[:count]
    for found in (smallest(scores, count), jax.jit(smallest)(scores, count)):
        assert np.flatnonzero(found).tolist() == sorted(expected.tolist())


@settings(max_examples=12, deadline=None)
@given(st.floats(0, 0.999), st.booleans(), st.integers(0, 9))
def test_counts_are_exact_whatever_the_scope(sparsity, ties, seed):
    params = weights(seed, ties)
    sizes = {name: params[name].size for name in ("conv/kernel", "dense/kernel")}
    found = zeros(prune.masks(params, sparsity=sparsity))
    assert sum(found.values()) == math.floor(sparsity * sum(sizes.values()) + 0.5)
    assert found["dense/bias"] == 0
    found = zeros(prune.masks(params, sparsity=sparsity, scope="lamp"))
    assert sum(found.values()) == math.floor(sparsity * sum(sizes.values()) + 0.5)
    found = zeros(prune.masks(params, sparsity=sparsity, scope="uniform"))
    assert all(found[name] == math.floor(sparsity * n + 0.5) for name, n in sizes.items())
    found = zeros(prune.masks(params, sparsity=sparsity, scope="erk"))
    # each layer's count is rounded
    assert abs(sum(found.values()) - sparsity * sum(sizes.values())) <= len(sizes)


def test_a_traced_sparsity_gives_the_same_masks():
    params = weights()
    for scope in ("global", "lamp", "uniform"):
        traced = jax.jit(lambda s, scope=scope: prune.masks(params, sparsity=s, scope=scope))
        plain = prune.masks(params, sparsity=0.73, scope=scope)
        jax.tree.map(np.testing.assert_array_equal, traced(0.73), plain)


def test_what_goes_has_the_lowest_scores():
    params = weights()
    found = prune.masks(params, sparsity=0.6)
    stay, gone = [], []
    for name in ("conv/kernel", "dense/kernel"):
        size, mask = np.abs(np.asarray(params[name])), np.asarray(found[name])
        stay.append(size[mask].min())
        gone.append(size[~mask].max())
    assert max(gone) <= min(stay)
    scores = jax.tree.map(lambda p: -jnp.abs(p), params)
    opposite = prune.masks(params, sparsity=0.6, scores=scores)
    assert not np.asarray(opposite["dense/kernel"])[np.abs(params["dense/kernel"]) > 1].any()


def test_lamp_empties_no_layer_and_keeps_each_ones_order():
    params = weights()
    small = params | {"dense/kernel": params["dense/kernel"] / 1e6}
    assert zeros(prune.masks(small, sparsity=0.9))["dense/kernel"] == 32 * 12
    relative, same = (prune.masks(p, sparsity=0.9, scope="lamp") for p in (small, params))
    jax.tree.map(np.testing.assert_array_equal, relative, same)  # a layer's scale tells nothing
    for name in ("conv/kernel", "dense/kernel"):
        size, mask = np.abs(np.asarray(params[name])), np.asarray(relative[name])
        assert mask.any() and size[~mask].max() <= size[mask].min()
    sizes = {k: v for k, v in params.items() if k != "dense/bias"}
    last = prune.masks(sizes, sparsity=1 - 2 / sum(v.size for v in sizes.values()), scope="lamp")
    assert [int(m.sum()) for m in last.values()] == [1, 1]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-30, 1.0, 1.0 + 1e-7, 3.0]), min_size=1, max_size=30))
def test_lamp_scores_are_those_of_the_paper(values):
    scores = np.asarray(values, np.float32)
    found = np.asarray(prune.lamp(jnp.asarray(scores)))
    order = np.argsort(scores, kind="stable")
    squares = np.square(scores[order].astype(np.float64))
    left = np.cumsum(squares[::-1])[::-1]
    expected = np.divide(squares, left, out=np.zeros_like(left), where=squares > 1e-37 * left)
    np.testing.assert_allclose(found[order], expected, rtol=1e-5, atol=1e-12)
    assert (np.diff(found[order]) >= 0).all()


def test_n_of_m_keeps_so_many_of_each_group_of_input_channels():
    for ties in (False, True):
        params = weights(ties=ties)
        found = prune.masks(params, structure=(2, 4))
        groups = np.asarray(found["dense/kernel"]).reshape(8, 4, 12)
        assert (groups.sum(1) == 2).all()
        assert (np.asarray(found["conv/kernel"]).reshape(9, 1, 4, 8).sum(2) == 2).all()
        size = np.abs(np.asarray(params["dense/kernel"])).reshape(8, 4, 12)
        stay = np.where(groups, size, np.inf).min(1)
        assert (np.where(groups, -np.inf, size).max(1) <= stay).all()


def test_n_of_m_goes_along_the_axis_that_it_says():
    kernel = weights(ties=True)["dense/kernel"]
    expected = np.asarray(prune.masks({"w": kernel}, structure=(2, 4))["w"])
    for axis in (1, -1):  # (out, in): the input channels of the other layout
        found = prune.masks({"w": kernel.T}, structure=prune.NofM(2, 4, axis))["w"]
        np.testing.assert_array_equal(found.T, expected)
    conv = weights()["conv/kernel"]
    found = prune.masks({"w": conv.transpose(3, 2, 0, 1)}, structure=prune.NofM(1, 4, axis=1))["w"]
    expected = prune.masks({"w": conv}, structure=(1, 4))["w"]
    np.testing.assert_array_equal(found.transpose(2, 3, 1, 0), expected)
    with pytest.raises(ConfigError, match="axis 2"):
        prune.masks({"w": kernel}, structure=prune.NofM(2, 4, axis=2))


def test_blocks_go_whole():
    params = weights()
    filters = prune.Block((0, 0, 0, 1))
    found = prune.masks(params, sparsity=0.5, structure=filters, select="conv/kernel")
    mask = np.asarray(found["conv/kernel"])
    assert mask.reshape(-1, 8).all(0).sum() == 4 and mask.reshape(-1, 8).any(0).sum() == 4
    means = np.abs(params["conv/kernel"]).mean((0, 1, 2))
    assert set(np.flatnonzero(mask[0, 0, 0])) == set(np.argsort(means)[4:].tolist())
    tiles = prune.masks(params, sparsity=0.25, structure=prune.Block((4, 4)))
    tile = np.asarray(tiles["dense/kernel"]).reshape(8, 4, 3, 4)
    assert (tile.all((1, 3)) == tile.any((1, 3))).all()
    assert sum(zeros(tiles).values()) == 16 * math.floor(0.25 * (18 + 24) + 0.5)


def test_a_mapping_says_each_layers_sparsity():
    found = zeros(prune.masks(weights(), scope={"conv/.*": 0.25, "dense/.*": 0.5}))
    assert found == {"conv/kernel": 72, "dense/kernel": 192, "dense/bias": 0}


def test_erk_keeps_more_of_small_layers():
    shapes = {"small": (3, 3, 1, 8), "large": (3, 3, 64, 64), "dense": (256, 10)}
    found = prune.erk(shapes, 0.9)
    assert found["large"] > found["dense"] >= found["small"] >= 0
    left = sum((1 - found[k]) * math.prod(s) for k, s in shapes.items())
    assert left == pytest.approx(0.1 * sum(math.prod(s) for s in shapes.values()))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "sparsity must be in"),
        ({"sparsity": 1.5}, "1.5"),
        ({"sparsity": 0.5, "scope": "layer"}, "uniform"),
        ({"sparsity": 0.5, "scope": {"conv/.*": 0.5}}, "leave sparsity out"),
        ({"scope": {"conv9": 0.5}}, "conv9"),
        ({"sparsity": 0.5, "select": "conv9"}, "conv9"),
        ({"sparsity": 0.5, "select": lambda path, leaf: False}, "nothing"),
        ({"sparsity": 0.5, "structure": (2, 4)}, "neither"),
        ({"structure": (3, 2)}, "3:2"),
        ({"structure": (2, 5)}, "conv/kernel"),
        ({"sparsity": 0.5, "structure": prune.Block((5, 5))}, "conv/kernel"),
        ({"sparsity": 0.5, "structure": prune.Block((1, 1, 1, 1, 1))}, "rank 4"),
        ({"sparsity": 0.5, "scores": {"conv/kernel": jnp.ones(3)}}, "got dict of 1 leaves"),
    ],
)
def test_illegal_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        prune.masks(weights(), **arguments)


@pytest.mark.parametrize(
    "how",
    [
        {"sparsity": 0.9},
        pytest.param({"sparsity": 0.9, "scope": "erk"}, marks=pytest.mark.slow),
        {"sparsity": None, "scope": {"conv/.*": 0.25, "dense/kernel": 0.9}},
        pytest.param({"sparsity": None, "structure": (1, 4)}, marks=pytest.mark.slow),
        {"sparsity": 0.5, "structure": prune.Block((4, 4))},
    ],
)
def test_gradual_pruning_ends_at_exactly_what_masks_would_take(how):
    tx = optax.chain(optax.adamw(0.1), prune.gradual(how["sparsity"], begin=2, end=9, every=3,
                     **{k: v for k, v in how.items() if k != "sparsity"}))  # fmt: skip
    params = weights()
    state = tx.init(params)

    @jax.jit
    def step(params, state, seed):
        grads = jax.tree.map(jnp.sin, weights_like(params, seed))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), updates, state

    def weights_like(params, seed):
        keys = jax.random.split(jax.random.key(seed), len(params))
        return {n: jax.random.normal(k, params[n].shape) for n, k in zip(params, keys, strict=True)}

    counts = []
    for seed in range(14):
        before = params
        params, _, state = step(params, state, seed)
        masks = optax.tree.get(state, "masks")
        for name, mask in masks.items():
            assert not np.asarray(params[name])[~np.broadcast_to(mask, params[name].shape)].any()
        counts.append(sum(zeros(masks).values()))
        if seed == 9:
            # what the masks were taken of: the weights as they would have been without pruning
            final = zeros(prune.masks(before, **how))
            assert zeros(masks) == final or how.get("scope") == "global" or how["sparsity"] == 0.9
            kept = jax.tree.map(np.asarray, masks)
    assert counts[0] == counts[1] == 0 and counts == sorted(counts)
    assert counts[-1] == sum(zeros(prune.masks(params, **how)).values())
    jax.tree.map(np.testing.assert_array_equal, masks, kept)  # none after the end


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.999), st.floats(0, 0.999), st.integers(0, 2**31 - 1), st.floats(0, 1))
@example(0.6875, 0.0625, 14418735, 0.0)
def test_a_ramp_of_counts_ends_exactly_at_any_size(initial, final, size, left):
    count = lambda left: int(
        allocation.count(allocation.Ramp(initial, final, jnp.float32(left)), size)
    )
    first, last = allocation.count(initial, size), allocation.count(final, size)
    assert count(0.0) == last
    # beyond 2^23 the half that is added rounds to a whole one
    assert count(1.0) == pytest.approx(first, rel=1e-7, abs=max(1, abs(last - first) * 1e-7))
    assert min(first, last) - 256 <= count(left) <= max(first, last) + 256  # float32's steps there


@pytest.mark.parametrize("name", ["gradual", "movement", "fisher"])
@pytest.mark.parametrize("scope", ["global", "uniform", "mapping"])
def test_schedules_end_at_the_count_that_masks_takes(name, scope):
    sparsity = 0.999  # of 16501: float32 rounds the product to another integer
    params = {"w": jnp.arange(1.0, 16502)[None]}
    how = {"scope": scope, "sparsity": sparsity}
    how = {"scope": {"w": sparsity}, "sparsity": None} if scope == "mapping" else how
    tx = (optax.sgd(0.1),) if name != "gradual" else ()
    tx = getattr(prune, name)(*tx, begin=3, end=10, every=100, **how)
    update = jax.jit(lambda state: tx.update(params, state, params)[1])
    state = update(tx.init(params)._replace(count=jnp.int32(10)))
    assert zeros(state.masks) == zeros(prune.masks(params, **how))


def test_a_cubic_of_no_steps_is_a_step():
    found = [float(prune.cubic(s, begin=3, end=3, initial=0.25, final=0.5)) for s in (0, 2, 3, 4)]
    assert found == [0.25, 0.25, 0.5, 0.5]


def test_gradual_pruning_resumes_bit_for_bit():
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), prune.gradual(0.8, begin=0, end=6, every=2))
    step = jax.jit(lambda p, s: tx.update(jax.tree.map(jnp.cos, p), s, p))

    def run(params, state, count):
        for _ in range(count):
            updates, state = step(params, state)
            params = optax.apply_updates(params, updates)
        return params, state

    params = weights()
    straight = run(params, tx.init(params), 8)
    middle = jax.tree.map(np.array, run(params, tx.init(params), 3))
    jax.tree.map(np.testing.assert_array_equal, run(*middle, 5), straight)


def test_the_mask_holds_against_weights_that_are_not_finite():
    mask = {"w": jnp.array([True, False, False])}
    found = prune.apply(mask, {"w": jnp.array([1.0, jnp.nan, -jnp.inf], jnp.bfloat16)})["w"]
    assert found.tolist() == [1.0, 0.0, 0.0] and found.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"begin": 5, "end": 5}, "begin < end"),
        ({"begin": 0, "end": 5, "every": 0}, "every"),
        ({"begin": 0, "end": 5, "initial": 1.0}, "initial"),
    ],
)
def test_illegal_schedules_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        prune.gradual(0.5, **arguments)
