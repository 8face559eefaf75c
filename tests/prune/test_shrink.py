"""shrink and cut: smaller networks that are what they should be, and trees that follow them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax.graph.coupling.channels import channels
from hcjax.prune.structured.importance import importance
from tests.draws import normal
from tests.graph.cutting import ALL, check_cut, logits, traced
from tests.graph.networks import FROZEN, randomized

pytestmark = pytest.mark.slow

STATS = "batch_stats"
SHRUNK = ("linen", "nnx", "haiku mobilenet", "dense", "lenet5", "resnet20", "nin_tiny", "fast_cnn")


def widths(model):
    return [len(g.channels) for g in channels(model).groups]


@pytest.mark.parametrize("name", SHRUNK)
def test_half_the_channels_are_gone_and_the_rest_computes_the_same(name):
    model, images = traced(name)
    small = hcjax.shrink(model, keep=0.5)
    total, left = sum(widths(model)), sum(widths(small))
    assert total / 2 <= left <= total / 2 + len(widths(model))
    assert hcjax.cost(small).macs < 0.8 * hcjax.cost(model).macs
    assert hcjax.cost(small).parameters < 0.8 * hcjax.cost(model).parameters
    check_cut(model, small, images[:3])


def test_counts_are_exact_where_no_group_reaches_its_least():
    model, _ = traced("lenet5", True)
    assert sum(widths(hcjax.shrink(model, keep=0.5, scope="uniform"))) == 570 / 2
    assert widths(hcjax.shrink(model, keep=0.5, scope="uniform")) == [10, 25, 250]
    assert sum(widths(hcjax.shrink(model, keep=0.3))) == 171
    assert widths(hcjax.shrink(model, keep=1.0)) == [20, 50, 500]


def test_the_lowest_scores_go_first():
    model, _ = traced("lenet5", True)
    bias = jnp.arange(50.0)[::-1]
    scores = jax.tree.map(jnp.zeros_like, model.params) | {"conv2/bias": bias}
    small = hcjax.shrink(model, keep=0.5, scores=scores, scope="uniform")
    kept = {(c.path, c.axis): c.kept for c in small.cut}
    assert kept["conv2/kernel", 3] == tuple(range(25))
    assert kept["dense1/kernel", 0][:26] == (*range(25), 50)
    expected = np.abs(np.asarray(model.params["conv1/kernel"])).sum((0, 1, 2))
    expected += np.abs(np.asarray(model.params["conv1/bias"]))
    expected += np.abs(np.asarray(model.params["conv2/kernel"])).sum((0, 1, 3))
    plain = hcjax.shrink(model, keep=0.5, scores="magnitude", scope="uniform")
    kept = {(c.path, c.axis): c.kept for c in plain.cut}
    assert kept["conv1/kernel", 3] == tuple(sorted(np.argsort(expected)[10:].tolist()))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize(
    "name", [n if n in SHRUNK else pytest.param(n, marks=pytest.mark.long) for n in ALL]
)
def test_a_folded_network_loses_the_same_channels(name, data):
    model, images = traced(name)
    how = {"keep": 0.6, "rounds": 2} | ({"images": images} if data else {})
    first = hcjax.fold(hcjax.shrink(model, **how))
    last = hcjax.shrink(hcjax.fold(model), **how)
    assert sorted(widths(first)) == sorted(widths(last))
    expected = logits(first, first.params, images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(last, last.params, images), expected, atol=1e-4 * scale)
    if sum(widths(model)) > 10:  # or another choice may be the same
        other = hcjax.shrink(hcjax.fold(model), scores="random", key=jax.random.key(0), keep=0.6)
        assert np.abs(logits(other, other.params, images) - expected).max() > 1e-3 * scale


def test_scaling_a_channel_up_here_and_down_there_changes_nothing():
    model, images = traced("lenet5", True)
    s = jnp.asarray(np.random.default_rng(0).uniform(1e-3, 1e3, 50), jnp.float32)
    p = model.params
    scaled = p | {
        "conv2/kernel": p["conv2/kernel"] * s,
        "conv2/bias": p["conv2/bias"] * s,
        "dense1/kernel": p["dense1/kernel"] / jnp.tile(s, 16)[:, None],
    }
    cuts = [
        hcjax.shrink(model.replace(params=params), keep=0.5, images=images).cut
        for params in (p, scaled)
    ]
    assert cuts[0] == cuts[1]


def test_scores_are_the_squared_changes_of_the_logits_by_hand():
    rng = np.random.default_rng(0)
    params = {"a": normal(5, 6), "b": normal(6, 3)}
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 5)))
    images, labels = rng.normal(size=(2000, 5)).astype(np.float32), rng.integers(0, 3, 2000)
    coupled = channels(model)
    (group,) = coupled.groups
    nothing = np.zeros(coupled.count, bool)
    hidden = np.maximum(images @ np.asarray(params["a"], np.float64), 0)
    b = np.asarray(params["b"], np.float64)
    change = hidden[:, :, None] * (b - b.mean(1, keepdims=True))  # [N, channels, K], centred
    found = importance(model, coupled, images)(nothing)[group.channels]
    np.testing.assert_allclose(found, (change**2).sum(2).mean(0), rtol=0.15)  # random signs
    z = hidden @ b
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    slopes = ((np.eye(3)[labels] - p)[:, None] * (hidden[:, :, None] * b)).sum(2)
    found = importance(model, coupled, images, labels)(nothing)[group.channels]
    np.testing.assert_allclose(found, (slopes**2).mean(0), rtol=1e-4)
    nothing[group.channels[0]] = True  # what is gone changes what the others do
    z = z - hidden[:, :1] * b[0]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    slopes = ((np.eye(3)[labels] - p)[:, None] * (hidden[:, :, None] * b)).sum(2)
    found = importance(model, coupled, images, labels)(nothing)[group.channels]
    np.testing.assert_allclose(found[1:], (slopes**2).mean(0)[1:], rtol=1e-4)


def test_what_no_image_needs_goes_first_however_large_its_weights():
    params = {"a": jnp.ones((4, 4)), "b": normal(4, 3)}
    params["a"] = params["a"].at[:, 2].set(-1e3)  # relu never lets it through
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 4)))
    small = hcjax.shrink(model, keep=0.75, images=jnp.ones((8, 4)))
    assert small.cut[0].kept == (0, 1, 3)


def test_fractions_of_each_group_always_stay():
    model, _ = traced("lenet5", True)
    assert widths(hcjax.shrink(model, keep=0.01)) == [3, 7, 63]  # an eighth
    assert widths(hcjax.shrink(model, keep=0.01, least=0.5)) == [10, 25, 250]
    assert widths(hcjax.shrink(model, keep=0.01, least=0.5, round_to=4)) == [12, 28, 252]


@pytest.mark.parametrize("name", ["linen", "haiku mobilenet"])
def test_running_statistics_do_not_count_whether_frozen_or_not(name):
    apply, params, image = ALL[name]()
    frozen = hcjax.trace(apply, params, image, frozen=FROZEN[name])
    whole = hcjax.trace(apply, params, image)
    assert len(whole.paths) > len(frozen.paths)
    cuts = [sorted(hcjax.shrink(m, keep=0.5, scores="magnitude").cut) for m in (whole, frozen)]
    assert cuts[0] == cuts[1]


def test_no_layer_is_emptied():
    model, images = traced("lenet5", True)
    zeros = model.params | {"conv1/kernel": jnp.zeros((5, 5, 1, 20)), "conv1/bias": jnp.zeros(20)}
    small = hcjax.shrink(model.replace(params=zeros), keep=0.01)
    assert widths(small) == [3, 7, 63]
    assert min(widths(hcjax.shrink(model, keep=0.01, least=1))) == 1
    assert widths(hcjax.shrink(model, keep=0.01, least=3)) == [3, 3, 3]
    assert logits(small, small.params, images).shape == (5, 10)


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_what_a_group_keeps_is_a_multiple_of_round_to_or_all(scope):
    model, images = traced("resnet20", True)
    small = hcjax.shrink(model, keep=0.6, round_to=8, least=1, scope=scope)
    assert {w % 8 for w in widths(small)} == {0}
    assert 0.6 <= sum(widths(small)) / sum(widths(model)) < 0.62
    check_cut(model, small, images[:2])
    lenet = traced("lenet5", True)[0]
    expected = {"global": [16, 16, 64], "uniform": [16, 16, 64]}[scope]
    assert widths(hcjax.shrink(lenet, keep=0.1, round_to=16, scope=scope)) == expected
    assert widths(hcjax.shrink(lenet, keep=0.1, round_to=32, scope=scope)) == [20, 32, 64]


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("macs", [0.5, 0.2])
def test_a_fraction_of_the_macs_is_met_and_not_passed(macs, scope):
    for name, near in (("resnet20", 0.01), ("haiku mobilenet", 0.02), ("lenet5", 0.01)):
        model, images = traced(name, True)
        small = hcjax.shrink(model, macs=macs, scope=scope)
        part = hcjax.cost(small).macs / hcjax.cost(model).macs
        assert macs - near < part <= macs
    check_cut(model, small, images)


def test_select_says_whose_outputs_are_cut():
    model, _ = traced("resnet20", True)
    small = hcjax.shrink(model, keep=0.5, select="stage[12].*/conv1/kernel")
    made = {c.path for c in small.cut if c.axis == 3}
    assert made == {f"stage{s}_block{b}/conv1/kernel" for s in (1, 2) for b in (1, 2, 3)}
    one = hcjax.shrink(model, keep=0.5, select=lambda path, leaf: "block2/conv1" in path)
    assert {c.path.split("/")[0] for c in one.cut} == {f"stage{s}_block2" for s in (1, 2, 3)}


def test_a_shrunk_network_goes_on_to_integers_and_a_file():
    model, images = traced("nnx")
    small = hcjax.fold(hcjax.shrink(model, macs=0.5))
    expected = logits(small, small.params, images)
    fake = hcjax.fake_quantize(small, hcjax.calibrate(small, images, method="minmax"))
    whole = hcjax.int8(fake)
    got = logits(whole, whole.params, images)
    np.testing.assert_array_equal(got, logits(fake, fake.params, images))
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max() and whole.floats == ()
    same = hcjax.unpack(hcjax.pack(whole))
    np.testing.assert_array_equal(got, logits(same, same.params, images))
    again = hcjax.shrink(hcjax.unpack(hcjax.pack(small)), keep=0.5)
    assert hcjax.cost(again).macs <= hcjax.cost(small).macs / 2
    gradients = jax.jit(jax.grad(lambda p: (small.apply(p, images) ** 2).sum()))(small.params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


class Narrow(nn.Module):
    widths: tuple[int, int] = (8, 6)

    @nn.compact
    def __call__(self, x, train=False):
        for width in self.widths:
            x = nn.Conv(width, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def test_optimiser_state_and_the_users_own_network_are_cut_alike():
    net, images = Narrow(), normal(4, 8, 8, 3)
    variables = randomized(jax.jit(net.init)(jax.random.key(0), images))
    tx = optax.adam(1e-2)
    state = randomized(tx.init(variables["params"]), 1)  # moments as after some steps
    model = hcjax.trace(net.apply, variables, images, frozen="batch_stats/.*")
    small = hcjax.shrink(model, keep=0.5, scope="uniform")
    kept = {(c.path, c.axis): c.kept for c in small.cut}
    cut = hcjax.cut(variables, small.cut)
    cut_state = hcjax.cut(state, small.cut, root="params")
    narrow = Narrow((4, 3))
    expected = logits(small, small.params, images)
    np.testing.assert_allclose(jax.jit(narrow.apply)(cut, images), expected, atol=1e-5)
    rows, columns = (kept["params/Conv_1/kernel", a] for a in (2, 3))
    for of in ("mu", "nu"):
        moment = getattr(state[0], of)["Conv_1"]["kernel"]
        expected = np.asarray(moment)[:, :, rows][..., columns]
        np.testing.assert_array_equal(getattr(cut_state[0], of)["Conv_1"]["kernel"], expected)

    @jax.jit
    def step(variables, state):
        def loss(params):
            out, new = narrow.apply({**variables, "params": params}, images, True, mutable=STATS)
            return (out**2).mean(), new

        gradients, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(gradients, state)
        return {"params": optax.apply_updates(variables["params"], updates), **new}, state

    trained, state = step(cut, cut_state)
    assert state[0].count == 1
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(narrow.init, jax.random.key(0), images))
    assert jax.tree.map(jnp.shape, trained) == shapes


def test_cuts_follow_one_another():
    model, images = traced("lenet5")
    once = hcjax.shrink(model, keep=0.5)
    twice = hcjax.shrink(once, keep=0.5)
    for cuts, start in ((twice.cut, model), (twice.cut[len(once.cut) :], once)):
        cut = hcjax.cut(start.params, cuts)
        assert all((cut[path] == twice.params[path]).all() for path in cut)
    check_cut(once, twice.replace(cut=twice.cut[len(once.cut) :]), images)


def test_a_layer_of_a_block_does_not_follow_one_of_its_name_outside():
    """Stem and block have a layer of one name and size, of which the block's stays whole."""

    def apply(p, x):
        x = jax.nn.relu(x @ p["a"]["w"] + p["a"]["b"])
        x = jax.nn.relu(x @ p["block"]["a"]["w"] + p["block"]["a"]["b"])
        return x @ p["block"]["out"]["w"]

    layer = {"w": jnp.ones((4, 4)), "b": jnp.arange(4.0)}
    params = {"a": layer, "block": {"a": layer, "out": {"w": jnp.ones((4, 3))}}}
    small = hcjax.shrink(hcjax.trace(apply, params, jnp.ones((1, 4))), keep=0.5, select="a/w")
    tx = optax.masked(optax.adam(1e-2), {"a": True, "block": False})
    labels = jax.tree.map(lambda leaf: "kernels" if leaf.ndim > 1 else "biases", params)
    split = optax.multi_transform(
        {"kernels": optax.adamw(1e-2), "biases": optax.adam(1e-2)}, labels
    )

    def part_of(name):
        return lambda state: state.inner_states[name].inner_state[0].mu

    biases = jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else None, params)
    alone = {"mu": {"a": {"b": layer["b"]}, "block": {"a": {"b": layer["b"]}}}}
    for tree, of, parts in (
        (params, lambda tree: tree, ("a", "block")),
        (optax.adam(1e-2).init(params), lambda tree: tree[0].mu, ("a", "block")),
        (tx.init(params), lambda tree: tree.inner_state[0].mu, ("a",)),
        *((split.init(params), part_of(name), ("a", "block")) for name in ("kernels", "biases")),
        ({"of": biases}, lambda tree: tree["of"], ("a", "block")),
        (alone, lambda tree: tree["mu"], ("a", "block")),  # no copy is whole
    ):
        expected = {"a/w": (4, 2), "a/b": (2,)}
        expected |= {"block/a/w": (2, 4), "block/a/b": (4,), "block/out/w": (4, 3)}
        before, after = (
            {path: leaf.shape for path, leaf in hcjax.trees.paths({p: of(t)[p] for p in parts})}
            for t in (tree, hcjax.cut(tree, small.cut))
        )
        assert before
        assert after == {path: expected[path] for path in before}


def test_masks_and_the_state_of_an_optimiser_that_prunes_follow():
    params = {"a": jnp.ones((4, 8)), "b": jnp.arange(8.0), "o": jnp.ones((8, 3))}
    model = hcjax.trace(
        lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["o"], params, jnp.ones((1, 4))
    )
    small = hcjax.shrink(model, keep=0.5)
    masks = hcjax.cut(hcjax.prune.masks(params, sparsity=0.5), small.cut)
    assert jax.tree.map(jnp.shape, masks) == {"a": (4, 4), "b": (), "o": (4, 3)}
    tx = optax.chain(optax.adam(1e-2), hcjax.prune.gradual(0.5, begin=0, end=2))
    state = hcjax.cut(tx.init(params), small.cut)
    assert jax.tree.map(jnp.shape, state[1].masks) == {"a": (4, 4), "b": (), "o": (4, 3)}
    cut = hcjax.cut(params, small.cut)
    tx.update(jax.tree.map(jnp.ones_like, cut), state, cut)


def test_bad_calls_say_what_is_wrong():
    model, _ = traced("lenet5", True)
    for call, message in (
        ({}, "give one of keep and macs, got keep=None, macs=None"),
        ({"keep": 0.5, "macs": 0.5}, "give one of keep and macs"),
        ({"keep": 0.0}, r"keep must be a fraction in \(0, 1\], got 0.0"),
        ({"macs": 1.5}, r"macs must be a fraction in \(0, 1\], got 1.5"),
        ({"keep": "0.5"}, r"keep must be a fraction in \(0, 1\], got '0.5'"),
        ({"keep": 0.5, "round_to": 0}, "round_to must be a whole number >= 1, got 0"),
        ({"keep": 0.5, "round_to": "8"}, "round_to must be a whole number >= 1, got '8'"),
        ({"keep": 0.5, "round_to": 8.0}, "round_to must be a whole number >= 1, got 8.0"),
        ({"keep": 0.5, "least": 0}, "least must be a whole number >= 1, or a fraction"),
        ({"keep": 0.5, "rounds": 0}, "rounds must be a whole number >= 1, got 0"),
        (
            {"keep": 0.5, "images": jnp.ones((2, 3))},
            r"images must be \[N, 28, 28, 1\], got",
        ),
        ({"keep": 0.5, "labels": [1]}, "labels need the images that they are of"),
        (
            {"keep": 0.5, "images": jnp.ones((2, 28, 28, 1)), "labels": [1]},
            r"labels must be int\[2\] in \[0, 10\), got",
        ),
        (
            {"keep": 0.5, "images": jnp.ones((1, 28, 28, 1)), "labels": [10]},
            r"labels must be int\[1\] in \[0, 10\), got",
        ),
        ({"keep": 0.5, "images": [[]], "scores": "magnitude"}, "give scores, or images"),
        (
            {"keep": 0.5, "images": jnp.full((1, 28, 28, 1), jnp.nan)},
            "of these images are not finite",
        ),
        ({"keep": 0.5, "scope": "erk"}, "scope must be one of global, uniform, got 'erk'"),
        ({"macs": 0.001}, r"macs=0.001 cannot be reached: 0.0\d+ is what is left"),
        ({"keep": 0.5, "select": "dense2/kernel"}, "nothing that may be cut: .*an output's"),
        ({"keep": 0.5, "select": "conv9/.*"}, "'conv9/.*' matches no parameter"),
    ):
        with pytest.raises(hcjax.errors.ConfigError, match=message):
            hcjax.shrink(model, **call)
    with pytest.raises(TypeError, match="expected a Model, got dict: give "):
        hcjax.shrink(model.params, keep=0.5)
    scores = model.params | {"conv1/bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"scores of conv1/bias must be \(20,\), got \(3,\)"):
        hcjax.shrink(model, keep=0.5, scores=scores)
    with pytest.raises(ValueError, match="scores of conv1/bias are not finite"):
        hcjax.shrink(model, keep=0.5, scores=model.params | {"conv1/bias": jnp.full(20, jnp.nan)})
    with pytest.raises(ValueError, match="params must have the structure"):
        hcjax.shrink(model, keep=0.5, scores={})
    small = hcjax.shrink(model, keep=0.5)
    with pytest.raises(ValueError, match=r"no leaf follows a cut: .*conv2/bias.*give root="):
        hcjax.cut({"a": jnp.ones(3)}, small.cut)
    with pytest.raises(ValueError, match=r"had \d+ indices on axis 0 before it was cut"):
        hcjax.cut(small.params, small.cut)
