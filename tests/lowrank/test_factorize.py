"""factorize: the same function at full rank, the best one below, and only where it is cheaper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import hcjax
from hcjax.errors import ConfigError
from tests.draws import normal
from tests.graph import reference
from tests.graph.networks import NETWORKS, folded, logits

pytestmark = pytest.mark.slow

EVERYTHING = {".*": 10**6}  # every layer at its full rank, whatever it costs


def one_layer(kernel, images, apply=None):
    apply = apply or (lambda p, x: x @ p["layer"]["kernel"])
    return hcjax.trace(apply, {"layer": {"kernel": jnp.asarray(kernel, jnp.float32)}}, images)


QUICK = ("linen", "equinox", "dense", "lenet5")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_at_full_rank_the_function_is_the_same(name):
    model, images = folded(name)
    small = hcjax.factorize(model, rank=EVERYTHING)
    expected = logits(model, images)
    assert np.ptp(expected) > 1e-3
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(small, images), expected, atol=1e-4 * scale, rtol=0)
    if name == "linen":  # at another batch size
        got = logits(small, images[:1])
        np.testing.assert_allclose(got, expected[:1], atol=1e-4 * scale, rtol=0)
    rows = hcjax.ranks(model, rank=EVERYTHING)
    assert [r.name for r in rows] == [r.name for r in hcjax.cost(model).rows if r.macs]
    changed = [row for row in rows if row.ranks]
    assert changed and {row.why for row in rows} <= {"", "it has groups", "its kernel is shared"}
    assert hcjax.cost(small).macs == sum(row.after for row in rows)
    for row in changed:
        assert f"{row.name}/kernel" not in small.params
        part = "core" if row.shape[2] > 1 else "first"
        assert f"{row.name}/{part}/kernel" in small.params
    assert not {p for p in model.params if p.endswith("bias")} - {
        p.replace("/last/", "/").replace("/core/", "/") for p in small.params
    }


def test_what_is_never_factorised_is_said():
    rows = {r.name: r.why for r in hcjax.ranks(folded("haiku mobilenet")[0], rank=EVERYTHING)}
    assert "it has groups" in rows.values() and "" in rows.values()
    rows = {r.name: r.why for r in hcjax.ranks(folded("dense")[0], rank=EVERYTHING)}
    assert rows["b"] == "its kernel is shared" and rows["a"] == ""
    rows = hcjax.ranks(folded("lenet5")[0], energy=0.5, select="dense.*")
    assert [r.why for r in rows] == ["it is not selected"] * 2 + ["", ""]
    constant = hcjax.trace(lambda p, x: x @ jnp.ones((4, 4)) * p, jnp.ones(4), jnp.ones((1, 4)))
    assert [r.why for r in hcjax.ranks(constant, rank=1)] == ["its kernel is a constant"]


def test_an_exactly_low_rank_is_found_and_its_macs_are_those_of_the_formula():
    model, images = folded("lenet5")
    rng = np.random.default_rng(0)
    thin = rng.normal(size=(800, 7)) @ rng.normal(size=(7, 500)) / 30
    core = rng.normal(size=(5, 5, 3, 4))
    tucker = np.einsum("hwab,ia,ob->hwio", core, rng.normal(size=(20, 3)), rng.normal(size=(50, 4)))
    new = {"dense1/kernel": thin, "conv2/kernel": tucker / 30}
    model = model.replace(params=model.params | {k: jnp.float32(v) for k, v in new.items()})
    rows = {r.name: r for r in hcjax.ranks(model, energy=1 - 1e-9)}
    assert rows["dense1"].ranks == (7,) and rows["dense1"].after == 7 * (800 + 500)
    assert rows["conv2"].ranks == (3, 4)
    # 12 x 12 places are read, 8 x 8 written
    assert rows["conv2"].after == 144 * 20 * 3 + 64 * (25 * 3 * 4 + 4 * 50)
    assert rows["conv1"].ranks == ()  # one channel in, and all of its rank is used
    small = hcjax.factorize(model, energy=1 - 1e-9)
    expected = logits(model, images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(small, images), expected, atol=1e-4 * scale, rtol=0)
    assert small.params["conv2/first/kernel"].shape == (1, 1, 20, 3)
    assert small.params["conv2/core/kernel"].shape == (5, 5, 3, 4)
    assert small.params["conv2/last/kernel"].shape == (1, 1, 4, 50)
    assert small.params["conv2/last/bias"].shape == (50,)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_a_matrix_is_cut_where_its_singular_values_say(shape):
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=shape).astype(np.float32)
    images = jnp.eye(shape[0])
    small = hcjax.factorize(one_layer(kernel, images), rank={"layer": 5})
    singular = np.linalg.svd(kernel, compute_uv=False)
    error = np.linalg.norm(logits(small, images) - kernel)
    np.testing.assert_allclose(error, np.sqrt((singular[5:] ** 2).sum()), rtol=1e-4)
    for part in ("first", "last"):  # equally large
        leaf = np.asarray(small.params[f"layer/{part}/kernel"])
        sizes = np.linalg.norm(leaf, axis=0 if part == "first" else 1)
        np.testing.assert_allclose(sizes, np.sqrt(singular[:5]), rtol=1e-4)
    kept = (singular**2).cumsum() / (singular**2).sum()
    (row,) = hcjax.ranks(one_layer(kernel, images), energy=0.6)
    assert row.ranks == (int(np.argmax(kept >= 0.6)) + 1,)


CONVOLUTIONS = {
    "strided": {"window_strides": (2, 2), "padding": ((1, 1), (1, 2))},
    "dilated": {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "rhs_dilation": (2, 2)},
    "transposed": {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 2)},
}


@pytest.mark.parametrize("about", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("taps, ranks", [(3, (4, 5)), (1, 3), (3, (6, 5)), (3, (4, 8))])
@pytest.mark.parametrize("layout", ["NHWC HWIO NHWC", "NCHW OIHW NCHW", "NHWC OHWI NCHW"])
def test_every_convolution_is_that_of_the_rebuilt_kernel(about, taps, ranks, layout):
    x_spec, k_spec, y_spec = layout.split()
    sizes = {"H": taps, "W": taps, "I": 6, "O": 8}
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=[sizes[c] for c in k_spec]).astype(np.float32)
    image = [{"N": 2, "C": 6, "H": 7, "W": 9}[c] for c in x_spec]
    images = jnp.asarray(rng.normal(size=image), jnp.float32)

    def apply(p, x):
        y = lax.conv_general_dilated(
            x, p["layer"]["kernel"], dimension_numbers=(x_spec, k_spec, y_spec), **about
        )
        return y.reshape(y.shape[0], -1)

    small = hcjax.factorize(one_layer(kernel, images, apply), rank={"layer": ranks})
    ios = [k_spec.index(c) for c in "HWIO"]
    parts = {
        path.split("/")[1]: np.asarray(leaf).transpose(ios) for path, leaf in small.params.items()
    }
    if taps == 1:
        whole = np.einsum("hwir,xyro->hwio", parts["first"], parts["last"])
        assert set(parts) == {"first", "last"}
    else:
        full = (6, 8)
        assert {"first": ranks[0] < full[0], "last": ranks[1] < full[1], "core": True} == {
            name: name in parts for name in ("first", "last", "core")
        }
        before = parts.get("first", np.eye(6)[None, None])[0, 0]
        after = parts.get("last", np.eye(8)[None, None])[0, 0]
        whole = np.einsum("ia,hwab,bo->hwio", before, parts["core"], after)
    rebuilt = jnp.asarray(whole.transpose(np.argsort(ios)), jnp.float32)
    expected = apply({"layer": {"kernel": rebuilt}}, images)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(logits(small, images), expected, atol=1e-5 * scale, rtol=0)
    # what is lost is no more than what the singular values outside the ranks hold
    tensor = kernel.transpose(ios).astype(np.float64)
    lost = 0.0
    for axis, rank in zip((2, 3), np.broadcast_to(ranks, 2), strict=True):
        unfolded = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
        lost += (np.linalg.svd(unfolded, compute_uv=False)[rank:] ** 2).sum()
    assert ((whole - tensor) ** 2).sum() <= lost * (1 + 1e-5) + 1e-9


def test_a_layer_stays_where_fewer_ranks_save_nothing():
    model, images = folded("lenet5")
    same = hcjax.factorize(model, rank=10**6)
    assert set(same.params) == set(model.params)
    np.testing.assert_array_equal(logits(same, images), logits(model, images))
    reasons = [r.why for r in hcjax.ranks(model, rank=10**6)]
    assert reasons == ["it would take no fewer MACs"] * 4
    small = hcjax.factorize(model, rank=20)
    assert "dense1/first/kernel" in small.params and "dense2/kernel" in small.params
    assert hcjax.cost(small).macs < hcjax.cost(model).macs


@pytest.mark.parametrize("name", ["lenet5", "resnet_tiny"])
def test_a_budget_of_macs_is_met_and_used(name):
    model, _ = folded(name)
    whole = hcjax.cost(model).macs
    found = [hcjax.cost(hcjax.factorize(model, macs=part)).macs / whole for part in (0.7, 0.4)]
    assert 0.6 < found[0] <= 0.7 and 0.3 < found[1] <= 0.4
    with pytest.raises(ConfigError, match=r"macs=1e-05 cannot be reached: with every rank at 1"):
        hcjax.factorize(model, macs=1e-5)


def test_the_parts_train_back_towards_the_whole():
    model, images = folded("seed_cnn_tiny")
    small = hcjax.factorize(model, macs=0.5)
    expected = logits(model, images)
    scale = float(np.square(expected).mean())

    def loss(params):
        return jnp.square(small.apply(params, images) - expected).mean() / scale

    step, tx = jax.jit(jax.value_and_grad(loss)), optax.adam(3e-3)
    params, state, (first, gradients) = small.params, tx.init(small.params), step(small.params)
    assert all(np.abs(g).max() > 0 for g in gradients.values())
    for _ in range(20):
        _, gradients = step(params)
        updates, state = tx.update(gradients, state)
        params = optax.apply_updates(params, updates)
    assert step(params)[0] < 0.5 * first


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_it_composes_with_int8_and_pack(name):
    model, images = folded(name)
    small = hcjax.factorize(model, rank={".*": 4})
    back = hcjax.unpack(hcjax.pack(small))
    np.testing.assert_array_equal(logits(back, images), logits(small, images))
    fake = hcjax.fake_quantize(small, hcjax.calibrate(small, images))
    whole = hcjax.int8(fake)
    assert whole.floats == () and any("/first/kernel" in p for p in whole.params)
    got = logits(whole, images)
    np.testing.assert_array_equal(got, logits(fake, images))
    np.testing.assert_array_equal(got, reference.logits(whole, images))
    again = hcjax.factorize(small, rank={".*/first": 2})
    assert any("/first/first/kernel" in p for p in again.params)
    assert np.isfinite(logits(again, images)).all()


def test_an_unfolded_network_keeps_what_else_reads_parameters():
    apply, params, image = NETWORKS["nnx"]()
    model = hcjax.trace(apply, params, image, frozen=".*/(mean|var)/value")
    images = normal(*image.shape, seed=1)
    small = hcjax.factorize(model, rank=EVERYTHING)
    expected = logits(model, images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(small, images), expected, atol=1e-4 * scale, rtol=0)
    assert set(model.params) - set(small.params) == {p for p in model.params if "/kernel" in p}


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give one of rank, energy and macs"),
        ({"rank": 2, "energy": 0.5}, "give one of rank, energy and macs"),
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"energy": 1.5}, r"energy must be in \(0, 1\], got 1.5"),
        ({"macs": 1.0}, r"macs must be in \(0, 1\), got 1.0"),
        ({"rank": {"dense1": (2, 2)}}, r"dense1 needs 1 ranks >= 1, got \(2, 2\)"),
        (
            {"rank": {"danse": 2}},
            "pattern 'danse' matches no layer .*; the layers are: conv1, conv2",
        ),
        ({"energy": 0.5, "select": ["conv1", "x"]}, "pattern 'x' matches no layer"),
    ],
)
def test_illegal_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        hcjax.factorize(folded("lenet5")[0], **options)


def test_a_quantized_model_is_refused():
    model, images = folded("equinox")
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images))
    for quantized in (fake, hcjax.int8(fake)):
        with pytest.raises(ConfigError, match="factorize it before fake_quantize and int8"):
            hcjax.factorize(quantized, rank=2)
