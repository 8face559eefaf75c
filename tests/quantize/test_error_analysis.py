"""Error analysis: SQNR and drops against what plain NumPy, or a whole other network, gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.graph.model import run
from tests.digits import data, models, normalised
from tests.draws import normal
from tests.graph.networks import FROZEN, NETWORKS

pytestmark = pytest.mark.slow

NAMES = ["conv1", "conv2", "dense1", "dense2"]


@pytest.fixture(scope="module")
def analysed():
    """Returns (analysis in 4 bits, model, ranges, images, labels)."""
    model, images, labels = models()["float"], normalised()[:300], data().test.labels[:300]
    ranges = hcjax.calibrate(model, images[:64])
    analysis = hcjax.error_analysis(model, ranges, images, labels, bits=3, batch_size=128)
    return analysis, model, ranges, images, labels


def right(model, images, labels):
    logits = np.asarray(jax.jit(model.apply)(model.params, images))
    return int((logits.argmax(1) == labels).sum())


def test_the_whole_network_is_the_one_that_fake_quantize_makes(analysed):
    analysis, model, ranges, images, labels = analysed
    base = right(model, images, labels)
    every = right(hcjax.fake_quantize(model, ranges, bits=3), images, labels)
    assert analysis.accuracy == base / 300
    assert analysis.drop == pytest.approx((base - every) / 300, abs=1e-9) and analysis.drop > 0.01
    assert [row.name for row in analysis.rows] == NAMES and {row.bits for row in analysis.rows} == {
        3
    }
    assert analysis.examples == 300


def test_layers_that_read_fewer_bits_are_those_of_fake_quantize(analysed):
    analysis, model, ranges, images, labels = analysed
    widths = {"bits": 8, "input_bits": {"dense2": 2}}
    analysis = hcjax.error_analysis(model, ranges, images, labels, **widths)
    every = right(hcjax.fake_quantize(model, ranges, **widths), images, labels)
    drop = (right(model, images, labels) - every) / 300
    assert analysis.drop == pytest.approx(drop, abs=1e-9) and drop
    plain = hcjax.error_analysis(model, ranges, images, labels)
    assert (
        analysis.rows[:-1] == plain.rows[:-1] and analysis.rows[-1].sqnr < plain.rows[-1].sqnr - 10
    )


def test_sqnr_is_that_of_the_output_of_each_layer(analysed):
    """By two other graphs: everything up to a layer, in float and quantized, with real outputs."""
    analysis, model, ranges, images, _ = analysed
    logits = np.asarray(jax.jit(model.apply)(model.params, images), np.float64)
    quantized = hcjax.fake_quantize(model, ranges, bits=3)
    q = np.asarray(jax.jit(quantized.apply)(quantized.params, images), np.float64)
    expected = 10 * np.log10((logits**2).sum() / ((logits - q) ** 2).sum())
    assert analysis.rows[-1].sqnr == pytest.approx(expected, rel=1e-4)
    # the first layer by hand: rounded image, rounded kernel, rounded output behind the relu
    step = quantized.params
    grid = next(op.params for op in quantized.graph.ops if op.kind == "quantize")
    x = np.round(images / step["images/step"]) + grid["zero"]
    x = np.clip(x, grid["least"], grid["most"]) - grid["zero"]
    x = x * np.asarray(step["images/step"])
    k = np.asarray(step["conv1/kernel_step"]) * np.clip(
        np.round(model.params["conv1/kernel"] / step["conv1/kernel_step"]), -3, 3
    )

    def convolved(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=layout)
        return np.maximum(np.asarray(y, np.float64) + np.asarray(model.params["conv1/bias"]), 0)

    y, s = convolved(images, model.params["conv1/kernel"]), float(step["conv1/step"])
    z = np.clip(np.round(convolved(np.float32(x), np.float32(k)) / s), 0, 7) * s
    expected = 10 * np.log10((y**2).sum() / ((y - z) ** 2).sum())
    assert analysis.rows[0].sqnr == pytest.approx(expected, abs=0.05)  # some ties round otherwise


def test_the_drop_is_that_of_a_network_with_one_layer_quantized(analysed):
    analysis, model, ranges, images, labels = analysed
    base, quantized = right(model, images, labels), hcjax.fake_quantize(model, ranges, bits=3)
    # what is rounded of each layer: the relu that follows it; the logits are not
    ops = [
        op for op in model.graph.ops if op.kind in ("conv_general_dilated", "dot_general", "relu")
    ]
    assert [op.kind == "relu" for op in ops] == [False, True] * 3 + [False]
    ends = dict(zip(NAMES, [op.output for op in ops if op.kind == "relu"], strict=False))
    for row in analysis.rows:
        name = row.name
        kernel, steps = model.params[f"{name}/kernel"], quantized.params[f"{name}/kernel_step"]
        rounded = jnp.clip(jnp.round(kernel / steps), -3, 3) * steps
        leaves = model.params | {f"{name}/kernel": rounded}

        def see(number, value, name=name):
            if number == ends.get(name):
                step = quantized.params[f"{name}/step"]
                return jnp.clip(jnp.round(value / step), 0, 7) * step
            return None

        alone = jax.jit(lambda p, x, see=see: run(model.graph, p, [x], visit=see)[0])
        logits = np.asarray(alone(leaves, images))
        drop = (base - int((logits.argmax(1) == labels).sum())) / 300
        assert row.drop == pytest.approx(drop, abs=1e-9), name
    assert (
        max(row.drop for row in analysis.rows) > 0 and len({row.drop for row in analysis.rows}) > 2
    )


def test_more_bits_are_nearer_everywhere(analysed):
    analysis, model, ranges, images, labels = analysed
    better = hcjax.error_analysis(model, ranges, images, labels, bits=8)
    for few, many in zip(analysis.rows, better.rows, strict=True):
        assert many.sqnr > few.sqnr + 15 and many.bits == 8
    assert abs(better.drop) <= 0.02  # one image of 75
    coarse = hcjax.error_analysis(model, ranges, images, labels, bits=4, granularity="tensor")
    assert [row.bits for row in coarse.rows] == [4] * 4 and coarse.rows[0].sqnr < better.rows[
        0
    ].sqnr
    mixed = hcjax.error_analysis(model, ranges, images, labels, bits={"conv.*": 4})
    assert [row.bits for row in mixed.rows] == [4, 4, 8, 8]


@pytest.mark.parametrize("name", ["resnet_tiny", "dense"])
def test_residual_and_joined_networks_have_a_row_for_each_layer(name):
    apply, params, image = NETWORKS[name]()
    images = normal(8, *image.shape[1:], seed=1)
    model = hcjax.fold(hcjax.trace(apply, params, image, frozen=FROZEN.get(name, "")))
    analysis = hcjax.error_analysis(model, hcjax.calibrate(model, images), images, np.zeros(8, int))
    count = sum(op.kind in ("conv_general_dilated", "dot_general") for op in model.graph.ops)
    assert len(analysis.rows) == count > 2
    assert all(10 < row.sqnr < 80 for row in analysis.rows)


def test_the_table_says_what_the_rows_say(analysed):
    lines = str(analysed[0]).splitlines()
    assert lines[0].split() == ["layer", "bits", "SQNR", "(dB)", "accuracy", "drop"]
    for line, row in zip(lines[1:-1], analysed[0].rows, strict=True):
        assert line.split() == [row.name, "3", f"{row.sqnr:.1f}", f"{100 * row.drop:.2f}", "%"]
    assert lines[-1].split() == ["all", f"{100 * analysed[0].drop:.2f}", "%"]


def test_labels_are_classes_and_as_many_as_images(analysed):
    _, model, ranges, images, labels = analysed
    for wrong, message in (
        (labels[1:], r"as many are needed, got 300 examples and \[\[299\]\] of targets"),
        (labels + 1, r"whole numbers in \[0, 10\), the classes; got 10"),
        (labels.astype(float), "whole numbers .* of float64"),
    ):
        with pytest.raises(hcjax.errors.ConfigError, match=message):
            hcjax.error_analysis(model, ranges, images, wrong)
    with pytest.raises(hcjax.errors.ConfigError, match="batch_size must be"):
        hcjax.error_analysis(model, ranges, images, labels, batch_size=0)
    other = hcjax.calibrate(models()["pruned"].replace(graph=model.graph._replace()), images[:4])
    with pytest.raises(ValueError, match="another model"):
        hcjax.error_analysis(model, other, images, labels)
