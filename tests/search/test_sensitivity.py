"""Sensitivity against masks, QTensors and a plain evaluation; the picker against all choices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hcjax
from hcjax import prune
from hcjax.errors import ConfigError
from hcjax.graph import qtensor
from hcjax.search.sensitivity import KernelSensitivity, Sensitivity

pytestmark = pytest.mark.slow


def apply(params, x):
    dims = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=dims
    )
    x = jax.nn.relu(x + params["conv"]["bias"]).reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["d.1"]["kernel"])
    return x @ params["d.2"]["kernel"].T  # a kernel that is computed from its parameter


@functools.cache
def example():
    """Returns (model, images, labels): a random network, and mostly what it says."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (1, 1, 2, 4), "d.1": (36, 8), "d.2": (5, 8)}
    params = {k: {"kernel": jnp.asarray(rng.standard_normal(s), jnp.float32)}
              for k, s in shapes.items()}  # fmt: skip
    params["conv"]["bias"] = jnp.asarray(rng.standard_normal(4), jnp.float32)
    images = rng.standard_normal((50, 3, 3, 2)).astype(np.float32)
    model = hcjax.trace(apply, params, images[:1])
    labels = np.array(apply(params, images).argmax(-1))
    labels[::10] = (labels[::10] + 1) % 5
    return model, images, labels


@functools.cache
def found(against):
    return hcjax.sensitivity(*example(), against=against)


def scored(params):
    """Returns (accuracy, nll) by NumPy."""
    model, images, labels = example()
    logits = np.asarray(model.apply(params, images), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return (logits.argmax(-1) == labels).mean(), -log_p[np.arange(len(labels)), labels].mean()


def check(row_or_pair, params):
    accuracy, nll = row_or_pair
    expected = scored(params)
    assert accuracy == pytest.approx(expected[0], abs=1e-9)
    assert nll == pytest.approx(expected[1], rel=1e-4)


def test_the_rows_are_the_kernels_with_what_they_cost():
    rows = found("sparsity").rows
    assert [(row.path, row.layer, row.size, row.macs) for row in rows] == [
        ("conv/kernel", "conv", 8, 9 * 8),
        ("d.1/kernel", "d.1", 288, 288),
        ("d.2/kernel", "d.2", 40, 40),
    ]
    assert (found("sparsity").accuracy, found("sparsity").nll) == pytest.approx(
        scored(example()[0].params), rel=1e-5
    )
    assert found("sparsity").accuracy == 0.9


def test_sparsity_is_that_of_masks():
    model, _, _ = example()
    for row in found("sparsity").rows:
        for i, level in enumerate(found("sparsity").levels):
            masks = prune.masks(model.params, scope={row.path: level})
            check((row.accuracy[i], row.nll[i]), prune.apply(masks, model.params))
    assert found("sparsity").rows[1].nll[-1] > found("sparsity").nll + 0.1


def test_bits_are_those_of_a_qtensor_per_output_channel():
    model, _, _ = example()
    axes = {"conv": 3, "d.1": 1, "d.2": None}  # none where the layer reads something else
    for row in found("bits").rows:
        for i, bits in enumerate(found("bits").levels):
            q = qtensor.quantize(model.params[row.path], bits=bits, axis=axes[row.layer])
            check((row.accuracy[i], row.nll[i]), model.params | {row.path: qtensor.dequantize(q)})
    assert found("bits").rows[1].nll[-1] > found("bits").nll + 0.01


def test_all_layers_can_be_changed_together():
    model, _, _ = example()
    masks = prune.masks(model.params, scope={"conv/.*": 0.5, "d.2/.*": 0.25})
    check(found("sparsity").measure([0.5, 0, 0.25]), prune.apply(masks, model.params))


def test_batches_that_do_not_divide_the_examples_change_nothing():
    whole = found("bits")
    parts = hcjax.sensitivity(*example(), against="bits", levels=(3,), batch_size=7)
    assert parts.accuracy == whole.accuracy and parts.nll == pytest.approx(whole.nll, rel=1e-5)
    for a, b in zip(parts.rows, whole.rows, strict=True):
        assert a.accuracy[0] == b.accuracy[whole.levels.index(3)]


def test_the_network_is_compiled_once_whatever_is_swept():
    model, images, labels = example()
    seen = []

    def spied(op):
        def run(batch, *inputs):
            seen.append(isinstance(inputs[0], jax.core.Tracer))
            return op.run(batch, *inputs)

        return op._replace(run=run)

    ops = tuple(spied(op) if op.kind == "dot_general" else op for op in model.graph.ops)
    spy = model.replace(graph=model.graph._replace(ops=ops))
    counts = []
    for levels in ((0.5,), (0.0, 0.25, 0.5, 0.75, 0.9)):
        seen.clear()
        hcjax.sensitivity(spy, images, labels, levels=levels)
        counts.append(len(seen))
        assert all(seen)
    assert counts[0] == counts[1] > 0


def test_the_table_has_a_line_for_each_kernel():
    lines = str(found("bits")).splitlines()
    assert lines[0] == "accuracy 90.00 %"
    assert lines[1].split() == ["kernel", "weights", "MACs", "bits", *"8765432"]
    assert lines[3].split()[:3] == ["d.1/kernel", "288", "288"]
    assert float(lines[3].split()[-1]) == pytest.approx(100 * found("bits").rows[1].accuracy[-1])


def test_a_selection_leaves_the_others_as_they_are():
    only = hcjax.sensitivity(*example(), levels=(0.5,), select="conv/kernel")
    assert [row.path for row in only.rows] == ["conv/kernel"]


# ------------------------------------------------------------------------------ pick

LEVELS = (0.0, 0.25, 0.5, 0.75)


def made(rises, sizes, macs=None):
    """Returns a Sensitivity whose layers' rises of nll add up; accuracy = 1 - nll / 100."""

    def total(levels):
        nll = sum(r[LEVELS.index(level)] for r, level in zip(rises, levels, strict=True))
        return 1 - nll / 100, nll

    rows = tuple(
        KernelSensitivity(
            f"l{i}/kernel", f"l{i}", size, mac, tuple(1 - r / 100 for r in rise), tuple(rise)
        )
        for i, (rise, size, mac) in enumerate(zip(rises, sizes, macs or sizes, strict=True))
    )
    return Sensitivity("sparsity", LEVELS, rows, 1.0, 0.0, total)


def chosen(picked):
    return [picked[f"l{i}/kernel"] for i in range(len(picked))]


rises_of_a_layer = st.lists(st.integers(-5, 20), min_size=3, max_size=3).map(lambda r: (0, *r))


@settings(max_examples=60, deadline=None)
@given(st.lists(rises_of_a_layer, min_size=1, max_size=4), st.data())
def test_a_budget_of_size_or_macs_is_met_and_no_other_choice_is_better_where_it_is_met_exactly(
    rises, data
):
    costs = data.draw(st.lists(st.integers(1, 50), min_size=len(rises), max_size=len(rises)))
    what = data.draw(st.sampled_from(["size", "macs"]))
    other = [1] * len(rises)
    curves = made(rises, *((costs, other) if what == "size" else (other, costs)))
    budget = data.draw(st.floats(0.25, 1.0))
    left = lambda levels: sum(c * (1 - s) for c, s in zip(costs, levels, strict=True)) / sum(costs)
    picked = chosen(hcjax.pick(curves, **{what: budget}))
    assert left(picked) <= budget
    harm = curves.measure(picked)[1]
    best = min(
        curves.measure(levels)[1]
        for levels in itertools.product(LEVELS, repeat=len(rises))
        if left(levels) <= left(picked)
    )
    assert harm == best


convex = st.lists(st.integers(0, 10), min_size=3, max_size=3).map(
    lambda r: (0, *itertools.accumulate(sorted(r)))
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(convex, st.integers(1, 50)), min_size=1, max_size=4), st.floats(0.5, 1))
def test_an_accuracy_is_measured_and_no_layer_can_go_further(layers, accuracy):
    curves = made(*zip(*layers, strict=True))
    picked = chosen(hcjax.pick(curves, accuracy=accuracy))
    assert curves.measure(picked)[0] >= accuracy
    for i, level in enumerate(picked):
        for further in LEVELS[LEVELS.index(level) + 1 :]:
            assert curves.measure([*picked[:i], further, *picked[i + 1 :]])[0] < accuracy


def test_layers_that_hurt_together_are_found_out_by_measuring():
    curves = made([(0, 1, 2, 3)] * 2, [10, 10])
    worse = curves._replace(measure=lambda levels: (1 - sum(levels) ** 2, 0.0))
    assert sum(chosen(hcjax.pick(worse, accuracy=0.9))) == 0.25
    assert sum(chosen(hcjax.pick(curves, accuracy=0.9))) == 1.5


def test_a_layer_that_gets_better_with_sparsity_is_pruned_first():
    curves = made([(5, 4, 3, 2), (0, 1, 2, 3)], [10, 10])
    assert chosen(hcjax.pick(curves, size=0.7)) == [0.75, 0.0]


def test_what_is_picked_is_what_masks_and_fake_quantize_take():
    model, images, _ = example()
    picked = hcjax.pick(found("sparsity"), size=0.4)
    masks = prune.masks(model.params, scope=picked)
    kept = sum(int(masks[row.path].sum()) for row in found("sparsity").rows)
    assert kept <= 0.4 * (8 + 288 + 40) + 1.5 and "d\\.1/kernel" in picked
    bits = hcjax.pick(found("bits"), size=3.5 / 32)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images), bits=bits, activation_bits=8)
    assert set(bits.values()) - {8} and set(bits) == {"conv", "d\\.1", "d\\.2"}
    int8 = hcjax.int8(fake)
    found_bits = {q.bits for q in jax.tree.leaves(
        int8.params, is_leaf=lambda x: isinstance(x, qtensor.QTensor))
        if isinstance(q, qtensor.QTensor)}  # fmt: skip
    assert found_bits == set(bits.values())


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["size", "accuracy"]), st.floats(0.3, 1.0))
def test_kernels_of_one_layer_get_one_number_of_bits(budget, value):
    """A gated unit holds three kernels under one name, and bits are a layer's."""
    levels, sizes = (8, 4, 2), {"gate/a": 10, "gate/b": 30, "out": 5}
    rises = {"gate/a": (0, 1, 9), "gate/b": (0, 2, 30), "out": (0, 3, 5)}
    rows = tuple(
        KernelSensitivity(path, path.split("/")[0], size, size, (1.0, 1.0, 1.0), rises[path])
        for path, size in sizes.items()
    )

    def measured(chosen):
        for_gate = chosen[:2]
        assert for_gate[0] == for_gate[1]
        nll = sum(r[levels.index(n)] for r, n in zip(rises.values(), chosen, strict=True))
        return 1 - nll / 50, nll

    curves = Sensitivity("bits", levels, rows, 1.0, 0.0, measured)
    value = value / 4 if budget == "size" else value
    picked = hcjax.pick(curves, **{budget: value})
    assert set(picked) == {"gate", "out"}
    each = [picked["gate"], picked["gate"], picked["out"]]
    if budget == "size":
        assert sum(n * k / 32 for n, k in zip(each, sizes.values(), strict=True)) <= 45 * value
    else:
        assert measured(each)[0] >= value


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"against": "sparsty"}, "did you mean 'sparsity'"),
        ({"levels": (0.5, 1.0)}, "mild to strong"),
        ({"levels": (0.5, 0.3)}, "mild to strong"),
        ({"levels": ()}, "mild to strong"),
        ({"against": "bits", "levels": (4, 8)}, "mild to strong"),
        ({"against": "bits", "levels": (9,)}, "mild to strong"),
        ({"select": "conv/bias"}, "no kernel"),
        ({"select": "nothing"}, "matches no parameter"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"labels": np.full(50, 5)}, r"whole numbers in \[0, 5\), the classes; got 5"),
        ({"labels": np.full(50, -1)}, r"whole numbers in \[0, 5\), the classes; got -1"),
        ({"labels": np.zeros(50)}, r"whole numbers .* got 0.0 of float64"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"images": np.zeros((0, 3, 3, 2)), "labels": np.zeros(0, int)}, "images"),
    ],
)
def test_illegal_arguments_are_named(arguments, message):
    model, images, labels = example()
    with pytest.raises(ConfigError, match=message):
        hcjax.sensitivity(model, **{"images": images, "labels": labels, **arguments})


def test_a_network_of_integers_is_refused():
    model, images, labels = example()
    int8 = hcjax.int8(model, hcjax.calibrate(model, images))
    with pytest.raises(ConfigError, match="integers already"):
        hcjax.sensitivity(int8, images, labels)


@pytest.mark.parametrize(
    "budget, message",
    [
        ({}, "one of accuracy"),
        ({"size": 0.5, "macs": 0.5}, "one of accuracy"),
        ({"size": 0.0}, "one of accuracy"),
        ({"size": 0.1}, r"0\.2500 is left"),
        ({"accuracy": 1.0}, r"0\.9"),
    ],
)
def test_budgets_that_cannot_be_met_are_named(budget, message):
    curves = made([(10, 10, 20, 30)], [8])
    with pytest.raises(ConfigError, match=message):
        hcjax.pick(curves, **budget)
