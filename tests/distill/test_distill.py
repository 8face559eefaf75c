"""Distillation losses: their formulas, their limits, and no gradient into the teacher."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax import distill
from hcjax.errors import ConfigError
from tests.draws import normal


def logits(seed, scale=3.0, n=6, k=10):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, k)) * scale, jnp.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_its_formula_in_float64(temperature):
    s, t = logits(0), logits(1)
    p, q = (softmax(np.asarray(x, np.float64) / temperature) for x in (t, s))
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1)
    np.testing.assert_allclose(distill.kl(s, t, temperature=temperature), expected, rtol=2e-5)


def test_the_gradient_of_kl_at_a_high_temperature_is_that_of_centred_logits():
    """Hinton's limit: T² KL tends to the squared difference of centred logits over 2 K."""
    s, t = logits(0, 1.0), logits(1, 1.0)
    found = jax.jit(jax.grad(lambda s: distill.kl(s, t, temperature=300.0).sum()))(s)
    centre = lambda x: x - x.mean(-1, keepdims=True)
    np.testing.assert_allclose(found, (centre(s) - centre(t)) / 10, atol=2e-3)


def test_decoupled_with_kls_own_weights_is_kl():
    """KL = binary KL + (1 - p_target) · KL among the rest (Zhao et al., equation 5)."""
    s, t = logits(0), logits(1)
    labels = jnp.array([0, 1, 2, 3, 4, 9])
    for i in range(len(s)):
        rest = 1 - softmax(np.asarray(t[i : i + 1]) / 2.0)[0, int(labels[i])]
        row = slice(i, i + 1)
        found = distill.decoupled(
            s[row], t[row], labels[row], temperature=2.0, alpha=1.0, beta=float(rest)
        )
        np.testing.assert_allclose(found, distill.kl(s[row], t[row], temperature=2.0), rtol=1e-4)


def test_decoupled_has_finite_gradients_where_the_teacher_is_certain():
    t = jnp.array([[60.0, 0.0, -60.0]])
    found = jax.jit(jax.grad(lambda s: distill.decoupled(s, t, jnp.array([0])).sum()))(-t)
    assert np.isfinite(found).all()


def test_hints_and_attention():
    s, t = logits(0).reshape(2, 3, 2, 5), logits(1).reshape(2, 3, 2, 5)
    expected = np.square(np.asarray(s) - np.asarray(t)).reshape(2, -1).mean(-1)
    np.testing.assert_allclose(distill.hint(s, t), expected, rtol=1e-6)
    maps = [(np.asarray(x, np.float64) ** 2).sum(-1).reshape(2, -1) for x in (s, t)]
    a, b = (m / np.linalg.norm(m, axis=-1, keepdims=True) for m in maps)
    np.testing.assert_allclose(distill.attention(s, t), ((a - b) ** 2).sum(-1), rtol=1e-4)
    # channels may differ; an image that is zero everywhere has no map and no NaN
    assert distill.attention(s, t[..., :2]).shape == (2,)
    assert np.isfinite(jax.jit(jax.grad(lambda s: distill.attention(s, t).sum()))(0 * s)).all()


def test_relations_are_their_formulas_in_float64():
    s, t = logits(0, n=5, k=7), logits(1, n=5, k=3)

    def relations(x):
        x = np.asarray(x, np.float64)
        d = np.array([[np.linalg.norm(a - b) for a in x] for b in x])
        cos = np.zeros((5, 5, 5))
        for i, j, k in np.ndindex(5, 5, 5):
            if j not in (i, k):
                a, b = x[i] - x[j], x[k] - x[j]
                cos[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        return d / d.sum() * 20, cos

    def huber(x):
        return np.where(abs(x) <= 1, x * x / 2, abs(x) - 0.5)

    (d, c), (d_t, c_t) = relations(s), relations(t)
    expected = 3 * huber(d - d_t).sum(0) / 4 + 2 * huber(c - c_t).sum((0, 2)) / 16
    relational = jax.jit(functools.partial(distill.relational, distance=3.0, angle=2.0))
    np.testing.assert_allclose(relational(s, t), expected, rtol=1e-4)
    twice = jnp.stack([s[0], s[0], s[1], s[2], s[2]])  # the same example, again
    gradient = jax.jit(jax.grad(lambda s: distill.relational(s, t).sum()))(twice)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    with pytest.raises(ValueError, match="5, 4"):
        distill.relational(s, t[:4])


@pytest.mark.parametrize("loss", [distill.kl, distill.hint, distill.relational])
def test_no_gradient_reaches_the_teacher(loss):
    found = jax.jit(jax.grad(lambda t: loss(logits(0), t).sum()))(logits(1))
    assert not np.asarray(found).any()


def test_unlike_shapes_and_temperatures_are_named():
    with pytest.raises(ValueError, match=r"\(6, 10\) and \(6, 9\)"):
        distill.kl(logits(0), logits(0)[:, :9])
    with pytest.raises(ValueError, match="temperature"):
        distill.kl(logits(0), logits(0), temperature=0.0)
    with pytest.raises(ConfigError, match=r"maps over an image, .* got \(2, 3\) and \(2, 4\)"):
        distill.attention(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="alike"):
        distill.attention(jnp.ones((2, 3, 3, 1)), jnp.ones((2, 4, 3, 1)))


@pytest.mark.parametrize("by", ["kl", "decoupled"])
def test_a_class_that_the_teacher_excludes_adds_nothing(by):
    student, labels, out = logits(0), jnp.arange(6), jnp.array([7, 8, 9, 7, 8, 9])
    excluded = jnp.arange(10) == out[:, None]
    far = distill.taught(lambda s, t: jnp.zeros(len(s)), weight=1.0, temperature=2.0, by=by)
    value = lambda s, t: far(s, (labels, t)).sum()
    told = jnp.where(excluded, -jnp.inf, logits(1))
    found = jax.value_and_grad(value)(student, told)
    near = jax.value_and_grad(value)(student, jnp.where(excluded, -150.0, logits(1)))
    np.testing.assert_allclose(found[0], near[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], near[1], rtol=1e-5, atol=1e-6)
    certain = jnp.where(jnp.arange(10) == labels[:, None], 0.0, -jnp.inf)
    value, gradient = jax.value_and_grad(value)(student, certain)
    own = jax.nn.log_softmax(student / 2)[jnp.arange(6), labels]
    np.testing.assert_allclose(value, -4 * own.sum(), rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("fold", [False, True])
def test_activations_are_read_by_layer_name_without_a_change_of_the_network(fold):
    """Linen's own intermediates say what a layer's activation is: behind its norm and relu."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name="first")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
            self.sow("intermediates", "behind first", x)
            y = nn.Conv(4, (3, 3), name="second")(x)
            self.sow("intermediates", "behind second", y)
            x = nn.relu(x + y).mean((1, 2))
            return nn.Dense(3, name="last")(x)

    images = normal(5, 8, 8, 2)
    params = Net().init(jax.random.key(1), images)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.arange(x.size).reshape(x.shape), params)
    expected, seen = Net().apply(params, images, mutable="intermediates")
    model = hcjax.trace(Net().apply, params, images[:1])
    model = hcjax.fold(model) if fold else model
    apply = distill.features(model, ["params/first", "params/second", "params/last"])
    logits, found = jax.jit(apply)(model.params, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["params/last"], logits)
    for name in ("first", "second"):
        (theirs,) = seen["intermediates"][f"behind {name}"]
        np.testing.assert_allclose(found[f"params/{name}"], theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="did you mean 'params/first'"):
        distill.features(model, ["params/firts"])
