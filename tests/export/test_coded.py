"""Weights of C as a stream of bits: what it holds, equal bits in every build, a clean source."""

import functools
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.export.c import c
from hcjax.export.c.coded import code
from hcjax.export.c.engine import built
from tests.export import shipping
from tests.export.test_c import BUILDS, CC, MAIN, STRICT

pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler")


def drawn(*shape, part, seed=0, values=127):
    rng = np.random.default_rng(seed)
    found = rng.integers(-values, values + 1, shape) * (rng.random(shape) < part)
    return found.astype(np.int8)


def decoded(found, size):
    """Returns the weights of a stream, read bit by bit as the words of `code` say."""
    bits = iter(np.unpackbits(found.stream, bitorder="little").tolist())

    def number(k):
        n = 0
        while next(bits):
            n += 1
        for _ in range(k):
            n = 2 * n + next(bits)
        return n

    flat, at = np.zeros(size, np.int8), -1
    for _ in range(found.count):
        at += 1 if found.zeros < 0 else 1 + number(found.zeros)
        flat[at] = found.values[number(found.place)]
    assert not any(bits)  # what fills the last byte
    return flat


KERNELS = {
    "few": drawn(30, 100, part=0.02),
    "some": drawn(30, 100, part=0.3),
    "few values, no zeros": np.where(drawn(20, 50, part=0.5) > 0, 3, -5).astype(np.int8),
    "shared values": np.array([-90, 0, 4, 55, 127], np.int8)[drawn(40, 40, part=1, values=2) + 2],
    "none": np.zeros((8, 30), np.int8),
    "outputs of zeros": drawn(30, 100, part=0.1) * (np.arange(30) % 3 == 1)[:, None].astype("b"),
    "the last alone": np.pad(np.full((1, 1), -128, np.int8), ((7, 0), (99, 0))),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_stream_holds_the_weights(name):
    kernel = KERNELS[name]
    found = code(kernel)
    np.testing.assert_array_equal(decoded(found, kernel.size), kernel.reshape(-1))
    assert found.stream.nbytes + found.values.nbytes <= 0.75 * kernel.nbytes
    assert (found.zeros < 0) == (name in ("few values, no zeros", "shared values"))


def test_what_a_stream_makes_little_smaller_stays_as_it_is():
    assert code(drawn(30, 100, part=1)) is None
    assert code(drawn(30, 100, part=0.9, values=63)) is None


@functools.cache
def sparse(kind):
    """Returns a network in integers with many weights of 0, and images."""
    rng = np.random.default_rng(1)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) * (rng.random(shape) < 0.15), jnp.float32)

    numbers = ("NHWC", "HWIO", "NHWC")
    images = jnp.asarray(rng.uniform(0, 1, (16, 12, 9, 2)), jnp.float32)
    p = {"a": kernel(3, 5, 2, 12), "b": kernel(3, 3, 12, 12), "c": kernel(12, 21)}
    p |= {"bias": jnp.asarray(rng.normal(size=12), jnp.float32)}

    def layer(x, k, stride=(1, 1), padding="SAME"):
        return lax.conv_general_dilated(x, k, stride, padding, dimension_numbers=numbers)

    def pool(x, window):
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

    def apply(p, x):
        first = jax.nn.relu(layer(x, p["a"], (2, 1)) + p["bias"])
        if kind == "strides, and rows":  # a dense layer on every pixel
            return layer(first, p["b"], (1, 3), "VALID") @ p["c"]
        if kind == "a sum":
            first = jax.nn.relu(layer(first, p["b"]) + first)
        if kind == "a pool":
            first = pool(layer(first, p["b"]), (1, 3, 2, 1))
        return first.mean((1, 2)) @ p["c"]

    model = hcjax.trace(apply, p, images[:1])
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    assert not small.floats
    return small, images


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strides, and rows", "a sum", "a pool"])
def test_coded_weights_give_the_bits_of_int8(kind):
    model, images = sparse(kind)
    true = np.asarray(jax.jit(model.apply)(model.params, images))
    source = c(model, weights="coded")
    text = source.files["network.c"]
    assert text.count("static const coded") == 3 and "products(n" not in text
    assert len(text) < len(c(model).files["network.c"])
    for build in BUILDS.values():
        run = built(source.files, model.inputs, model.outputs, flags=build)
        np.testing.assert_array_equal(run.run([images])[0], true)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strides, and rows", "a pool"])
def test_the_coded_source_is_clean(kind, tmp_path):
    model, images = sparse(kind)
    true = np.asarray(jax.jit(model.apply)(model.params, images))
    for file, text in c(model, weights="coded").files.items():
        (tmp_path / file).write_text(text)
    sizes = {"given": images.size, "count": true.size, "n": len(images)}
    (tmp_path / "main.c").write_text(MAIN.format(**sizes))
    subprocess.run([CC, *STRICT, "-O3", "-c", "network.c"], cwd=tmp_path, check=True)
    command = [CC, "-std=c11", "-O1", "-fsanitize=address,undefined", "-ffp-contract=off"]
    command += ["-fno-sanitize-recover=all", "network.c", "main.c", "-lm", "-o", "tried"]
    subprocess.run(command, cwd=tmp_path, check=True)
    given = np.asarray(images).tobytes()
    run = subprocess.run([tmp_path / "tried"], input=given, capture_output=True)
    assert not run.returncode, run.stderr.decode()
    np.testing.assert_array_equal(np.frombuffer(run.stdout, np.float32).reshape(true.shape), true)


def test_weights_that_no_stream_makes_smaller_are_written_as_ever(tmp_path):
    _, model, images = shipping.dense()
    assert c(model, weights="coded").files == c(model).files
    facts = hcjax.export.write(model, tmp_path / "out", to=["c"], weights="coded", inputs=images)
    assert facts["artifacts"][0]["what"] == "C11, with network.h, weights coded"


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="unknown weights 'packed'; Legal: coded, plain"):
        c(shipping.dense()[1], weights="packed")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("size") is None, reason="there is no `size`")
def test_a_pruned_lenet_takes_few_bytes(tmp_path):
    """430,500 weights of which 3,000 are left, in 5 bits, no channel taken out."""
    network = hcjax.models.create("lenet5", input_shape=(28, 28, 1))
    params, state = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda w: w * (rng.random(w.shape) < 0.007), params)
    images = rng.uniform(0, 1, (64, 28, 28, 1)).astype(np.float32)
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, images[:1]))
    small = hcjax.int8(model, hcjax.calibrate(model, images), bits=5, granularity="tensor")
    source = c(small, weights="coded")
    for file, text in source.files.items():
        (tmp_path / file).write_text(text)
    subprocess.run([CC, "-std=c11", "-Os", "-c", "network.c"], cwd=tmp_path, check=True)
    command = ["size", "network.o"]
    run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert sum(map(int, run.stdout.split("\n")[1].split()[:3])) <= 12_000
    assert source.memory <= 8_000
