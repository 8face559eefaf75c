"""The bits of a kernel's integers: right at integers, with the slope of what lies between."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax.graph.cost import kernels as count_kernels

IMAGES = jnp.ones((2, 6))


def fake_model(granularity="tensor", bits=4):
    rng = np.random.default_rng(0)
    params = {
        "a": {"w": jnp.asarray(rng.normal(size=(6, 8)), jnp.float32)},
        "b": {"w": jnp.asarray(rng.normal(size=(8, 3)) / 9, jnp.float32)},
    }
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]["w"]) @ p["b"]["w"], params, IMAGES)
    options = {"bits": bits, "activation_bits": 8, "granularity": granularity}
    return hcjax.fake_quantize(model, hcjax.calibrate(model, IMAGES), **options)


def code(integers, most):
    """An adaptive code's bits, of counts that began with one each."""
    counts = collections.Counter(np.asarray(integers).ravel().tolist())
    total = sum(counts.values()) + 2 * most + 1
    return -sum(n * math.log2((n + 1) / total) for n in counts.values())


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_at_integers_it_is_the_code_of_what_int8_stores(granularity, bits):
    fake = fake_model(granularity, bits)
    small = hcjax.int8(fake)
    stored = {k: v for k, v in small.params.items() if hasattr(v, "values") and v.values.ndim == 2}
    assert len(stored) == 2
    params = dict(fake.params)
    for path, kernel in stored.items():  # weights moved to where they are rounded to
        step = params[path.replace("/w", "/kernel_step")]
        params[path] = kernel.values * step
    expected = sum(code(kernel.values, 2 ** (bits - 1) - 1) for kernel in stored.values())
    np.testing.assert_allclose(hcjax.entropy(fake)(params), expected, rtol=1e-5)


def test_its_slope_is_that_of_finite_differences():
    fake = fake_model("channel")
    bits = jax.jit(hcjax.entropy(fake))
    slope = jax.grad(bits)(fake.params)["a/w"]
    step = np.asarray(fake.params["a/kernel_step"])
    v = np.asarray(fake.params["a/w"]) / step
    inside = (np.abs(v - np.round(v)) > 0.05) & (np.abs(v) < 6.9)
    for i, j in list(zip(*np.nonzero(inside), strict=True))[:12]:
        h = 0.02 * step[j]
        moved = [fake.params | {"a/w": fake.params["a/w"].at[i, j].add(s)} for s in (h, -h)]
        up, down = (float(bits(p)) for p in moved)
        np.testing.assert_allclose(slope[i, j], (up - down) / (2 * h), rtol=0.02, atol=0.05)


def test_descent_takes_bits_away():
    fake = fake_model()
    bits = hcjax.entropy(fake)
    tx = optax.sgd(1e-3)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(bits)(params), state)
        return optax.apply_updates(params, updates), state

    params, state = fake.params, tx.init(fake.params)
    for _ in range(100):
        params, state = step(params, state)
    sizes = [len(set(np.asarray(hcjax.int8(fake.replace(params=p)).params["a/w"].values).ravel()))
             for p in (fake.params, params)]  # fmt: skip
    assert sizes[1] < sizes[0]
    assert bits(params) < 0.8 * bits(fake.params)


def test_a_model_in_floats_is_refused():
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.ones((6, 2))}, IMAGES)
    with pytest.raises(ValueError, match="give a model from fake_quantize"):
        hcjax.entropy(model)


def words_model(**options):
    rng = np.random.default_rng(0)
    params = {
        "embed": {"table": jnp.asarray(rng.normal(size=(20, 6)), jnp.float32)},
        "last": {"w": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
    }
    words = jnp.asarray(rng.integers(0, 20, (8, 5)))
    model = hcjax.trace(lambda p, x: p["embed"]["table"][x].mean(1) @ p["last"]["w"], params, words)
    return hcjax.fake_quantize(model, hcjax.calibrate(model, words), **options), words


@pytest.mark.parametrize("options, bits", [
    ({"bits": 3, "activation_bits": 8}, 3),
    ({"bits": {"embed": 2}}, 2),
    ({"activation_bits": {"embed": 4}}, 4),  # its rows are activations too: the fewer of both
    ({"bits": 2, "activation_bits": 8, "floats": "embed"}, 8),  # stored so, computed with in float
])  # fmt: skip
def test_a_table_of_embeddings_has_the_bits_of_a_kernel_and_they_are_counted(options, bits):
    fake, words = words_model(**options)
    small = hcjax.int8(fake)
    table = small.params["embed/table"]
    assert table.bits == bits and abs(np.asarray(table.values)).max() == 2 ** (bits - 1) - 1
    assert any(text.startswith("gather") for text in small.floats) == ("floats" in options)
    back = hcjax.unpack(hcjax.pack(small))
    expected = jax.jit(fake.apply)(fake.params, words)
    for each in (small, back):
        np.testing.assert_array_equal(each.apply(each.params, words), expected)
    params = dict(fake.params)
    stored = [p for p in ("embed/table", "last/w")]
    for path in stored:
        q = small.params[path]
        params[path] = q.values * params[path.rsplit("/", 1)[0] + "/kernel_step"]
    total = sum(code(small.params[p].values, 2 ** (small.params[p].bits - 1) - 1) for p in stored)
    np.testing.assert_allclose(hcjax.entropy(fake)(params), total, rtol=1e-5)
    slope = jax.grad(lambda p: fake.apply(p, words).sum())(fake.params)
    assert float(abs(slope["embed/table"]).sum()) > 0 and slope["embed/kernel_step"] != 0


def test_a_table_of_embeddings_is_a_kernel_to_whatever_counts_or_chooses_bits():
    rng = np.random.default_rng(0)
    params = {
        "embed": {"table": jnp.asarray(rng.normal(size=(40, 6)), jnp.float32)},
        "last": {"w": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
    }
    words = jnp.asarray(rng.integers(0, 40, (64, 5)))
    for scaled in (False, True):  # the table itself, or what is computed from it

        def apply(p, x, scale=2.0 if scaled else None):
            table = p["embed"]["table"]
            return (table if scale is None else scale * table)[x].mean(1) @ p["last"]["w"]

        model = hcjax.trace(apply, params, words)
        labels = jax.jit(apply)(params, words).argmax(1)
        assert count_kernels(model)[0] == 40 * 6 + 6 * 3
        found = hcjax.sensitivity(model, words, labels, against="bits", levels=(8, 2))
        assert {row.path: row.size for row in found.rows} == {"embed/table": 240, "last/w": 18}
        assert set(hcjax.pick(found, size=0.25)) == {"embed", "last"}
        ranges = hcjax.calibrate(model, words)
        errors = hcjax.error_analysis(
            model, ranges, words, labels, bits={"embed": 2}, activation_bits=8
        )
        assert [(row.name, row.bits) for row in errors.rows] == [("embed", 2), ("last", 8)]
        assert errors.rows[0].drop > 0 == errors.rows[1].drop
        small = hcjax.int8(model, ranges, bits={"embed": 2}, activation_bits=8)
        assert count_kernels(small)[0] == 258


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_slope_of_a_scale_has_the_factor_that_it_has_in_the_network(granularity):
    fake = fake_model(granularity)
    wide = {"a/kernel_step": 1.3 * fake.params["a/kernel_step"]}  # so that no weight is at the end
    fake = fake.replace(params=fake.params | wide)
    bits, most = hcjax.entropy(fake), 2**3 - 1
    step = np.asarray(fake.params["a/kernel_step"], np.float64)
    slope = jax.grad(bits)(fake.params)["a/kernel_step"].reshape(-1)
    count = fake.params["a/w"].size // step.size
    for k in range(step.size):
        h = 1e-4 * step.flat[k]
        moved = [np.array(step, np.float32) for _ in range(2)]
        moved[0].flat[k], moved[1].flat[k] = step.flat[k] + h, step.flat[k] - h
        up, down = (float(bits(fake.params | {"a/kernel_step": jnp.asarray(s)})) for s in moved)
        expected = (up - down) / (2 * h) / math.sqrt(count * most)
        np.testing.assert_allclose(slope[k], expected, rtol=0.1, atol=0.2)
