"""Attacks: within the ball, exact on linear networks, stronger in the order they should be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import attack, losses
from hcjax.attack import balls, fab, objectives
from hcjax.errors import ConfigError

KEY = jax.random.key(0)
ALL = {
    "fgsm": attack.fgsm,
    "pgd": partial(attack.pgd, steps=7),
    "apgd": partial(attack.apgd, steps=12),
    "apgd-t": partial(attack.apgd_targeted, steps=12),
    "fab-t": partial(attack.fab_targeted, steps=12),
    "square": partial(attack.square, steps=30),
}


def mlp(params, x):
    return jnp.tanh(x.reshape(len(x), -1) @ params["a"]) @ params["b"]


@pytest.fixture(scope="module")
def case():
    """A network, images at the border of 0..1 and inside, and the labels it gives them."""
    keys = jax.random.split(jax.random.key(1), 3)
    params = {"a": jax.random.normal(keys[0], (36, 20)), "b": jax.random.normal(keys[1], (20, 5))}
    x = jnp.clip(jax.random.uniform(keys[2], (12, 6, 6, 1), minval=-0.4, maxval=1.4), 0, 1)
    return params, x, mlp(params, x).argmax(-1)


@pytest.mark.parametrize("norm", balls.NORMS)
@pytest.mark.parametrize("name", ALL)
def test_no_point_leaves_the_ball_and_keys_decide(case, name, norm):
    params, x, y = case
    eps = 0.13 if norm == "linf" else 0.6
    run = jax.jit(lambda key: ALL[name](mlp, params, x, y, key, eps=eps, norm=norm))
    moved = run(KEY)
    assert (moved >= 0).all() and (moved <= 1).all()
    assert (balls.size(moved - x, norm) <= eps * (1 + 1e-5)).all()
    assert (moved != x).any()
    assert (run(KEY) == moved).all()
    if name in ("pgd", "apgd", "square"):
        assert (run(jax.random.key(7)) != moved).any()


@pytest.mark.parametrize("norm", balls.NORMS)
def test_stronger_attacks_mislead_at_least_as_many(case, norm):
    params, x, y = case
    eps = 0.03 if norm == "linf" else 0.12

    def left(run):
        return int(
            (mlp(params, run(mlp, params, x, y, KEY, eps=eps, norm=norm)).argmax(-1) == y).sum()
        )

    weak = left(attack.fgsm)
    assert left(partial(attack.pgd, steps=40)) <= weak < len(x)
    assert left(partial(attack.apgd, steps=60)) <= weak
    assert left(partial(attack.fab_targeted, steps=60)) < len(x)


@pytest.mark.parametrize("norm", balls.NORMS)
def test_a_linear_network_has_a_closed_form(norm):
    w = jax.random.normal(KEY, (9, 2))
    x = jnp.full((3, 3, 3, 1), 0.5) + jnp.linspace(-0.1, 0.1, 27).reshape(3, 3, 3, 1)
    y, eps = jnp.array([0, 1, 0]), 0.2

    def net(p, x):
        return x.reshape(len(x), -1) @ p

    away = (w[:, 1] - w[:, 0])[None] * jnp.where(y == 0, 1, -1)[:, None]
    unit = jnp.sign(away) if norm == "linf" else away / jnp.linalg.norm(away, axis=1)[:, None]
    exact = x + eps * unit.reshape(x.shape)
    for run in (attack.fgsm, partial(attack.pgd, steps=20, step_size=0.1)):
        moved = run(net, w, x, y, KEY, eps=eps, norm=norm)
        np.testing.assert_allclose(moved, exact, atol=2e-3 if norm == "l2" else 1e-6)


@pytest.mark.parametrize("norm", balls.NORMS)
def test_fab_finds_the_distance_to_a_linear_boundary(norm):
    w = jax.random.normal(jax.random.key(3), (16, 2)) / 4
    bias = jnp.array([0.3, 0.0])
    x = 0.5 + 0.05 * jax.random.normal(jax.random.key(4), (20, 4, 4, 1))

    def net(p, x):
        return x.reshape(len(x), -1) @ p + bias

    logits = net(w, x)
    y, gap = logits.argmax(-1), jnp.abs(logits[:, 0] - logits[:, 1])
    slope = w[:, 0] - w[:, 1]
    exact = gap / (jnp.abs(slope).sum() if norm == "linf" else jnp.linalg.norm(slope))
    moved = attack.fab_targeted(net, w, x, y, KEY, eps=jnp.inf, norm=norm, steps=30)
    assert (net(w, moved).argmax(-1) != y).all()
    np.testing.assert_allclose(balls.size(moved - x, norm), exact, atol=1e-3)


@pytest.mark.parametrize("norm", balls.NORMS)
def test_the_way_to_a_hyperplane_is_the_shortest(norm):
    keys = jax.random.split(KEY, 2)
    x, w = jax.random.uniform(keys[0], (50, 6)), jax.random.normal(keys[1], (50, 6))
    bias = (w * jnp.roll(x, 1, 0)).sum(-1)  # of a point of the box: it can be reached
    d = fab.to_hyperplane(x, w, bias, norm)
    assert (x + d >= -1e-5).all() and (x + d <= 1 + 1e-5).all()
    np.testing.assert_allclose((w * (x + d)).sum(-1), bias, atol=1e-4)
    # no shorter: by bisection of the same problem, a scale at a time
    reached = np.asarray(d)
    x, w, bias = (np.asarray(a) for a in (x, w, bias))
    for i in range(50):
        low, high = 0.0, 4.0
        for _ in range(40):
            t = (low + high) / 2
            side = np.sign(w[i]) * np.sign(bias[i] - (w[i] * x[i]).sum())
            step = side * t * (1 if norm == "linf" else np.abs(w[i]))
            way = np.clip(x[i] + step, 0, 1) - x[i]
            short = abs((w[i] * way).sum()) < abs(bias[i] - (w[i] * x[i]).sum())
            low, high = (t, high) if short else (low, t)
        np.testing.assert_allclose(reached[i], way, atol=1e-3)
    far = fab.to_hyperplane(x, w, bias + 100, norm)  # out of reach: a corner
    np.testing.assert_allclose(x + far, (w > 0).astype(np.float32), atol=1e-5)


def test_losses_of_attacks_ignore_shift_and_scale():
    z = jax.random.normal(KEY, (5, 6))
    y, t = jnp.arange(5), jnp.arange(5) + 1
    np.testing.assert_allclose(objectives.dlr(3 * z + 1, y), objectives.dlr(z, y), rtol=1e-4)
    both = (objectives.targeted_dlr(a * z + b, y, t) for a, b in ((1, 0), (5, 2)))
    np.testing.assert_allclose(*both, rtol=1e-4)
    wrong = z.argmax(-1) != y
    assert ((objectives.dlr(z, y) > 0) == wrong).all()
    with pytest.raises(ConfigError, match="3 classes"):
        objectives.dlr(z[:, :2], y)


def test_a_vanishing_gradient_still_has_a_direction():
    tiny = balls.ascent(jnp.full((1, 4), 1e-25), "l2")
    np.testing.assert_allclose(tiny, 0.5, rtol=1e-5)
    assert (balls.ascent(jnp.zeros((1, 4)), "l2") == 0).all()


@pytest.mark.parametrize(
    "wrong", [{"eps": -1.0}, {"eps": float("nan")}, {"eps": 1.0, "norm": "l1"}]
)
def test_wrong_balls_are_refused(case, wrong):
    params, x, y = case
    for run in (attack.fgsm, attack.pgd, attack.apgd, attack.square):
        with pytest.raises(ConfigError, match=r"eps|norm"):
            run(mlp, params, x, y, KEY, **wrong)


def trained_step(loss):
    import optax

    from hcjax import init_state, make_loss_fn, make_train_step
    from hcjax.train.evaluation import four_arguments

    apply, state = four_arguments(lambda p, x: x.reshape(len(x), -1) @ p, None)
    step = make_train_step(make_loss_fn(apply, loss), optax.sgd(0.1))
    x, y = jax.random.uniform(KEY, (8, 2, 2, 1)), jnp.arange(8) % 3
    first = init_state(jnp.ones((4, 3)) * jnp.arange(3.0), state, optax.sgd(0.1))
    return step, first, {"inputs": x, "labels": y}


def test_adversarial_training_is_that_of_perturbed_inputs():
    perturb = partial(attack.fgsm, eps=0.1)
    step, first, batch = trained_step(losses.adversarial(perturb))
    net = lambda p, x: x.reshape(len(x), -1) @ p
    moved = perturb(net, first.params, batch["inputs"], batch["labels"])
    plain, _, _ = trained_step(losses.cross_entropy)
    ours, _ = jax.jit(step)(first, batch, KEY)
    theirs, _ = plain(first, batch | {"inputs": moved}, KEY)
    np.testing.assert_allclose(ours.params, theirs.params, atol=1e-6)
    clean, _ = plain(first, batch, KEY)
    assert np.abs(clean.params - theirs.params).max() > 1e-3


def test_trades_adds_the_divergence_of_the_outputs():
    offset = 0.05
    robust = losses.trades(lambda a, p, x, y, key: x + offset * y.sum(-1)[:, None], beta=2.0)
    net = lambda p, s, x, *, train, key: (x @ p, s)
    p, x, y = jax.random.normal(KEY, (4, 3)), jax.random.uniform(KEY, (5, 4)), jnp.arange(5) % 3
    outputs, each, _ = robust.run(net, p, {}, x, y, y, KEY)
    a, b = jax.nn.log_softmax(x @ p), jax.nn.log_softmax((x + offset) @ p)
    expected = losses.cross_entropy(x @ p, y) + 2 * (jnp.exp(a) * (a - b)).sum(-1)
    np.testing.assert_allclose(each, expected, rtol=1e-5)
    assert (outputs == x @ p).all()


def test_attacks_in_training_see_pixels():
    seen = []

    def perturb(apply, params, x, y, key):
        seen.append((x, apply(params, x)))
        return x

    robust = losses.adversarial(perturb, mean=0.5, std=0.25)
    net = lambda p, s, x, *, train, key: (x, s)
    x = jnp.array([[2.0, -2.0]])
    outputs, _, _ = robust.run(net, 1.0, {}, x, jnp.array([0]), jnp.array([0]), KEY)
    assert seen[0][0].tolist() == [[1.0, 0.0]] and seen[0][1].tolist() == x.tolist()
    assert outputs.tolist() == x.tolist()


def test_a_teacher_teaches_at_the_perturbed_input():
    from hcjax import distill

    robust = distill.taught(
        losses.adversarial(lambda a, p, x, y, key: x + 1), weight=1.0, by="squared"
    )
    net = lambda p, s, x, *, train, key: (x * p, s)
    x, y = jnp.array([[0.0, 1.0]]), jnp.array([0])
    _, each, _ = robust.run(net, 1.0, {}, x, y, (y, jnp.zeros((1, 2))), KEY)
    assert each.tolist() == [2.5]  # mean of 1² and 2²


def test_a_robust_loss_says_what_it_needs():
    with pytest.raises(ConfigError, match="perturbs the inputs"):
        losses.trades(attack.pgd)(jnp.zeros((1, 2)), jnp.array([0]))
