"""Networks as C: the bits of the integer program in every build, floats near; a clean source."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.export.c import EMITTERS, c
from hcjax.export.c.engine import engine
from hcjax.export.c.memory import Life, plan
from hcjax.graph.ops import KINDS
from tests.draws import normal
from tests.graph.cutting import ALL, traced
from tests.graph.open_networks import OPEN
from tests.graph.test_coverage import MADE, network

CC = shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler")

BUILDS = {"native": ("-march=native",), "AVX2": ("-march=haswell",), "plain": ("-O1",)}
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-ffp-contract=off")


def some(names, kept):
    """Returns parameters of which those that are not kept are long."""
    return [n if n in kept else pytest.param(n, marks=pytest.mark.long) for n in names]


# kinds that no form in C is known of
NONE = (
    "bessel_i0e", "bessel_i1e", "clz", "cond", "cumlogsumexp", "digamma", "erf_inv",
    "population_count", "reduce_precision", "scan", "shift_right_logical",
)  # fmt: skip


def of(name):
    model, images = traced(name, True)
    return hcjax.int8(model, hcjax.calibrate(model, images)), images


def check(model, inputs, flags=("-march=native", "-O1")):
    """Asserts that the C program's outputs are those of the network."""
    true = jax.tree.map(np.asarray, jax.jit(model.apply)(model.params, *inputs))
    found = engine(model, flags=flags)(*jax.tree.map(np.asarray, inputs))
    integers = any(op.kind == "quantize" for op in model.graph.ops)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        if integers and not model.floats:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.ptp(b), 1e-30))


@pytest.mark.parametrize("build", ["native", "plain"])
@pytest.mark.parametrize("name", ["seed_cnn_tiny", "gated"])
def test_integers_have_the_bits_of_int8(name, build):
    model, images = of(name)
    assert not model.floats
    check(model, (images,), BUILDS[build])


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", some(ALL, ("lenet5", "haiku mobilenet")))
def test_every_network_has_the_bits_of_int8(name, build):
    model, images = of(name)
    check(model, (images,), BUILDS[build])


@pytest.mark.slow
@pytest.mark.parametrize("name", some(ALL, ("dense",)))
def test_networks_in_float(name):
    model, images = traced(name, True)
    check(model, (images,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", some(sorted(set(OPEN) - {"lstm, a loop"}), ("transformer", "detector"))
)
def test_any_inputs_and_outputs(name):
    apply, params, inputs = OPEN[name]()
    model = hcjax.fold(hcjax.trace(apply, params, *inputs))
    check(model, inputs)
    check(hcjax.int8(model, hcjax.calibrate(model, *inputs, method="minmax")), inputs)


TRIED = sorted(set(KINDS) - MADE - {"convert_element_type"})
LONG = {kind for i, kind in enumerate(TRIED) if i % 8 and kind not in NONE}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.long) if k in LONG else k for k in TRIED]
)
def test_every_kind_of_op_is_right_or_refused_by_name(kind):
    apply, params, images = network(kind)
    model = hcjax.fold(hcjax.trace(apply, params, images))
    if kind in NONE:
        with pytest.raises(ConfigError, match=f"C cannot be written: it has no form of .*{kind}"):
            c(model)
        return
    check(model, (images,))
    check(hcjax.int8(model, hcjax.calibrate(model, images, method="minmax")), (images,))


def test_an_emitter_is_of_a_kind_that_there_is():
    assert set(EMITTERS) - {"expand_dims"} <= set(KINDS)
    assert not set(NONE) & set(EMITTERS)


@pytest.mark.parametrize("flags", [("-march=native",), ()])
def test_the_source_is_clean(tmp_path, flags):
    model, _ = of("gated")
    for name, text in c(model).files.items():
        (tmp_path / name).write_text(text)
    command = [CC, *STRICT, *flags, "-c", "network.c"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not run.returncode, run.stderr
    assert not run.stderr
    text = c(model).files["network.c"]
    assert "malloc" not in text and "static int" not in text.split("void network_run")[1]


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "network.h"
int main(void) {{
  network_context *context = malloc(sizeof *context);
  float *x = malloc({given} * sizeof *x), *y = malloc({count} * sizeof *y);
  if (fread(x, sizeof *x, {given}, stdin) != {given}) return 1;
  network_batch(context, x, y, {n});
  fwrite(y, sizeof *y, {count}, stdout);
  free(context); free(x); free(y);
  return 0;
}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("-march=native",), ("-march=haswell",), ()])
@pytest.mark.parametrize("name", some(("lenet5", "resnet_tiny", "gated"), ("gated",)))
def test_sanitizers_find_nothing(tmp_path, name, flags):
    model, images = of(name)
    true = np.asarray(jax.jit(model.apply)(model.params, images))
    for file, text in c(model).files.items():
        (tmp_path / file).write_text(text)
    sizes = {"given": images.size, "count": true.size, "n": len(images)}
    (tmp_path / "main.c").write_text(MAIN.format(**sizes))
    command = [CC, "-std=c11", "-O1", "-g", "-fsanitize=address,undefined", *flags]
    command += ["-fno-sanitize-recover=all", "-ffp-contract=off", "network.c", "main.c", "-lm"]
    subprocess.run([*command, "-o", "tried"], cwd=tmp_path, check=True)
    given = np.asarray(images, np.float32).tobytes()
    run = subprocess.run([tmp_path / "tried"], input=given, capture_output=True)
    assert not run.returncode, run.stderr.decode()
    np.testing.assert_array_equal(np.frombuffer(run.stdout, np.float32).reshape(true.shape), true)


def test_threads_share_nothing():
    model, images = of("seed_cnn_tiny")
    many = np.concatenate([np.asarray(images)] * 40)
    program = engine(model, threads=2, flags=BUILDS["plain"])
    true = program(many)
    np.testing.assert_array_equal(true[: len(images)], engine(model, flags=BUILDS["plain"])(images))
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(program, [many] * 6):
            np.testing.assert_array_equal(found, true)


def test_what_is_no_number_becomes_what_int8_makes_of_it():
    def apply(p, x):
        return jnp.maximum(x @ p["w"], 0)

    x = jnp.asarray(np.linspace(-1, 1, 12).reshape(4, 3), jnp.float32)
    model = hcjax.trace(apply, {"w": jnp.asarray([[1.0, 2], [-1, 0.5], [0.3, -2]])}, x)
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    odd = jnp.asarray([[jnp.nan, 1, 2], [jnp.inf, -jnp.inf, 0], [1e38, -1e-40, 3]], jnp.float32)
    check(small, (odd,), BUILDS["plain"])


def test_arrays_that_live_together_are_apart():
    rng = np.random.default_rng(0)
    lives = {}
    for i in range(40):
        first = int(rng.integers(0, 30))
        lives[str(i)] = Life(int(rng.integers(1, 900)), first, first + int(rng.integers(0, 6)))
    offsets, size = plan(lives)
    for a, one in lives.items():
        assert offsets[a] % 64 == 0 and offsets[a] + one.size <= size
        for b, other in lives.items():
            together = a < b and one.first <= other.last and other.first <= one.last
            apart = offsets[a] + one.size <= offsets[b] or offsets[b] + other.size <= offsets[a]
            assert apart or not together
    assert size < sum(one.size for one in lives.values()) / 2


def test_arrays_may_have_any_names():
    names = ("int", "x0", "v2", "a/b", "a_b", "a b", "memory", "größe", "*/")
    inputs = {name: normal(2, 3, seed=i) for i, name in enumerate(names)}
    apply = lambda p, x: {name: x[name] * 2 + i for i, name in enumerate(names)}
    check(hcjax.trace(apply, {}, inputs), (inputs,))


def residual(read):
    """Returns a network in integers with a sum of a convolution and what `read` says."""
    draw = np.random.default_rng(0).normal
    kernels = [jnp.asarray(draw(size=(3, 3, i, 4)) / 3, jnp.float32) for i in (1, 4, 4, 4)]
    images = jnp.asarray(draw(size=(16, 9, 7, 1)), jnp.float32)

    def apply(p, x):
        def layer(x, k):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)

        first = jax.nn.relu(layer(x, p[0]))
        second = first if read == "its own input" else jax.nn.relu(layer(first, p[1]))
        total = jax.nn.relu(layer(second, p[2]) + first)
        if read == "again":
            return layer(total, p[3]) + first
        return layer(total, p[3])

    model = hcjax.trace(apply, kernels, images[:1])
    return hcjax.int8(model, hcjax.calibrate(model, images)), images


@pytest.mark.slow
def test_a_sum_takes_the_place_of_what_nothing_reads_again():
    memory = {}
    for read in ("the last time", "again", "its own input"):
        model, images = residual(read)
        assert not model.floats
        check(model, (images,), BUILDS["plain"])
        memory[read] = c(model).memory
    assert memory["the last time"] < memory["again"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, shape, most",
    [
        ("lenet5", (28, 28, 1), 23_000),
        pytest.param("resnet20", (32, 32, 3), 45_000, marks=pytest.mark.long),
    ],
)
def test_little_memory_is_needed(name, shape, most):
    network = hcjax.models.create(name, input_shape=shape, num_classes=10)
    params, state = network.init(jax.random.key(0))
    images = jnp.zeros((2, *shape))
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, images))
    assert c(hcjax.int8(model, hcjax.calibrate(model, images + 1))).memory <= most


def test_a_name_that_is_none_in_c_and_a_dtype_that_c_has_not_are_refused():
    model, _ = of("seed_cnn_tiny")
    with pytest.raises(ValueError, match="identifier of C"):
        c(model, name="2nd")
    x = jnp.ones((2, 3), jnp.bfloat16)
    half = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2), jnp.bfloat16)}, x)
    with pytest.raises(ConfigError, match="an array of bfloat16; legal: float32"):
        c(half)
