"""Tests of hcjax.losses against NumPy in float64 and hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import losses
from hcjax.errors import ConfigError

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(6, 4))).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 1], np.int32)
SOFT = RNG.dirichlet(np.ones(4), size=6).astype(np.float32)
TOLERANCE = {"rtol": 2e-5, "atol": 1e-6}  # float32 rounding of a sum of four terms


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_cross_entropy_of_labels_is_the_negative_log_likelihood():
    expected = -log_softmax(LOGITS)[np.arange(6), LABELS]
    out = losses.cross_entropy(jnp.array(LOGITS), jnp.array(LABELS))
    np.testing.assert_allclose(out, expected, **TOLERANCE)


def test_cross_entropy_of_probabilities_is_the_expected_negative_log_likelihood():
    expected = -(SOFT * log_softmax(LOGITS)).sum(axis=1)
    out = losses.cross_entropy(jnp.array(LOGITS), jnp.array(SOFT))
    np.testing.assert_allclose(out, expected, **TOLERANCE)


def test_smoothing_mixes_the_target_with_the_uniform_distribution():
    log_p = log_softmax(LOGITS)
    expected = -(0.8 * log_p[np.arange(6), LABELS] + 0.2 * log_p.mean(axis=1))
    out = losses.cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), smoothing=0.2)
    np.testing.assert_allclose(out, expected, **TOLERANCE)


def test_cross_entropy_is_finite_for_huge_logits_and_float32_for_bfloat16():
    out = losses.cross_entropy(jnp.array([[1e4, -1e4]], jnp.bfloat16), jnp.array([1]))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, [2e4], rtol=1e-2)  # bfloat16 holds 1e4 to 0.4 %


def test_cross_entropy_gradient_is_softmax_minus_target():
    grad = jax.grad(lambda x: losses.cross_entropy(x, jnp.array(SOFT)).sum())(jnp.array(LOGITS))
    np.testing.assert_allclose(grad, np.exp(log_softmax(LOGITS)) - SOFT, rtol=1e-4, atol=1e-6)


def test_focal_discounts_by_the_probability_of_the_label():
    log_p = log_softmax(LOGITS)[np.arange(6), LABELS]
    expected = -((1 - np.exp(log_p)) ** 2) * log_p
    out = losses.focal(jnp.array(LOGITS), jnp.array(LABELS), gamma=2.0)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-6)


def test_focal_with_gamma_zero_is_cross_entropy():
    out = losses.focal(jnp.array(LOGITS), jnp.array(SOFT), gamma=0.0)
    expected = losses.cross_entropy(jnp.array(LOGITS), jnp.array(SOFT))
    np.testing.assert_array_equal(out, expected)


def test_focal_gradient_is_finite_for_a_certain_example():
    f = jax.grad(lambda x: losses.focal(x, jnp.array([0]), gamma=0.5).sum())
    grads = [f(jnp.array([[margin, 0.0]])) for margin in (10.0, 200.0)]
    assert np.isfinite(grads).all()


@pytest.mark.parametrize("shape, dtype", [((5,), "int32"), ((6, 3), "float32"), ((6,), "float32")])
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(shape, dtype):
    with pytest.raises(ValueError, match=r"float32\[6, 4\] and "):
        losses.cross_entropy(jnp.array(LOGITS), jnp.zeros(shape, dtype))


def test_create_checks_names_options_and_values_at_construction():
    with pytest.raises(ConfigError, match="unknown loss 'focus'; did you mean 'focal'"):
        losses.create("focus")
    with pytest.raises(ConfigError, match="option of loss 'focal' 'gama'; did you mean 'gamma'"):
        losses.create("focal", gama=1.0)
    with pytest.raises(ConfigError, match=r"smoothing must be in \[0, 1\), got 1"):
        losses.create("cross_entropy", smoothing=1.0)
    with pytest.raises(ConfigError, match="gamma must be >= 0, got nan"):
        losses.create("focal", gamma=float("nan"))


def test_created_loss_has_its_options_bound():
    out = losses.create("cross_entropy", smoothing=0.5)(jnp.array([[9.0, 0.0]]), jnp.array([0]))
    np.testing.assert_allclose(out, [0.25 * 9], atol=2e-4)  # log p is (-0.0001, -9.0001)


PARAMS = {
    "conv1": {"kernel": jnp.full((1, 1, 1, 2), -3.0), "bias": jnp.full(2, 100.0)},
    "dense1": {"kernel": jnp.array([[1.0, 2.0]])},
}


def test_penalties_take_kernels_only_by_default():
    assert float(losses.l1(PARAMS)) == 3 + 3 + 1 + 2
    assert float(losses.l2(PARAMS)) == (9 + 9 + 1 + 4) / 2


def test_penalties_take_what_a_predicate_selects():
    assert float(losses.l1(PARAMS, lambda path, _: path == "dense1/kernel")) == 3
    assert float(losses.l2(PARAMS, lambda path, leaf: leaf.ndim == 1)) == 10_000


def test_l2_gradient_is_the_weight_itself():
    grads = jax.grad(losses.l2)(PARAMS)
    np.testing.assert_array_equal(grads["dense1"]["kernel"], [[1.0, 2.0]])
    np.testing.assert_array_equal(grads["conv1"]["bias"], [0.0, 0.0])


def test_a_penalty_on_nothing_is_refused_with_the_paths():
    with pytest.raises(ConfigError, match="selects no parameter; parameters are: conv1/bias, "):
        losses.l1(PARAMS, lambda path, _: path == "conv9/kernel")


def test_class_weights_give_each_class_the_same_total_and_the_mean_one():
    counts = np.array([50, 30, 20, 0])
    totals = counts * losses.class_weights(counts)
    np.testing.assert_allclose(totals, [100 / 3, 100 / 3, 100 / 3, 0], rtol=1e-6)
    assert totals.sum() == pytest.approx(counts.sum())


@pytest.mark.parametrize("counts", [[0, 0], [3, -1], [[1, 2]]])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ConfigError, match="counts must be"):
        losses.class_weights(counts)
