"""Lottery tickets: exact counts, nested masks, weights rewound to what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax import prune
from hcjax.errors import ConfigError
from tests.tiny import images as tiny_images

pytestmark = pytest.mark.slow


def draw(seed, ties=False):
    rng = np.random.default_rng(seed)
    sample = (lambda s: rng.integers(-1, 2, s)) if ties else rng.standard_normal
    shapes = {"a": (10, 10), "b": (5, 10), "bias": (10,)}
    return {k: jnp.asarray(sample(s), jnp.float32) for k, s in shapes.items()}


def test_a_score_may_have_a_name():
    def train(params, masks, step):
        return prune.apply(masks, draw(1))

    batches = [draw(2), draw(3)]

    def loss_fn(params, batch):
        return sum(jnp.vdot(params[k], batch[k]) ** 2 for k in params)

    options = {"loss_fn": loss_fn, "batches": batches}
    named = prune.lottery(train, draw(0), rounds=2, rate=0.3, scores="taylor", **options)
    by_hand = prune.lottery(
        train, draw(0), rounds=2, rate=0.3, scores=lambda w: prune.score("taylor", w, **options)
    )
    magnitudes = prune.lottery(train, draw(0), rounds=2, rate=0.3)
    jax.tree.map(np.testing.assert_array_equal, named.masks, by_hand.masks)
    assert (np.asarray(named.masks["a"]) != np.asarray(magnitudes.masks["a"])).any()
    with pytest.raises(TypeError, match="unexpected keyword argument 'batches'"):
        prune.lottery(train, draw(0), rounds=0, batches=batches)


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
@pytest.mark.parametrize("ties", [False, True])
def test_each_round_prunes_what_training_made_small_of_what_is_left_and_rewinds(scope, ties):
    given, calls, results = draw(0), [], []

    def train(params, masks, step):
        calls.append((params, masks, step))
        results.append(prune.apply(masks, draw(len(calls), ties)))  # with ties, zeros that stay too
        return results[-1]

    found = prune.lottery(train, given, rounds=4, rate=0.3, rewind_to=7, scope=scope)
    assert len(calls) == len(found.history) == 5
    left = [150, 105, 73, 51, 36]  # what goes, 150 · (1 - 0.7^r), is rounded up from a half
    weights = [row["weights"] for row in found.history]
    assert weights == left if scope == "global" else np.abs(np.subtract(weights, left)).max() <= 1
    assert [row["round"] for row in found.history] == [0, 1, 2, 3, 4]
    sparsity = [row["sparsity"] for row in found.history]
    np.testing.assert_allclose(sparsity, 1 - np.array(weights) / 150)
    before = jax.tree.map(lambda w: np.ones(w.shape, bool), given)
    for i, (params, masks, step) in enumerate(calls):
        assert step == 7 and bool(masks["bias"])
        for name in ("a", "b"):
            mask = np.asarray(masks[name])
            assert not (mask & ~before[name]).any()  # nothing comes back
            np.testing.assert_array_equal(params[name], np.where(mask, given[name], 0))
            before[name] = mask
        np.testing.assert_array_equal(params["bias"], given["bias"])
        if i and scope == "global":
            trained = {k: np.abs(np.asarray(results[i - 1][k])) for k in ("a", "b")}
            was = {k: np.asarray(calls[i - 1][1][k]) for k in ("a", "b")}
            now = {k: np.asarray(masks[k]) for k in ("a", "b")}
            gone = max(trained[k][was[k] & ~now[k]].max(initial=0) for k in now)
            assert gone <= min(trained[k][now[k]].min() for k in now)
    jax.tree.map(np.testing.assert_array_equal, found.masks, calls[-1][1])
    for name in ("a", "b"):
        assert not np.asarray(found.params[name])[~np.asarray(found.masks[name])].any()


def test_the_history_has_what_evaluate_says_of_each_training():
    train = lambda params, masks, step: prune.apply(masks, jax.tree.map(lambda w: 2 * w, params))
    count = lambda params: (params["a"] != 0).sum()
    found = prune.lottery(train, draw(0), rounds=1, rate=0.5, select="a", evaluate=count)
    assert [row["score"] for row in found.history] == [100.0, 50.0]
    assert "score" not in prune.lottery(train, draw(0), rounds=0).history[0]


def test_any_score_of_the_trained_weights_may_choose():
    train = lambda params, masks, step: jax.tree.map(lambda w: 2 * w, params)
    params = {"w": jnp.array([[1.0, -4.0, 0.5, 3.0]])}
    seen = []

    def scores(trained):
        seen.append(trained["w"].tolist())
        return {"w": jnp.array([[4.0, 1.0, 3.0, 2.0]])}

    found = prune.lottery(train, params, rounds=2, rate=0.5, scores=scores)
    assert found.params["w"].tolist() == [[2.0, 0.0, 0.0, 0.0]]
    assert seen == [[[2.0, -8.0, 1.0, 6.0]], [[2.0, 0.0, 1.0, 0.0]]]


def test_blocks_go_whole():
    train = lambda params, masks, step: params
    block = prune.Block((5, 5))
    found = prune.lottery(train, draw(0), rounds=2, rate=0.5, structure=block)
    assert [row["weights"] for row in found.history] == [150, 75, 25]  # 6, 3 and 1 blocks
    for name in ("a", "b"):
        blocks = np.asarray(found.masks[name]).reshape(-1, 5, 2, 5)
        assert (blocks.all((1, 3)) == blocks.any((1, 3))).all()


def test_fit_trains_tickets():
    x, y = tiny_images(64)
    split = hcjax.data.Split(x, y)
    data = hcjax.data.Dataset(
        name="tiny", train=split, validation=split, test=split, class_names=("a", "b", "c"),
        mean=np.array([0.2], np.float32), std=np.array([0.2], np.float32), statistics_examples=64,
    )  # fmt: skip
    init, apply = hcjax.models.create("mlp_tiny", num_classes=3, input_shape=(8, 8, 1))
    params, state = init(jax.random.key(0))

    def train(params, masks, step):
        tx = optax.chain(optax.adam(1e-2), prune.masked(masks))
        return hcjax.fit(
            apply, params, data, state=state, loss=hcjax.losses.cross_entropy, tx=tx,
            steps=20 - step, batch_size=16, key=jax.random.key(1), quiet=True, accelerate=False,
        ).params  # fmt: skip

    found = prune.lottery(train, params, rounds=2, rate=0.5, rewind_to=4)
    masks = jax.tree.leaves(found.masks)
    assert [row["sparsity"] for row in found.history] == pytest.approx([0, 0.5, 0.75], abs=1e-3)
    for mask, weight in zip(masks, jax.tree.leaves(found.params), strict=True):
        assert not np.asarray(weight)[~np.broadcast_to(mask, weight.shape)].any()
    assert hcjax.evaluate(apply, found.params, data, state=state).summary["accuracy"] > 0.9


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rounds": -1}, "rounds"),
        ({"rate": 1.0}, "rate"),
        ({"rate": 0.0}, "rate"),
        ({"select": "c"}, "matches no parameter"),
        ({"scope": "layer"}, "uniform"),
    ],
)
def test_illegal_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        prune.lottery(lambda p, m, s: p, draw(0), **{"rounds": 1, **arguments})


def test_a_training_that_loses_the_zeros_is_found_out():
    train = lambda params, masks, step: jax.tree.map(lambda w: w + 1, params)
    with pytest.raises(ConfigError, match=r"weights of a that are not zero.*prune.masked"):
        prune.lottery(train, draw(0), rounds=1, select="a")
