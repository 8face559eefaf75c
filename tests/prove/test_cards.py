"""Scorecards: every number against plain NumPy or a computation by hand."""

import dataclasses
import time

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax import cards
from hcjax.errors import DataError
from hcjax.graph.qtensor import QTensor
from tests.digits import data, models, predictions, scorecards

NAMES = ("float", "pruned", "int4")


def kernels(model):
    """Returns the arrays of a folded model's kernels, integers of quantized ones, by layer."""
    found = {}
    for path, leaf in model.params.items():
        leaf = np.asarray(leaf.values if isinstance(leaf, QTensor) else leaf)
        if path.endswith("/kernel"):
            found[path.removesuffix("/kernel")] = leaf
    assert len(found) == 4
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_score_is_that_of_every_test_image(name):
    card, expected = scorecards()[name], predictions(models()[name])
    right = expected == data().test.labels
    np.testing.assert_array_equal(card.predictions, expected)
    np.testing.assert_array_equal(card.labels, data().test.labels)
    assert (
        card.examples == 1000 and card.accuracy == right.mean() and card.error == 1 - right.mean()
    )
    assert 0.5 < card.accuracy < 1 or name == "pruned"


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_nonzeros_are_counted_exactly(name):
    card, found = scorecards()[name], kernels(models()[name])
    sizes = {layer: kernel.size for layer, kernel in found.items()}
    assert sizes == {"conv1": 100, "conv2": 800, "dense1": 2048, "dense2": 160}
    assert card.weights == sum(sizes.values())
    nonzero = {layer: int((kernel != 0).sum()) for layer, kernel in found.items()}
    assert card.nonzeros == sum(nonzero.values()) < 3108 or name == "float"
    # by hand: a kernel of a convolution is put to 24 x 24, then to 8 x 8 places
    places = {"conv1": 576, "conv2": 64, "dense1": 1, "dense2": 1}
    assert card.macs == sum(places[k] * n for k, n in sizes.items()) == 111_008
    assert card.nonzero_macs == sum(places[k] * n for k, n in nonzero.items())


def test_a_pruned_network_keeps_as_many_weights_as_it_should():
    assert scorecards()["pruned"].nonzeros == round(0.1 * 3108)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_files(name):
    card, original = scorecards()[name], scorecards()["float"].weights
    assert card.file_bytes == len(hcjax.pack(models()[name]))
    assert card.bits_per_weight == 8 * card.file_bytes / original
    assert card.ratio == pytest.approx(4 * original / card.file_bytes)
    assert card.ratio == pytest.approx(32 / card.bits_per_weight)


def test_sizes_are_put_against_the_weights_of_the_baseline():
    twice = scorecards()["float"]._replace(weights=6216)
    about = {"name": "a", "baseline": twice, "file_bytes": 777, "timed": False}
    card = cards.scorecard(models()["int4"], data(), **about)
    assert card.weights == 3108 and card.bits_per_weight == 1 and card.ratio == 32


def test_a_size_that_is_given_is_not_packed_again(monkeypatch):
    monkeypatch.setattr(cards, "pack", None)
    card = cards.scorecard(models()["float"], data(), name="a", file_bytes=6216, timed=False)
    assert card.file_bytes == 6216 and card.bits_per_weight == 16 and card.ratio == 2


def test_the_difference_is_paired_with_the_baseline():
    first, other = scorecards()["float"], scorecards()["int4"]
    assert first.difference is None and first.difference_error is None
    x = other.right.astype(int) - first.right.astype(int)
    d = x.sum() / 1000
    assert other.difference == pytest.approx(d) == pytest.approx(other.accuracy - first.accuracy)
    lost, won = (x == -1).sum(), (x == 1).sum()
    assert lost + won > 0
    variance = (lost * (-1 - d) ** 2 + won * (1 - d) ** 2 + (1000 - lost - won) * d**2) / 999
    assert other.difference_error == pytest.approx((variance / 1000) ** 0.5)


def test_a_baseline_of_other_examples_is_refused():
    fewer = hcjax.data.load("mnist", limit=900)
    with pytest.raises(DataError, match=r"float was scored on 1,000 other examples than a's 900"):
        cards.scorecard(
            models()["int4"], fewer, name="a", baseline=scorecards()["float"], timed=False
        )


def test_other_images_and_classes_are_refused():
    large = hcjax.data.load("mnist", limit=20, image_size=30)
    with pytest.raises(DataError, match=r"takes images \[28, 28, 1\], mnist has \[30, 30, 1\]"):
        cards.scorecard(models()["float"], large, name="a", timed=False)
    parts = {name: getattr(data(), name) for name in ("train", "test")}
    parts = {name: part._replace(targets=part.labels % 2) for name, part in parts.items()}
    two = dataclasses.replace(data(), class_names=("even", "odd"), **parts)
    with pytest.raises(DataError, match="tells 10 classes apart, mnist has 2"):
        cards.scorecard(models()["float"], two, name="a", timed=False)


def test_times_are_medians_of_calls_on_the_right_batch(monkeypatch):
    seen = []

    def tune(fn, images):
        seen.append(images.shape)
        pauses = iter([0.005, 0.3, 0.005] if len(images) == 1 else [0.02, 0.02, 0.3])
        return lambda images: time.sleep(next(pauses))

    monkeypatch.setattr(cards.compiler, "tune", tune)
    card = cards.scorecard(models()["float"], data(), name="a", calls=3)
    assert seen == [(1, 28, 28, 1), (128, 28, 28, 1)]
    assert 0.005 <= card.latency_seconds < 0.1
    assert 128 / 0.1 < card.images_per_second <= 128 / 0.02


def test_times_are_measured_here_and_the_device_is_named():
    card = cards.scorecard(models()["int4"], data(), name="a", calls=2)
    assert 1e-6 < card.latency_seconds < 1 and 128 < card.images_per_second < 1e8
    assert "cpu" in card.device and "threads" in card.device
    assert scorecards()["int4"].latency_seconds is None


def test_the_table_says_what_json_says():
    times = {"latency_seconds": 0.00123, "images_per_second": 7801.6}
    made = [card._replace(**times) for card in scorecards().values()]
    rows = cards.as_json(made)
    assert all(type(v) in (str, int, float, type(None)) for row in rows for v in row.values())
    assert set(rows[0]) == set(made[0]._fields) - {"predictions", "labels"}
    text = cards.table(made)
    assert text == cards.table(rows)
    head, _, *lines = text.splitlines()
    assert head.startswith("stage") and "CPU latency  images/s" in head
    chosen = cards.table([row | {"validation_accuracy": 0.98765} for row in rows])
    assert "accuracy  validation  difference" in chosen and "98.77 %" in chosen
    untimed = cards.table(list(scorecards().values())[:1])
    assert not any(word in untimed for word in ("latency", "images/s", "difference"))
    for line, row in zip(lines, rows, strict=True):
        cells = line.replace(" ± ", "±").replace(" %", "%").replace(" ms", "ms").split()
        expected = {
            "accuracy": f"{100 * row['accuracy']:.2f}%",
            "difference": "-",
            "nonzeros": f"{row['nonzeros']:,}",
            "bits": f"{row['bits_per_weight']:.2f}",
            "bytes": f"{row['file_bytes']:,}",
            "ratio": f"{row['ratio']:.1f}×",
            "macs": f"{row['macs']:,}",
            "latency": "1.23ms",
            "images/s": "7,802",
        }
        if row["difference"] is not None:
            d, error = 100 * row["difference"], 100 * row["difference_error"]
            expected["difference"] = f"{d:+.2f}±{error:.2f}%"
        assert cells == [row["name"], *expected.values()]


def test_a_network_with_bfloat16_images_is_scored():
    def apply(p, x):  # a convolution takes operands of one dtype only
        y = lax.conv_general_dilated(
            x, p, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.reshape(y.shape[0], 10).astype(jnp.float32)

    kernel = jnp.eye(784, 10, dtype=jnp.bfloat16).reshape(28, 28, 1, 10)
    model = hcjax.trace(apply, kernel, jnp.zeros((1, 28, 28, 1), jnp.bfloat16))
    card = cards.scorecard(model, data(), name="a", timed=False)
    assert card.examples == 1000 and card.nonzeros == 10 and card.macs == 7840
