"""calibrate, fake_quantize and int8: one arithmetic, checked against plain NumPy bit for bit."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.graph.ops import fixed_point
from hcjax.graph.qtensor import QTensor, check
from tests.draws import normal
from tests.graph import reference
from tests.graph.networks import FROZEN, NETWORKS
from tests.tiny import ROOT


def folded(name, count=16):
    """Returns a folded network and random images."""
    apply, params, image = NETWORKS[name]()
    images = normal(count, *image.shape[1:], seed=1)
    return hcjax.fold(hcjax.trace(apply, params, image, frozen=FROZEN.get(name, ""))), images


def logits(model, images):
    return np.asarray(jax.jit(model.apply)(model.params, images))


MANY_OPS = ("haiku resnet", "haiku mobilenet", "dense", "resnet_tiny", "equinox")
FEW = [pytest.param(n, marks=pytest.mark.slow) if n in MANY_OPS else n for n in NETWORKS]


@pytest.mark.parametrize("name", FEW)
def test_int8_is_the_fake_quantized_network_and_the_numpy_reference_bit_for_bit(name):
    model, images = folded(name)
    expected = logits(model, images)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"))
    small = hcjax.int8(fake)
    got = logits(small, images)
    assert np.abs(got - expected).max() < 0.03 * np.ptp(expected)
    assert np.unique(got).size > 10
    np.testing.assert_array_equal(got, logits(fake, images))
    np.testing.assert_array_equal(got, reference.logits(small, images))
    if name == "nnx":  # one by one, without a compiler over all of it
        np.testing.assert_array_equal(got[:3], small.apply(small.params, images[:3]))
    assert small.floats == ()
    kernels = [leaf for leaf in small.params.values() if isinstance(leaf, QTensor)]
    assert len(kernels) > 1
    for kernel in kernels:
        check(kernel)
    for path, leaf in small.params.items():
        floating = jnp.issubdtype(jax.tree.leaves(leaf)[0].dtype, jnp.floating)
        assert not floating or leaf.ndim < 2, path


@pytest.mark.parametrize("bits, activation_bits", [(4, 4), (2, 8), (8, 3), ({"conv.*": 4}, 8)])
def test_fewer_bits_are_the_same_in_both_forms(bits, activation_bits):
    model, images = folded("lenet5", 8)
    options = {"bits": bits, "activation_bits": activation_bits}
    ranges = hcjax.calibrate(model, images)
    small = hcjax.int8(model, ranges, **options)
    fake = hcjax.fake_quantize(model, ranges, **options)
    got = logits(small, images)
    np.testing.assert_array_equal(got, logits(fake, images))
    np.testing.assert_array_equal(got, reference.logits(small, images))
    found = {path: q.bits for path, q in small.params.items() if isinstance(q, QTensor)}
    expected = bits if isinstance(bits, int) else 4
    assert found["conv1/kernel"] == expected
    assert found["dense1/kernel"] == (bits if isinstance(bits, int) else 8)
    check(small.params["conv1/kernel"])


def test_a_layer_may_read_fewer_bits_than_a_residual_sum_keeps():
    def apply(p, x):
        h = jax.nn.relu(x @ p["w1"])
        h = h + h @ p["w2"]
        return (h + h @ p["w3"]) @ p["w4"]

    params = {f"w{n}": normal(16, 16, seed=n) / 4 for n in range(1, 5)}
    images = normal(64, 16)
    model = hcjax.trace(apply, params, images[:1])
    ranges, expected = hcjax.calibrate(model, images), logits(model, images)
    error = {}
    for widths in ((8, 8), (8, 4), (4, 8), (4, 4)):
        options = {"activation_bits": widths[0], "input_bits": {"w[23]": widths[1]}}
        fake = hcjax.fake_quantize(model, ranges, **options)
        small = hcjax.int8(model, ranges, **options)
        got = logits(small, images)
        np.testing.assert_array_equal(got, logits(fake, images))
        np.testing.assert_array_equal(got, reference.logits(small, images))
        again = [path for path in fake.paths if path.endswith("input_step")]
        assert again == (["w2/input_step", "w3/input_step"] if widths == (8, 4) else [])
        error[widths] = np.square(got - expected).mean()
    assert error[8, 8] < error[8, 4] < error[4, 8] == error[4, 4]


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("haiku mobilenet", "resnet_tiny")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "linen", "dense", *SLOW])
def test_one_scale_per_kernel_is_the_same_in_both_forms(name):
    model, images = folded(name, 8)
    ranges = hcjax.calibrate(model, images, method="minmax")
    fake = hcjax.fake_quantize(model, ranges, granularity="tensor")
    small = hcjax.int8(fake)
    got, expected = logits(small, images), logits(model, images)
    np.testing.assert_array_equal(got, logits(fake, images))
    np.testing.assert_array_equal(got, reference.logits(small, images))
    assert np.abs(got - expected).max() < 0.1 * np.ptp(expected) and np.unique(got).size > 10
    kernels = {p: q for p, q in small.params.items() if isinstance(q, QTensor)}
    assert len(kernels) > 1
    for path, q in kernels.items():
        check(q)
        assert q.axis is None and q.scale.shape == () and fake.params[path].shape == q.shape
        assert int(np.abs(q.values).max()) == 127
    steps = [p for p in fake.params if p.endswith("kernel_step")]
    assert len(steps) == len(kernels) and all(fake.params[p].shape == () for p in steps)
    if name == "lenet5":  # of which every rounding is one of a layer with a bias
        for path, leaf in small.params.items():
            if path.endswith(("multiplier", "shift", "scale")):
                assert leaf.shape == (), path
        assert small.params["conv2/offset"].shape == (1, 1, 1, 50)
    same = hcjax.int8(model, ranges, granularity="tensor")
    jax.tree.map(np.testing.assert_array_equal, same.params, small.params)
    blob = hcjax.pack(small)
    assert len(blob) < len(hcjax.pack(hcjax.int8(model, ranges)))
    np.testing.assert_array_equal(logits(hcjax.unpack(blob), images), got)


@pytest.mark.slow
def test_the_scale_of_a_kernel_trains():
    model, images = folded("lenet5", 4)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images), granularity="tensor", bits=4)
    expected = logits(model, images)
    error = lambda p: ((fake.apply(p, images) - expected) ** 2).sum()
    gradient = jax.jit(jax.grad(error))(fake.params)
    assert gradient["dense1/kernel_step"].shape == ()
    assert abs(float(gradient["dense1/kernel_step"])) > 0
    assert np.abs(gradient["dense1/kernel"]).max() > 0


@pytest.mark.slow
def test_straight_through_gradients_are_about_those_of_the_float_network():
    model, images = folded("resnet_tiny")
    labels = jnp.arange(len(images)) % 10
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"))

    def gradients(m):
        def loss(p):
            scaled = m.apply(p, images) / 100
            return -jnp.take_along_axis(jax.nn.log_softmax(scaled), labels[:, None], 1).mean()

        return jax.jit(jax.grad(loss))(m.params)

    theirs, ours = gradients(model), gradients(fake)
    assert set(theirs) < set(ours)
    for path, expected in theirs.items():
        a, b = np.ravel(expected), np.ravel(ours[path])
        assert a @ b > 0.95 * np.linalg.norm(a) * np.linalg.norm(b), path
        assert 0.8 < np.linalg.norm(b) / np.linalg.norm(a) < 1.25, path
    steps = [path for path in ours if path.endswith("step")]
    assert len(steps) > 5 and all(np.abs(ours[path]).max() > 0 for path in steps)


def test_a_scale_learns_to_reduce_the_error():
    model = hcjax.trace(lambda p, x: x @ p, jnp.eye(4), jnp.ones((1, 4)))
    images = normal(64, 4)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"), bits=3)
    params = fake.params | {"images/step": fake.params["images/step"] * 3}
    error = jax.jit(jax.value_and_grad(lambda p: ((fake.apply(p, images) - images) ** 2).mean()))
    first = error(params)[0]
    for _ in range(100):
        params["images/step"] -= 0.3 * error(params)[1]["images/step"]
    assert error(params)[0] < first / 2


def test_relu_has_no_gradient_at_zero():
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    params = {"a": jnp.zeros((3, 4)), "b": jnp.ones((4, 2))}
    images = jnp.ones((2, 3))
    model = hcjax.trace(apply, params, images)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images))
    gradient = jax.jit(jax.grad(lambda p: fake.apply(p, images).sum()))(fake.params)
    assert (gradient["a"] == 0).all()


def test_sums_beyond_float32_are_exact_in_both_forms():
    rng = np.random.default_rng(0)
    params = jnp.asarray(np.sign(rng.normal(size=(3000, 3))) * rng.uniform(0.9, 1, (3000, 3)))
    images = jnp.sign(params.T[:2]) + 0.01 * rng.normal(size=(2, 3000)).astype(np.float32)
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["w"]) @ jnp.eye(3), {"w": params}, images)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"))
    small = hcjax.int8(fake)
    assert max(int(np.abs(_sums(small, images)).max()), 0) > 2**24
    np.testing.assert_array_equal(logits(small, images), logits(fake, images))
    np.testing.assert_array_equal(logits(small, images), reference.logits(small, images))
    gradient = jax.jit(jax.grad(lambda p: fake.apply(p, images).sum()))(fake.params)
    assert np.abs(gradient["w"]).max() > 0


def _sums(model, images):
    found = []
    hcjax.graph.run(
        model.graph,
        model.leaves(model.params),
        [images],
        visit=lambda n, v: found.append(v) if v.dtype == jnp.int32 else None,
    )
    return found[0]


def test_an_op_without_a_rule_stays_in_float_and_is_listed():
    def apply(p, x):
        y = jax.nn.relu(x @ p["a"])
        return jax.lax.cumlogsumexp(y, axis=1) @ p["b"]

    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(5, 6))), "b": jnp.asarray(rng.normal(size=(6, 3)))}
    images = jnp.asarray(rng.normal(size=(9, 5)))
    model = hcjax.trace(apply, params, images)
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    assert len(small.floats) == 1
    assert small.floats[0].startswith("cumlogsumexp ('N', 6) at test_int8.py:")
    expected = logits(model, images)
    assert np.abs(logits(small, images) - expected).max() < 0.05 * np.ptp(expected)
    assert isinstance(small.params["b"], QTensor)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_calibration_methods_keep_what_they_say(method):
    model = hcjax.trace(lambda p, x: x * p, jnp.ones(1), jnp.ones((1, 1)))
    rng = np.random.default_rng(0)
    images = np.concatenate([rng.normal(size=20_000), [100.0]])[:, None].astype(np.float32)
    ranges = hcjax.calibrate(model, images, method=method, percentile=99.9)
    scale, qmin, qmax = ranges.step(model.graph.inputs[0], 4)
    assert (qmin, qmax) == (-7, 7)
    width = scale * qmax
    rounded = np.clip(np.round(images / scale), qmin, qmax) * scale
    if method == "minmax":
        assert width == pytest.approx(100)
    elif method == "percentile":
        assert width == pytest.approx(np.quantile(np.abs(images), 0.999), abs=0.1)
    else:
        assert 1.5 < width < 8
        widest = np.clip(np.round(images / (100 / 7)), -7, 7) * 100 / 7
        assert np.abs(rounded - images)[:-1].mean() < np.abs(widest - images)[:-1].mean() / 2


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_no_method_clips_much_where_relu_makes_half_of_it_zero(method):
    model = hcjax.trace(lambda p, x: x * p, jnp.ones(1), jnp.ones((1, 1)))
    images = np.maximum(np.random.default_rng(0).normal(size=(20_000, 1)), 0).astype(np.float32)
    scale, qmin, qmax = hcjax.calibrate(model, images, method=method).step(model.graph.inputs[0], 8)
    assert (qmin, qmax) == (0, 127) and scale * qmax > 2.5


def test_the_batch_size_of_a_calibration_does_not_matter():
    model, images = folded("nnx", 10)
    once, thrice = (hcjax.calibrate(model, images, batch_size=n) for n in (10, 4))
    assert once.low == thrice.low and once.high == thrice.high
    assert all((once.counts[n] == thrice.counts[n]).all() for n in once.counts)


def test_bad_calls_say_what_is_wrong():
    model, images = folded("nnx", 2)
    ranges = hcjax.calibrate(model, images)
    with pytest.raises(TypeError, match=r"not quantized: give int8\(model, ranges\)"):
        hcjax.int8(model)
    with pytest.raises(ValueError, match="those of another model"):
        hcjax.fake_quantize(folded("nnx", 2)[0], ranges)
    with pytest.raises(ValueError, match="method must be one of mse, minmax"):
        hcjax.calibrate(model, images, method="max")
    with pytest.raises(ValueError, match="no images"):
        hcjax.calibrate(model, images[:0])
    with pytest.raises(ValueError, match=r"percentile must be in \(0, 100\], got 0"):
        hcjax.calibrate(model, images, percentile=0)
    with pytest.raises(ValueError, match="an image is not finite"):
        hcjax.calibrate(model, images * jnp.inf)
    with pytest.raises(ValueError, match="granularity must be channel or tensor, got 'layer'"):
        hcjax.fake_quantize(model, ranges, granularity="layer")
    with pytest.raises(ValueError, match="bits must be 2 to 8, got 9"):
        hcjax.fake_quantize(model, ranges, bits=9)
    with pytest.raises(hcjax.errors.ConfigError, match="input_bits: 'conv7' matches no layer"):
        hcjax.fake_quantize(model, ranges, input_bits={"conv7": 4})
    wide = hcjax.trace(
        lambda p, x: x @ p["w"] @ jnp.ones((1, 1)),
        {"w": jnp.ones((70_000, 1))},
        jnp.ones((1, 70_000)),
    )
    with pytest.raises(
        ValueError, match=r"^w: an accumulator of up to 1,137,920,000 has more than 30 bits"
    ):
        hcjax.fake_quantize(wide, hcjax.calibrate(wide, jnp.ones((1, 70_000))))


def test_requantization_rounds_to_the_nearest_for_any_scales():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 4))
        bounds = [int(2 ** rng.uniform(7, 28)) for _ in range(count)]
        scales = [np.float32(rng.choice([-1, 1]) * 2 ** rng.uniform(-40, 10)) for _ in bounds]
        offset = (
            np.float32(rng.normal() * 2 ** rng.uniform(-10, 20)) if rng.random() < 0.7 else None
        )
        reach = sum(b * abs(float(s)) for b, s in zip(bounds, scales, strict=True))
        step = np.float32(max(reach, abs(offset or 0.0)) / 2 ** rng.uniform(3, 14))
        fixed = fixed_point.multipliers(scales, bounds, offset, step)
        assert int(fixed.room) >= 0
        terms = [rng.integers(-b, b + 1, 50).astype(np.int32) for b in bounds]
        for t, b in zip(terms, bounds, strict=True):
            t[:2] = b, -b
        got = fixed_point.requantize(
            [jnp.asarray(t) for t in terms], bounds, fixed, -(2**20), 2**20
        )
        real = sum(t.astype(np.float64) * float(s) for t, s in zip(terms, scales, strict=True))
        real = (real + float(offset or 0.0)) / float(step)
        assert np.abs(got - real).max() <= 0.5 + 2.0 ** -int(fixed.shift) * (count + 1) + 1e-2


def test_a_sum_that_could_overflow_is_an_error_and_not_a_wrong_number():
    model, images = folded("nnx", 2)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images))
    path = next(p for p in fake.params if p.endswith("conv/step"))
    tiny = fake.replace(params=fake.params | {path: jnp.float32(1e-30)})
    with pytest.raises(ValueError, match="conv: its scale 1e-30 is so small that sums"):
        hcjax.int8(tiny)


def test_the_upper_half_of_a_product_is_the_same_in_halves():
    ends = [-(2**31), -(2**31) + 1, -65537, -65536, -65535, -1, 0, 1, 65535, 65536, 2**31 - 1]
    random = np.random.default_rng(0).integers(-(2**31), 2**31, 500)
    numbers = np.array([*ends, *random], np.int64)
    a, b = (x.ravel() for x in np.meshgrid(numbers, numbers))
    expected = (a * b) >> 32
    for multiply in (fixed_point.mulhi, fixed_point.in_halves):
        found = multiply(jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32))
        np.testing.assert_array_equal(found, expected)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
import hcjax
images = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
params = {"a": jnp.asarray(np.random.default_rng(1).normal(size=(6, 5)), jnp.float32)}
apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["a"].T
model = hcjax.trace(apply, params, images[:1])
small = hcjax.int8(model, hcjax.calibrate(model, images))
one = small.apply(small.params, images)
split = jax.pmap(small.apply, in_axes=(None, 0))(small.params, images.reshape(4, 2, 6))
assert jax.device_count() == 4 and (np.asarray(split).reshape(8, 6) == np.asarray(one)).all()
"""


def test_integers_are_the_same_on_several_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | flags | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SHARDED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
