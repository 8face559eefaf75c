"""Scores against NumPy's formulas, and as what masks are taken of."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax import prune
from hcjax.errors import ConfigError
from hcjax.prune import scores


def network(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"first": (3, 4), "second": (4, 2)}
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}


def batches(count=3):
    rng = np.random.default_rng(1)
    return [
        {"x": jnp.asarray(rng.standard_normal((5, 3)), jnp.float32),
         "y": jnp.asarray(rng.standard_normal((5, 2)), jnp.float32)} for _ in range(count)
    ]  # fmt: skip


def loss_fn(params, batch):
    out = batch["x"] @ params["first"] @ params["second"]
    return jnp.square(out - batch["y"]).sum(-1).mean()


def gradients(params, batch):
    """Of `loss_fn`, by hand, in float64."""
    x, y, a, b = (np.asarray(v, np.float64) for v in (*batch.values(), *params.values()))
    error = 2 * (x @ a @ b - y) / len(x)
    return {"first": x.T @ error @ b.T, "second": (x @ a).T @ error}


def test_taylor_is_the_product_with_the_mean_gradient_of_the_batches():
    params = network()
    found = prune.score("taylor", params, loss_fn=loss_fn, batches=batches())
    each = [gradients(params, batch) for batch in batches()]
    for name, w in params.items():
        g = np.mean([grads[name] for grads in each], 0)
        np.testing.assert_allclose(found[name], np.abs(g * np.asarray(w)), rtol=1e-4, atol=1e-6)
    # the mean of the batches' own products is another number
    other = np.mean([np.abs(grads["first"] * params["first"]) for grads in each], 0)
    assert np.abs(other - found["first"]).max() > 1e-2


def test_fisher_is_of_mean_squares_and_movement_of_mean_products():
    params = network()
    given = {"loss_fn": loss_fn, "batches": batches()}
    fisher, movement = (prune.score(name, params, **given) for name in ("fisher", "movement"))
    each = [gradients(params, batch) for batch in batches()]
    for name, w in params.items():
        w, g = np.asarray(w, np.float64), np.stack([grads[name] for grads in each])
        np.testing.assert_allclose(fisher[name], (g**2).mean(0) * w**2, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(movement[name], (-w * g).mean(0), rtol=1e-4, atol=1e-6)


def test_batches_may_come_from_a_generator():
    options = {"loss_fn": loss_fn, "batches": (b for b in batches())}
    found = prune.score("snip", network(), **options)
    listed = prune.SCORES["taylor"](network(), loss_fn=loss_fn, batches=batches())
    jax.tree.map(np.testing.assert_array_equal, found, listed)


def test_obd_is_exact_where_the_hessian_is_diagonal():
    h = jnp.array([[1.0, -2.0], [0.5, 8.0]])
    w = jnp.array([[3.0, 1.0], [-2.0, 0.25]])
    quadratic = lambda p, scale: scale * (h * p["w"] ** 2).sum() / 2
    for seed in range(3):
        key = jax.random.key(seed)
        found = prune.score("obd", {"w": w}, loss_fn=quadratic, batches=[1.0, 3.0], key=key)
        np.testing.assert_allclose(found["w"], 2.0 * h * w**2 / 2, rtol=1e-6)


def test_obd_averages_to_the_diagonal_of_any_hessian():
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((4, 4))
    matrix = jnp.asarray(matrix + matrix.T, jnp.float32)
    w = jnp.array([1.0, -2.0, 0.5, 3.0])
    quadratic = lambda p, _: p @ matrix @ p / 2
    found = scores.obd(w, loss_fn=quadratic, batches=[0.0], key=jax.random.key(0), samples=400)
    # a sample of h differs by sums of the other entries: their deviation over 20
    spread = np.sqrt((np.asarray(matrix) ** 2).sum(1) - np.diag(matrix) ** 2) / 20
    error = np.abs(found - np.diag(matrix) * w**2 / 2) / (np.asarray(w) ** 2 / 2)
    assert (error < 4 * spread).all()
    # over all signs there are, it is the diagonal
    signs = np.array(list(itertools.product((-1, 1), repeat=4)))
    np.testing.assert_allclose((signs * (signs @ matrix)).mean(0), np.diag(matrix), atol=1e-5)


def test_obd_draws_other_signs_for_each_batch_and_sample():
    matrix = jnp.ones((6, 6))
    options = {"loss_fn": lambda p, _: p @ matrix @ p / 2, "key": jax.random.key(3)}
    ones = jnp.ones(6)
    single = scores.obd(ones, batches=[0.0], **options)
    twice = scores.obd(ones, batches=[0.0, 0.0], **options)
    sampled = scores.obd(ones, batches=[0.0], samples=2, **options)
    assert not np.allclose(single, twice) and not np.allclose(single, sampled)
    np.testing.assert_array_equal(single, scores.obd(ones, batches=[0.0], **options))


def test_random_scores_differ_between_leaves_and_keys():
    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8), jnp.bfloat16)}
    first, again, other = (prune.score("random", params, key=jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first["b"].dtype == jnp.float32
    assert len({first["a"][0, 0].item(), first["b"][0, 0].item(), other["a"][0, 0].item()}) == 3
    assert first["a"].min() >= 0 and first["a"].max() < 1


BATCHES = ("loss_fn", "batches")
NEEDED = {"magnitude": (), "obd": (*BATCHES, "key"), "random": ("key",)}


@pytest.mark.parametrize("name", list(prune.SCORES))
def test_every_score_gives_masks_of_exact_counts(name):
    params = network()
    given = {"loss_fn": loss_fn, "batches": batches(), "key": jax.random.key(0)}
    found = prune.score(name, params, **{k: given[k] for k in NEEDED.get(name, BATCHES)})
    assert jax.tree.structure(found) == jax.tree.structure(params)
    masks = prune.masks(params, sparsity=0.5, scores=found)
    assert sum(int(m.sum()) for m in masks.values()) == 10
    stay = min(float(np.where(m, found[k], np.inf).min()) for k, m in masks.items())
    gone = max(float(np.where(m, -np.inf, found[k]).max()) for k, m in masks.items())
    assert gone <= stay


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("magnitud", {}, "did you mean 'magnitude'"),
        ("magnitude", {"key": 0}, "key"),
        ("magnitude", {"loss_fn": loss_fn, "batches": []}, "loss_fn"),
        ("fisher", {"loss_fn": loss_fn}, "needs the option 'batches'"),
        ("random", {}, "needs the option 'key'"),
        ("taylor", {"loss_fn": loss_fn, "batches": []}, "at least one batch"),
        ("obd", {"loss_fn": loss_fn, "batches": [], "key": jax.random.key(0)}, "one batch"),
        ("obd", {"loss_fn": loss_fn, "batches": [], "key": 0, "samples": 0}, "samples"),
    ],
)
def test_illegal_arguments_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        prune.score(name, network(), **options)


def saliency(weight, gradient):
    return jnp.abs(weight) * jnp.sqrt(jnp.abs(gradient))


def network_of_channels():
    """Returns a traced network of a hidden layer of four channels, and its loss."""
    apply = lambda p, x: jax.nn.relu(x @ p["first"]) @ p["second"]
    loss = lambda p, batch: jnp.square(apply(p, batch["x"]) - batch["y"]).sum(-1).mean()
    return hcjax.trace(apply, network(), batches()[0]["x"]), loss


def test_a_score_that_is_added_prunes_at_once_in_training_and_channels(monkeypatch):
    monkeypatch.setitem(prune.SCORES, "saliency", prune.Criterion(saliency))
    params, given = network(), {"loss_fn": loss_fn, "batches": batches()}
    mean = {k: np.mean([gradients(params, b)[k] for b in batches()], 0) for k in params}
    expected = {k: np.abs(np.asarray(w)) * np.sqrt(np.abs(mean[k])) for k, w in params.items()}
    found = prune.score("saliency", params, **given)
    for name, score in expected.items():
        np.testing.assert_allclose(found[name], score, rtol=1e-3)
    # at once, by name, by criterion and by tree
    masks = [
        prune.masks(params, sparsity=0.5, scores=scores, **options)
        for scores, options in (
            ("saliency", given), (prune.Criterion(saliency), given), (found, {})
        )
    ]  # fmt: skip
    for other in masks[1:]:
        jax.tree.map(np.testing.assert_array_equal, masks[0], other)
    assert any((masks[0][k] != m).any() for k, m in prune.masks(params, sparsity=0.5).items())
    # in training, of one step at the weights as they were
    tx = prune.scored(optax.sgd(0.1), 0.5, score="saliency", begin=0, end=1, every=1, initial=0.5)
    grads = jax.grad(loss_fn)(params, batches()[0])
    _, state = tx.update(grads, tx.init(params), params)
    expected = {k: saliency(w, 0.01 * grads[k]) for k, w in params.items()}
    expected = prune.masks(params, sparsity=0.5, scores=expected)
    jax.tree.map(np.testing.assert_array_equal, state.masks, expected)
    # whole channels
    model, loss = network_of_channels()
    options = {"loss_fn": loss, "batches": batches()}
    small = hcjax.shrink(model, keep=0.5, scores="saliency", **options)
    scores = prune.score("saliency", model.params, **options)
    total = np.asarray(scores["first"].sum(0) + scores["second"].sum(1))
    assert small.cut[0].kept == tuple(np.sort(np.argsort(total)[2:]))


def test_a_score_without_gradients_is_used_in_training_too():
    squares = prune.Criterion(jnp.square, statistic=None)
    tx = prune.scored(optax.sgd(0.1), 0.5, score=squares, begin=0, end=1, every=1, initial=0.5)
    params = network()
    _, state = tx.update(params, tx.init(params), params)
    expected = prune.masks(params, sparsity=0.5)
    jax.tree.map(np.testing.assert_array_equal, state.masks, expected)


def test_channels_of_scores_below_zero_are_ranked_by_them_over_groups():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2)), "c": jnp.ones((2, 1))}
    model = hcjax.trace(lambda p, x: x @ p["a"] @ p["b"] @ p["c"], params, jnp.ones((1, 2)))
    scores = {k: jnp.zeros_like(v) for k, v in params.items()}
    scores |= {"a": jnp.array([[-1.0, -2.0]] * 2), "c": jnp.array([[-8.0], [-5.0]])}
    small = hcjax.shrink(model, keep=0.75, scores=scores)
    assert {cut.path: cut.kept for cut in small.cut} == {"b": (1,), "c": (1,)}


def test_running_statistics_are_left_out_of_a_named_score():
    params = {"w": jnp.eye(2), "mean": jnp.array([9.0, 0.0]), "v": jnp.array([[1.0], [2.0]])}
    model = hcjax.trace(lambda p, x: (x @ p["w"] - p["mean"]) @ p["v"], params, jnp.ones((1, 2)))
    assert hcjax.shrink(model, keep=0.5, scores="magnitude").cut[0].kept == (1,)
    tree = prune.score("magnitude", model.params)
    assert hcjax.shrink(model, keep=0.5, scores=tree).cut[0].kept == (0,)


def test_what_training_or_a_tree_of_scores_cannot_take_is_named():
    schedule = {"begin": 0, "end": 1}
    with pytest.raises(ConfigError, match=r"unknown score of a training 'random'; Legal: .*fisher"):
        prune.scored(optax.sgd(0.1), 0.5, score="random", **schedule)
    with pytest.raises(ConfigError, match="one of score"):
        prune.scored(optax.sgd(0.1), 0.5, **schedule)
    with pytest.raises(TypeError, match="'batches': options of a score go with its name"):
        prune.masks(network(), sparsity=0.5, scores=network(), batches=[])
    with pytest.raises(TypeError, match="'spars'"):
        prune.masks(network(), spars=0.5)
    with pytest.raises(ConfigError, match="option of score saliency"):
        prune.masks(network(), sparsity=0.5, scores=prune.Criterion(saliency), batch=[])
    of_weights = prune.Criterion(jnp.square)
    with pytest.raises(ConfigError, match=r"\(weight, mean\): .*; statistic=None for one of the w"):
        prune.masks(network(), sparsity=0.5, scores=of_weights, loss_fn=None, batches=[])
    with pytest.raises(ConfigError, match=r"must take \(weight, mean\)"):
        prune.scored(optax.sgd(0.1), 0.5, score=of_weights, **schedule)
    with pytest.raises(ConfigError, match=r"saliency must take \(weight\)"):
        prune.masks(network(), sparsity=0.5, scores=prune.Criterion(saliency, statistic=None))
