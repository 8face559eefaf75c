"""Drift: equal to SciPy's own tests, right about chance, and sure of what has changed."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import hcjax
from hcjax import monitor
from hcjax.errors import DataError


def drawn(rng, count, spread=1.0, shift=0.0):
    """Returns logits and inputs of some examples."""
    logits = rng.normal(size=(count, 4)) * 3 * spread
    logits[:, 0] += shift
    return logits, rng.normal(size=(count, 6)) * spread


def test_statistics_are_those_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.multinomial(900, [0.1] * 10), rng.multinomial(300, [0.05] * 6 + [0.175] * 4)
    found = stats.chi2_contingency(np.stack([one, other]), correction=False)
    np.testing.assert_allclose(monitor.chi2(one, other), (found.statistic, found.pvalue), rtol=1e-9)
    x, y = (np.repeat(np.arange(10), each) for each in (one, other))
    found = stats.ks_2samp(x, y, method="asymp")
    distance, p = monitor.ks(one, other)
    np.testing.assert_allclose(distance, found.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, stats.kstwobign.sf(np.sqrt(225) * distance), rtol=1e-6)


def test_a_bin_that_is_empty_in_both_counts_for_nothing():
    assert monitor.chi2([5, 0, 5], [5, 0, 5]) == (0.0, 1.0)
    assert monitor.chi2([5, 0, 3], [2, 0, 9]) == monitor.chi2([5, 3], [2, 9])
    assert monitor.chi2([7, 0], [9, 0]) == (0.0, 1.0)


def test_counts_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(1)
    known = monitor.reference(monitor.features(*drawn(rng, 500)), classes=4)
    logits, inputs = drawn(rng, 300)
    whole = monitor.count(known, monitor.features(logits, inputs))
    parts = [monitor.count(known, monitor.features(logits[i : i + 70], inputs[i : i + 70]))
             for i in range(0, 300, 70)]  # fmt: skip
    total = parts[0]
    for part in parts[1:]:
        total = monitor.add(total, part)
    for name in known:
        np.testing.assert_array_equal(total[name], whole[name])
        assert whole[name].sum() == 300


def test_clean_windows_give_false_alarms_as_often_as_is_said():
    """Windows of 500 against references of 5,000, all drawn anew: 5 % at most, and not far less."""
    rng, alarms, windows = np.random.default_rng(2), 0, 1500
    for _ in range(windows // 50):
        known = monitor.reference(monitor.features(*drawn(rng, 5000)), classes=4)
        for _ in range(50):
            seen = monitor.count(known, monitor.features(*drawn(rng, 500)))
            alarms += monitor.worst(monitor.drift(known, seen))[1] < 0.05
    assert 0.03 < alarms / windows < 0.065


@pytest.mark.parametrize(
    ("change", "feature"),
    [({"spread": 1.4}, "input_std"), ({"shift": 1.5}, "class"), ({"spread": 0.6}, "confidence")],
)
def test_changes_are_found_and_named(change, feature):
    rng = np.random.default_rng(3)
    known = monitor.reference(monitor.features(*drawn(rng, 5000)), classes=4)
    for _ in range(20):
        found = monitor.drift(
            known, monitor.count(known, monitor.features(*drawn(rng, 500, **change)))
        )
        assert monitor.worst(found)[1] < 1e-3 and found[feature].chi2_p < 1e-3


def test_confidence_differs_where_probabilities_round_to_one():
    found = monitor.features(np.array([[40.0, 0.0], [50.0, 0.0], [2000.0, 0.0]]))["confidence"]
    np.testing.assert_allclose(found[:2], [40, 50])
    assert found[2] == np.inf
    known = monitor.reference({"confidence": found}, bins=2)
    assert json.loads(json.dumps(known, allow_nan=False)) == known


def test_what_is_not_a_number_or_no_known_category_has_its_bin():
    known = monitor.reference({"x": np.arange(4.0), "class": np.array([0, 1])}, bins=2, classes=2)
    seen = monitor.count(known, {"x": np.array([np.nan, -np.inf]), "class": np.array([7, 1])})
    assert seen["x"].tolist() == [1, 1] and seen["class"].tolist() == [0, 1, 1]


def test_a_reference_travels_with_the_network_in_a_few_kilobytes():
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.eye(4)}, jnp.ones((1, 4)))
    known = monitor.reference(monitor.features(*drawn(np.random.default_rng(4), 900)), classes=4)
    blob = hcjax.pack(model, about={"reference": known})
    assert hcjax.unpack(blob).about["reference"] == known
    assert len(blob) - len(hcjax.pack(model, about={})) < 2000


def test_prometheus_reads_what_is_written():
    parser = pytest.importorskip("prometheus_client.parser")
    known = {"class": {"edges": [], "counts": [5, 5, 0]}, "x": {"edges": [0.0], "counts": [5, 5]}}
    found = monitor.drift(known, {"class": np.array([9, 1, 0]), "x": np.array([4, 6])})
    text = monitor.prometheus([({"model": 'a "b"\\', "version": "1"}, found)])
    families = {each.name: each for each in parser.text_string_to_metric_families(text)}
    scores = {s.labels["feature"]: s for s in families["hcjax_drift_score"].samples}
    assert scores["class"].value == found["class"].psi
    assert scores["x"].labels["model"] == 'a "b"\\'
    (together,) = families["hcjax_drift_p_value_of_all"].samples
    assert together.value == 2 * min(one.chi2_p for one in found.values())
    assert families["hcjax_drift_examples"].samples[0].value == 10


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: monitor.features(np.zeros(3)), r"logits \[N, K\]"),
        (lambda: monitor.reference({"x": np.zeros((2, 2))}), "one number an example of x"),
        (lambda: monitor.count({"x": {}}, {"y": np.zeros(1)}), "lack x"),
        (lambda: monitor.psi([1, 2], [1, 2, 3]), "same bins"),
        (lambda: monitor.chi2([1, 2], [0, 0]), "same bins"),
    ],
)
def test_what_cannot_be_compared_is_said(call, text):
    with pytest.raises(DataError, match=text):
        call()
