"""Compiler options: probed, used only where they are safe, and the same results with them."""

import contextlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hcjax.accelerate import compiler
from hcjax.native import onednn
from hcjax.train import parallel


def layer(x, k):
    return lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.fixture(autouse=True)
def without_native(monkeypatch):
    """These tests are of what is done where no native kernels can be had."""
    monkeypatch.setattr(onednn, "missing", lambda: "not in this test")


def test_options_that_the_compiler_refuses_are_not_used(monkeypatch):
    monkeypatch.setattr(compiler, "OPTIONS", {"xla_no_such_option": True})
    compiler.probed.cache_clear()
    try:
        assert compiler.probed() == {}
        assert "XLA's own kernels" in compiler.describe(True)
    finally:
        compiler.probed.cache_clear()


@pytest.fixture
def cache_folder(tmp_path):
    """jax's persistent cache, turned on in a folder of its own; the compiler asked anew."""
    kept = jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compiler.probed.cache_clear()
    yield tmp_path
    jax.config.update("jax_enable_compilation_cache", kept[0])
    jax.config.update("jax_compilation_cache_dir", kept[1])
    compiler.probed.cache_clear()


def test_the_answer_is_kept_beside_the_compiled_programs(cache_folder, monkeypatch):
    found = compiler.probed()
    assert (cache_folder / "compiler-options.json").exists()
    compiler.probed.cache_clear()
    monkeypatch.setattr(compiler, "_probe", lambda: pytest.fail("probed again"))
    assert compiler.probed() == found


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"options": {"another": true}, "work": true}', '{"work": 1}',
        json.dumps({"options": compiler.OPTIONS, "machine": "another", "work": True}),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_to_this_question_is_asked_again(cache_folder, monkeypatch, text):
    file = cache_folder / "compiler-options.json"
    file.write_text(text)
    monkeypatch.setattr(compiler, "_probe", lambda: False)
    assert compiler.probed() == {}
    assert compiler._cached(file) is False


def test_the_first_lines_of_a_run_say_how_steps_are_compiled():
    assert "accelerate is off" in compiler.describe(False)
    assert "rewritten by hcjax.accelerate for cpu" in compiler.describe(True)


def test_only_a_loop_with_a_convolution_is_a_loop_over_convolutions():
    x, k = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 3))
    scanned = lambda x, k: lax.scan(lambda c, _: (layer(c, k), None), x, None, length=2)[0]
    found = [
        compiler.loops_over_convolutions(jax.make_jaxpr(f)(x, k))
        for f in (layer, scanned, lambda x, k: lax.fori_loop(0, 2, lambda i, c: c + 1, x))
    ]
    assert found == [False, True, False]


@pytest.mark.parametrize("repeat", [False, True])
def test_a_compiled_step_is_traced_once_and_gives_the_same(repeat):
    traces = []

    def step(state, batch, key):
        traces.append(1)
        del key
        x = batch["inputs"]
        if repeat:
            x = lax.scan(lambda c, _: (layer(c, state) / 8, None), x, None, length=2)[0]
        return state - 0.01 * jax.grad(lambda k: (layer(x, k) ** 2).sum())(state), {"x": x.sum()}

    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 8, 8, 3)), jnp.float32)
    k = np.random.default_rng(1).standard_normal((3, 3, 3, 3)).astype(np.float32)
    results = []
    for accelerate in (False, True):
        traces.clear()
        run, state = parallel.train(step, accelerate=accelerate), k
        for _ in range(3):
            state, _ = run(state, {"inputs": x}, jax.random.key(0))
        results.append(np.asarray(state))
    assert len(traces) <= 2
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["jit", "tune"])
@pytest.mark.parametrize("repeat", [False, True])
def test_what_is_compiled_gives_the_same(way, repeat):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 8, 8, 3)), jnp.float32)
    k = jnp.asarray(rng.standard_normal((3, 3, 3, 3)), jnp.float32)

    def fn(x, k):
        if repeat:
            return lax.scan(lambda c, _: (layer(c, k) / 8, None), x, None, length=2)[0]
        return lax.reduce_window(
            layer(x, k), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )

    fast = compiler.jit(fn) if way == "jit" else compiler.tune(fn, x, k, seconds=0.01)
    for _ in range(2):
        np.testing.assert_allclose(fast(x, k), fn(x, k), rtol=1e-4, atol=1e-4)


def test_nothing_is_kept_where_the_cache_is_no_folder_here(cache_folder, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/cache")
    monkeypatch.chdir(cache_folder)
    compiler.probed.cache_clear()
    compiler.probed()
    assert not list(cache_folder.iterdir())


def test_which_way_is_decided_for_each_shape_and_keywords_pass():
    """One image goes through a plain layer, several through a loop, where the options hang."""

    def fn(x, *, k):
        if len(x) == 1:
            return layer(x, k)
        return lax.map(lambda one: layer(one[None], k)[0], x)

    rng = np.random.default_rng(0)
    k = jnp.asarray(rng.standard_normal((3, 3, 3, 3)), jnp.float32)
    fast = compiler.jit(fn)
    for count in (1, 4, 1):
        x = jnp.asarray(rng.standard_normal((count, 8, 8, 3)), jnp.float32)
        np.testing.assert_allclose(fast(x, k=k), fn(x, k=k), rtol=1e-4, atol=1e-4)


def test_a_loop_is_written_for_the_compiler_that_it_gets(monkeypatch):
    asked = []

    def rewrite(fn, platform=None):
        return lambda *args: asked.append(platform) or fn(*args)

    monkeypatch.setattr(compiler, "accelerate", rewrite)
    monkeypatch.setattr(compiler, "options", lambda: {"xla_cpu_enable_fast_math": False})
    x, k = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 3))
    loop = compiler.compiled(lambda x, k: lax.map(lambda one: layer(one[None], k), x))
    loop(x, k)
    assert asked == ["cpu+onednn", None]  # read with one table, compiled with the other


@pytest.mark.parametrize("slow", ["cpu+fused", pytest.param(None, marks=pytest.mark.slow)])
def test_tuning_takes_the_way_that_is_fastest(monkeypatch, slow):
    """One way is slowed down by host calls; the other must be taken."""
    asked = []

    def wait(x):
        asked.append(1)
        time.sleep(0.02)
        return x

    def rewrite(fn, platform=None):
        shape = jax.ShapeDtypeStruct((2,), jnp.float32)
        return fn if platform != slow else lambda x: jax.pure_callback(wait, shape, fn(x))

    monkeypatch.setattr(compiler, "accelerate", rewrite)
    monkeypatch.setattr(compiler, "options", lambda: {})
    fast = compiler.tune(lambda x: x + 1, jnp.ones(2), seconds=0.02)
    assert asked
    asked.clear()
    assert fast(jnp.ones(2)).tolist() == [2, 2] and not asked


def test_what_cannot_be_serialised_is_kept_out_of_the_cache_and_the_setting_comes_back():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    with pytest.raises(ValueError, match="inside"), compiler.uncached():
        assert getattr(jax.config, name) > 1e6  # seconds: nothing takes as long, so none is written
        raise ValueError("inside")
    assert getattr(jax.config, name) == before


def test_only_programs_with_options_are_kept_out(monkeypatch):
    if not compiler.probed():
        pytest.skip("no compiler options here")
    entered, uncached = [], compiler.uncached

    @contextlib.contextmanager
    def recorded():
        entered.append(True)
        with uncached():
            yield

    monkeypatch.setattr(compiler, "uncached", recorded)
    k = jnp.ones((3, 3, 2, 2))
    compiler.compiled(lambda x: layer(x, k))(jnp.ones((1, 8, 8, 2)))
    assert entered == [True]
    loop = lambda x: jax.lax.fori_loop(0, 3, lambda i, x: layer(x, k), x)
    compiler.compiled(loop)(jnp.ones((1, 8, 8, 2)))
    assert entered == [True]
