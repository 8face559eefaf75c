"""Tests of hcjax.metrics: exact sums, padding, ties, calibration."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import metrics

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(40, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 40).astype(np.int32)
ONES = np.ones(40, bool)
eval_sums = jax.jit(metrics.eval_sums)


def test_eval_sums_agree_with_numpy():
    out = jax.device_get(eval_sums(LOGITS, LABELS, ONES))
    predicted = LOGITS.argmax(axis=1)
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (LABELS, predicted), 1)
    order = np.argsort(-LOGITS, axis=1)
    log_p = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(axis=1, keepdims=True))
    assert out["count"] == 40
    assert out["correct"] == (predicted == LABELS).sum()
    assert out["top5"] == (order[:, :5] == LABELS[:, None]).sum()
    np.testing.assert_array_equal(out["confusion"], confusion)
    np.testing.assert_allclose(out["nll"], -log_p[np.arange(40), LABELS].sum(), rtol=1e-5)


def test_counts_are_integers():
    out = eval_sums(LOGITS, LABELS, ONES)
    floats = {name for name, value in out.items() if jnp.issubdtype(value.dtype, jnp.floating)}
    assert floats == {"nll", "bin_confidence"}


def test_padding_adds_nothing_even_if_it_is_nan_or_has_no_legal_label():
    plain = eval_sums(LOGITS, LABELS, ONES)
    padded = eval_sums(
        np.concatenate([LOGITS, np.full((3, 7), np.nan, np.float32)]),
        np.concatenate([LABELS, np.array([-1, 99, 0], np.int32)]),
        np.concatenate([ONES, np.zeros(3, bool)]),
    )
    for name in plain:
        np.testing.assert_allclose(padded[name], plain[name], rtol=1e-6, err_msg=name)


def test_sums_of_parts_are_the_sums_of_the_whole():
    whole = eval_sums(LOGITS, LABELS, ONES)
    parts = [eval_sums(LOGITS[i : i + 10], LABELS[i : i + 10], ONES[:10]) for i in range(0, 40, 10)]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    for name in whole:
        np.testing.assert_allclose(added[name], whole[name], rtol=1e-5, err_msg=name)


def test_ties_go_to_the_lower_class_everywhere():
    out = eval_sums(np.zeros((7, 7), np.float32), np.arange(7, dtype=np.int32), ONES[:7])
    assert (int(out["correct"]), int(out["top5"])) == (1, 5)
    np.testing.assert_array_equal(out["confusion"][:, 0], np.ones(7))


def test_an_example_with_a_nan_logit_is_never_correct():
    logits = np.full((2, 7), np.nan, np.float32)
    logits[1] = [9, 0, 0, 0, 0, 0, np.nan]
    out = eval_sums(logits, np.zeros(2, np.int32), ONES[:2])
    assert (int(out["count"]), int(out["correct"]), int(out["top5"])) == (2, 0, 0)
    train = jax.jit(metrics.sums)(jnp.array(logits), jnp.zeros(2, int), jnp.ones(2))
    assert float(train["correct"]) == 0


def test_top5_is_absent_for_five_classes():
    assert "top5" not in jax.eval_shape(
        metrics.eval_sums, jnp.zeros((1, 5)), jnp.zeros(1, int), jnp.ones(1)
    )


def test_training_sums_weigh_examples_and_skip_weight_zero():
    logits = np.array([[2, 0], [2, 0], [np.inf, 0]], np.float32)
    out = jax.jit(metrics.sums)(jnp.array(logits), jnp.array([0, 1, 1]), jnp.array([3.0, 0.5, 0.0]))
    nll = np.log1p(np.exp(-2.0))
    assert (float(out["count"]), float(out["correct"])) == (3.5, 3.0)
    np.testing.assert_allclose(out["nll"], 3 * nll + 0.5 * (2 + nll), rtol=1e-6)


def test_ece_of_two_bins_by_hand():
    # ten examples of confidence 0.8, seven right; five of confidence 0.6, four right:
    # ECE = 10/15 · |0.7 - 0.8| + 5/15 · |0.8 - 0.6| = 2/15
    p = np.array([0.8] * 10 + [0.6] * 5, np.float32)
    logits = np.log(np.stack([p, 1 - p], axis=1))
    labels = np.array([0] * 7 + [1] * 3 + [0] * 4 + [1], np.int32)
    scores = metrics.summarize(eval_sums(jnp.array(logits), labels, np.ones(15, bool)))
    assert scores["ece"] == pytest.approx(2 / 15, abs=1e-6)


def test_bins_hold_their_upper_edge():
    # confidences 0.2 and 1, the edges of bins 3 and 15 of width 1/15, counted from 1
    logits = jnp.array([[0.0] * 5, [200.0] + [0.0] * 4])
    out = eval_sums(logits, jnp.zeros(2, int), jnp.ones(2, bool))
    assert np.flatnonzero(out["bin_count"]).tolist() == [2, 14]


def test_summarize_divides_and_is_ready_for_json():
    sums = jax.device_get(eval_sums(LOGITS, LABELS, ONES))
    scores = metrics.summarize(sums)
    correct = int(sums["correct"])
    assert scores["examples"] == 40
    assert scores["accuracy"] == correct / 40
    assert scores["error"] == (40 - correct) / 40
    assert scores["nll"] == pytest.approx(float(sums["nll"]) / 40)
    assert scores["top5_accuracy"] == int(sums["top5"]) / 40
    rows = sums["confusion"]
    assert scores["per_class"] == [rows[k, k] / rows[k].sum() for k in range(7)]
    assert json.loads(json.dumps(scores)) == scores


def test_a_class_without_examples_has_no_accuracy():
    sums = eval_sums(jnp.zeros((2, 3)), jnp.array([0, 1]), jnp.ones(2, bool))
    assert metrics.summarize(sums)["per_class"] == [1.0, 0.0, None]


def test_summarizing_nothing_is_refused():
    with pytest.raises(ValueError, match="no example was counted"):
        metrics.summarize({"count": 0, "correct": 0, "nll": 0.0})


def test_the_paired_error_is_that_of_the_differences():
    right = np.array([True, True, True, False, False, True, False, True])
    baseline = np.array([True, False, False, True, False, True, True, False])
    d, error = metrics.paired(right, baseline)
    # by hand: three are won, two lost, three equal; d = 1/8, squares 3 * 49/64 + 2 * 81/64 + 3/64
    assert d == 1 / 8
    assert error == pytest.approx(((3 * 49 + 2 * 81 + 3 * 1) / 64 / 7 / 8) ** 0.5)
    assert metrics.paired(right, right) == (0.0, 0.0)
    assert metrics.paired(right[:1], baseline[:1]) == (0.0, None)
    back, same = metrics.paired(baseline, right)
    assert back == -d and same == error
