"""oneDNN's kernels inside XLA's programs: under every transform, and what is said without them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hcjax.accelerate import accelerate, compiler
from hcjax.accelerate.accelerate import explanation
from hcjax.accelerate.rules import RULES, native
from hcjax.core import system
from hcjax.native import build, calls, onednn
from tests.accelerate.convolutions import chosen, integers

ROOT = Path(__file__).parents[2]
NATIVE = pytest.mark.skipif(bool(onednn.missing()), reason=f"no native kernels: {onednn.missing()}")
LAYOUT = ("NHWC", "HWIO", "NHWC")
X, K = integers((4, 9, 8, 16), "float32", 0), integers((3, 3, 16, 8), "float32", 1)


def layer(x, k, **how):
    how = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT} | how
    return lax.conv_general_dilated(x, k, **how)


def fast(fn):
    return accelerate(fn, platform="cpu+native")


def strided(x, k):
    return layer(x, k, window_strides=(2, 2))


@pytest.mark.skipif(
    not os.environ.get("CI")
    or os.environ.get("HCJAX_NATIVE") == "0"
    or (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="not a run of CI's, switched off, or a system without oneDNN's wheel",
)
def test_native_kernels_are_there_where_ci_runs():
    """Without a compiler all that is native would be skipped, and nobody would see it."""
    assert onednn.missing() == ""


@NATIVE
@pytest.mark.parametrize(
    "how",
    [
        {"window_strides": (2, 2)},
        {"window_strides": (2, 2), "padding": "VALID"},  # the last column is not read
        {"window_strides": (3, 2), "padding": [(2, 0), (1, 3)]},
        {"rhs_dilation": (2, 1)},
        {"feature_group_count": 4},
        {"feature_group_count": 16},
        {"feature_group_count": 16, "window_strides": (2, 2)},
    ],
)
def test_all_three_passes_of_a_layer_are_native_and_right(how):
    groups = how.get("feature_group_count", 1)
    k = integers((3, 3, 16 // groups, 32), "float32", 1)

    def passes(x, k):
        y, back = jax.vjp(lambda x, k: layer(x, k, **how), x, k)
        return y, back(y)

    assert all(name.startswith("native") for name in chosen(passes, X, k, table="cpu+native"))
    assert len(chosen(passes, X, k, table="cpu+native")) == 3
    jax.tree.map(np.testing.assert_array_equal, jax.jit(fast(passes))(X, k), passes(X, k))


@NATIVE
def test_a_strided_gradient_takes_the_faster_of_two_kernels():
    """By 2, 16 from 32 channels, it is 1.7 times as fast as the one that oneDNN names first."""
    order = (0, 1, 2, 3)
    window = onednn.window_of((2, 2), (1, 1), ((0, 1), (0, 1)), order, order, order, 1)
    sizes = ((8, 16, 16, 16), (3, 3, 16, 32), (8, 8, 8, 32))
    name = onednn.kernel_name("transposed", "float32", sizes, window)
    if "avx512" not in onednn.kernel_name("forward", "float32", sizes, window):
        pytest.skip("a processor without AVX-512")
    assert name == "jit:avx512_core"
    x, k = (integers(size, "float32", i) for i, size in enumerate(sizes[:2]))
    images = lambda x: jax.vjp(lambda x: strided(x, k), x)[1](strided(x, k))[0]
    np.testing.assert_array_equal(jax.jit(fast(images))(x), images(x))


@NATIVE
@pytest.mark.parametrize("layout", [("NCHW", "OIHW", "NCHW"), ("HWNC", "IHWO", "CNHW")])
def test_any_layout_is_read_in_place(layout):
    """No transpose stands before or after the call."""
    x, k = integers((8, 3, 8, 8), "float32", 0), integers((4, 3, 3, 3), "float32", 1)
    if layout[0] == "HWNC":
        x, k = integers((8, 8, 5, 3), "float32", 0), integers((3, 3, 3, 4), "float32", 1)

    def passes(x, k):
        y, back = jax.vjp(lambda x, k: layer(x, k, dimension_numbers=layout), x, k)
        return y, back(y)

    text = str(jax.make_jaxpr(fast(passes))(x, k))
    assert text.count("ffi_call[") == 3 and "transpose[" not in text
    jax.tree.map(np.testing.assert_array_equal, jax.jit(fast(passes))(x, k), passes(x, k))


@NATIVE
def test_three_axes_one_axis_and_bfloat16():
    """Of bfloat16 oneDNN has kernels with AVX-512 only; elsewhere the rule leaves it to XLA."""
    known = ["float32"] + ["bfloat16"] * ("avx512bw" in Path("/proc/cpuinfo").read_text().split())
    for shape, kernel, names in (
        ((2, 16, 6, 7, 8), (8, 16, 3, 3, 3), None),
        ((2, 9, 16), (5, 16, 8), ("NWC", "WIO", "NWC")),
    ):
        for dtype in ("float32", "bfloat16"):
            x, k = integers(shape, dtype, 0), integers(kernel, dtype, 1)
            strides = (1,) * (len(shape) - 2)
            run = lambda x, k, s=strides, n=names: lax.conv_general_dilated(
                x, k, s, "SAME", dimension_numbers=n
            )
            rules = chosen(run, x, k, table="cpu+native")
            assert ("native_convolution" in rules) == (dtype in known), (dtype, rules)
            np.testing.assert_array_equal(
                np.asarray(fast(run)(x, k), np.float32), np.asarray(run(x, k), np.float32)
            )


SLOW, LONG = pytest.mark.slow, ("hessian", "vmap of vmap of grad")
TRANSFORMS = {
    "grad": lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum(), (0, 1)),
    "jvp": lambda f: lambda x, k: jax.jvp(f, (x, k), (x, k)),
    "hessian": lambda f: lambda x, k: jax.hessian(
        lambda s: (f(x * s, k * s) ** 2).sum()
    )(jnp.float32(2)),
    "vmap": lambda f: lambda x, k: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x, x - 1]), k),
    "vmap of both": lambda f: lambda x, k: jax.vmap(f)(jnp.stack([x, -x]), jnp.stack([k, k + 1])),
    "vmap of vmap of grad": lambda f: lambda x, k: jax.vmap(
        jax.vmap(jax.grad(lambda *a: (f(*a) ** 2).sum(), 1), (None, 0)), (0, None)
    )(jnp.stack([x, 2 * x]), jnp.stack([k, k + 1, k - 1])),
    "scan": lambda f: lambda x, k: lax.scan(lambda c, k: (c + f(x, k).sum(), k), 0.0, k[None]),
    "cond": lambda f: lambda x, k: lax.cond(x[0, 0, 0, 0] > 9, lambda: f(x, k), lambda: f(-x, k)),
    "remat": lambda f: jax.grad(lambda *a: (jax.checkpoint(f)(*a) ** 2).sum(), (0, 1)),
    "while": lambda f: lambda x, k: lax.fori_loop(0, 3, lambda i, c: c + f(x * i, k).sum(), 0.0),
}  # fmt: skip


@NATIVE
@pytest.mark.parametrize("inside", [False, True], ids=["rewritten first", "rewritten last"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n in LONG else ()) for n in TRANSFORMS]
)
def test_every_transform_gives_the_same(name, inside):
    transform = TRANSFORMS[name]
    ours = fast(transform(strided)) if inside else transform(fast(strided))
    assert "ffi_call" in str(jax.make_jaxpr(ours)(X, K))
    theirs = transform(strided)(X, K)
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    jax.tree.map(check, jax.jit(ours)(X, K), theirs)


@NATIVE
def test_two_runs_have_the_same_bits():
    rng = np.random.default_rng(0)
    x, k = (rng.standard_normal(s).astype("f") for s in ((64, 16, 16, 16), (3, 3, 16, 16)))
    run = jax.jit(fast(jax.grad(lambda k: (layer(x, k) ** 3).sum())))
    first = np.asarray(run(k))
    for _ in range(5):
        np.testing.assert_array_equal(run(k), first)


@NATIVE
@pytest.mark.parametrize(
    ("why", "fn", "args"),
    [
        ("crops the image", lambda x, k: layer(x, k, padding=[(-1, 1), (0, 0)]), (X, K)),
        ("crops the image", lambda x, k: layer(x, k, padding=[(0, 0), (0, -1)]), (X, K)),
        ("of float16", layer, (X.astype("float16"), K.astype("float16"))),
        ("of int8, int8 to float32", lambda x, k: layer(x, k, preferred_element_type=jnp.float32),
         (X.astype("int8"), K.astype("int8"))),
        (
            "a precision of its own",
            lambda x, k: layer(x, k, precision="BF16_BF16_F32", preferred_element_type="float32"),
            (X, K),
        ),
        ("an empty array", layer, (X[:0], K)),
        ("batch groups", lambda x, k: layer(x, k, batch_group_count=2), (X, K)),
        ("4 spatial axes", lambda x, k: lax.conv_general_dilated(x, k, (1,) * 4, "SAME"),
         (jnp.ones((1, 2, 3, 3, 3, 3)), jnp.ones((2, 2, 1, 1, 1, 1)))),
    ],
)  # fmt: skip
def test_what_is_not_native_says_why(why, fn, args):
    table = {"conv_general_dilated": (native.native_convolution,)}
    [(_, _, verdict)] = explanation(fn, *args, table=table)
    assert verdict.startswith("native_convolution does not apply: ") and why in verdict


MAPPED = """
import jax, numpy as np, jax.numpy as jnp
from functools import partial
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jax import lax
from hcjax.accelerate import accelerate
from tests.native.test_native import K, layer
assert jax.device_count() == 2
x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 16)), jnp.float32)
fast = accelerate(layer, platform="cpu+native")
plain = layer(x, K)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
mapped = jax.pmap(fast, in_axes=(0, None))(x.reshape(2, 2, *x.shape[1:]), K)
close(mapped.reshape(plain.shape), plain)
mesh = Mesh(np.array(jax.devices()), ("d",))
each = jax.jit(jax.shard_map(fast, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d")))
assert "ffi_call" in str(jax.make_jaxpr(each)(x, K))
close(each(x, K), plain)
try:
    jax.jit(jax.shard_map(fast, mesh=mesh, in_specs=(P("d"), P()), out_specs=P()))(x, K)
except ValueError as error:
    assert "out_specs" in str(error)
else:
    raise AssertionError("values that differ between devices were taken for equal")
mean = jax.shard_map(lambda x, k: lax.pmean(fast(x, k), "d"), mesh=mesh,
                     in_specs=(P("d"), P()), out_specs=P())
close(jax.jit(mean)(x, K), (plain[:2] + plain[2:]) / 2)
total = jax.shard_map(accelerate(lambda x, k: lax.psum(jax.grad(
    lambda k: (layer(x, k) ** 2).sum())(k), "d"), platform="cpu+native"),
    mesh=mesh, in_specs=(P("d"), P()), out_specs=P(), check_vma=False)
close(jax.jit(total)(x, K), jax.grad(lambda k: (layer(x, k) ** 2).sum())(K), atol=1e-2)
with jax.set_mesh(jax.make_mesh((2,), ("d",))) as explicit:
    typed, kernel = (jax.device_put(a, P(*axes)) for a, axes in ((x, ("d",)), (K, ())))
    y = jax.jit(fast)(typed, kernel)
    assert jax.typeof(y).sharding.spec[0] == "d", jax.typeof(y)
    close(y, plain)
    row, matrix = jax.device_put(jnp.ones((1, 1024)), P()), jnp.ones((1024, 512))
    product = accelerate(lambda a, b: a @ b, platform="cpu+native")
    y = jax.jit(product)(row, jax.device_put(matrix, P(None, "d")))
    assert jax.typeof(y).sharding.spec[1] == "d", jax.typeof(y)
    close(y, np.full((1, 512), 1024.0))
rows = jnp.ones((4, 1024))
each = jax.shard_map(product, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
assert "ffi_call" in str(jax.make_jaxpr(each)(rows, matrix))
close(jax.jit(each)(rows, matrix), rows @ matrix)
spread = jax.device_put(x, NamedSharding(mesh, P("d")))
close(jax.jit(fast)(spread, K), plain)
print("all the same")
"""


@NATIVE
def test_devices_and_meshes():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", MAPPED]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "all the same", run.stderr[-2000:]


@NATIVE
def test_programs_are_exported_without_native_kernels():
    jitted = jax.jit(accelerate(layer, platform="cpu"))
    exported = jax.export.export(jitted)(jax.ShapeDtypeStruct(X.shape, X.dtype), K)
    np.testing.assert_array_equal(exported.call(X, K), layer(X, K))


SECOND = """
import sys
from hcjax.devices import platform
from pathlib import Path
counts = platform.use_cache(Path(sys.argv[1]))
import jax
import numpy as np
from hcjax.accelerate import accelerate
from tests.native.test_native import K, X, layer
jax.clear_caches()
counts.clear()
given = jax.jit(accelerate(layer, platform="cpu+native"))(X, K)
held = jax.jit(accelerate(lambda x: layer(x, K), platform="cpu+native"))(X)  # packed
assert np.array_equal(given, held)
print(counts["hits"], counts["misses"])
"""


@NATIVE
def test_a_second_process_finds_the_program_compiled(tmp_path):
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", SECOND, str(tmp_path)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-2000:]
        found.append([int(n) for n in run.stdout.split()])
    assert found == [[0, 2], [2, 0]]


@NATIVE
def test_a_changed_source_is_another_library_and_another_target(tmp_path, monkeypatch):
    source = tmp_path / "convolution.cc"
    source.write_text(onednn.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(build, "_compile", lambda command: Path(command[-1]).write_bytes(b""))
    monkeypatch.setattr(build, "folder", lambda: tmp_path)
    one, same, other = (build.library([path]) for path in (onednn.SOURCE, onednn.SOURCE, source))
    assert one == same != other
    assert build.library([source], flags=("-O1",)) != other
    assert build.library([source], depends="another release") != other


def answer(monkeypatch):
    """Asks anew what is missing, without what this process has found."""
    monkeypatch.setattr(onednn, "_library", onednn._library.__wrapped__)
    return onednn.missing.__wrapped__()


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("HCJAX_NATIVE", "0")
    assert answer(monkeypatch) == "HCJAX_NATIVE=0 switches them off"


def test_another_machine_gets_todays_rules(monkeypatch):
    monkeypatch.setattr(onednn.platform, "machine", lambda: "aarch64")
    assert "for Linux on x86_64, not aarch64" in answer(monkeypatch)


def test_a_wheel_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(onednn, "_WHEELS", ("onednn-of-nobody", "onednn-devel-cpu-gomp"))
    assert "pip install onednn-of-nobody" in answer(monkeypatch)


def test_without_a_compiler_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(build.BuildError, match="apt-get install g"):
        build.compiler.__wrapped__()


def test_the_compiler_is_the_users_choice_or_comes_as_a_wheel(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("CXX", "their-c++")
    assert build.compiler.__wrapped__() == ("/bin/their-c++",)
    monkeypatch.delenv("CXX")
    assert build.compiler.__wrapped__() == ("/bin/g++",)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: name == "ziglang")
    assert build.compiler.__wrapped__()[1:4] == ("-m", "ziglang", "c++")


def test_a_failed_build_is_named_and_not_tried_again(tmp_path, monkeypatch):
    source = tmp_path / "wrong.cc"
    source.write_text("int main() { return nothing; }\n")
    monkeypatch.setattr(build, "folder", lambda: tmp_path)
    with pytest.raises(build.BuildError, match=r"wrong.cc.*nothing"):
        build.library([source])
    monkeypatch.setattr(build, "_compile", lambda command: pytest.fail("tried again"))
    with pytest.raises(build.BuildError, match=r"remove .* to try again"):
        build.library([source])


def test_a_library_that_does_not_work_is_not_kept(tmp_path, monkeypatch):
    source = tmp_path / "empty.cc"
    source.write_text("")
    monkeypatch.setattr(build, "folder", lambda: tmp_path)
    with pytest.raises(build.BuildError, match="does not work here"):
        build.library([source], check=onednn._probe)
    assert not list(tmp_path.rglob("lib.so"))


def test_a_folder_that_cannot_be_written_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "hcjax").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.folder.__wrapped__().is_dir()


def test_the_first_lines_of_a_run_say_why_not(monkeypatch):
    monkeypatch.setattr(onednn, "missing", lambda: "there is no C++ compiler: do this")
    assert "not native ones: there is no C++ compiler: do this" in compiler.describe(True)
    assert compiler.options() == compiler.probed()


@NATIVE
def test_the_first_lines_of_a_run_name_the_release():
    assert f"native kernels of oneDNN {onednn.version()}" in compiler.describe(True)
    assert compiler.options() == {}


@NATIVE
def test_where_it_runs_here_acceleration_is_native():
    assert "native_convolution" in chosen(layer, X, K, table="cpu+native")
    assert "ffi_call" in str(jax.make_jaxpr(accelerate(layer))(X, K))
    assert "ffi_call" not in str(jax.make_jaxpr(accelerate(layer, platform="cpu"))(X, K))
    assert calls.include_folder() and "cpu+native" in RULES


INTEGERS = {
    "plain": {},
    "strided": {"window_strides": (2, 2)},
    "dilated": {"rhs_dilation": (2, 1)},
    "grouped": {"feature_group_count": 4},
    "depthwise": {"feature_group_count": 16},
}


@NATIVE
@pytest.mark.skipif(not system.multiplies_int8_exactly(), reason="no VNNI: sums may saturate")
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (name, channels)
        for name, how in INTEGERS.items()
        for channels in (16, 1, 3)
        if channels % how.get("feature_group_count", 1) == 0
    ],
)
def test_integers_are_exact_at_their_ends(name, channels):
    """Products of the greatest numbers, whose sums in pairs pass 16 bits."""
    how = {"preferred_element_type": jnp.int32, **INTEGERS[name]}
    groups = how.get("feature_group_count", 1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.choice([-128, 127, 126, 0], (2, 9, 8, channels)), jnp.int8)
    k = jnp.asarray(rng.choice([-127, 127], (3, 3, channels // groups, 32)), jnp.int8)
    run = lambda x, k: layer(x, k, **how)
    found = jax.jit(fast(run))(x, k)
    wide = layer(x.astype("float32"), k.astype("float32"), **INTEGERS[name])
    np.testing.assert_array_equal(found, wide.astype(jnp.int32))
    assert chosen(run, x, k, table="cpu+native")[0].startswith("native")


@NATIVE
def test_integers_are_left_to_xla_where_they_may_saturate(monkeypatch):
    monkeypatch.setattr(system, "_processor", lambda: "flags : avx2 fma")
    run = lambda x, k: layer(x, k, preferred_element_type=jnp.int32)
    found = chosen(run, X.astype("int8"), K.astype("int8"), table="cpu+native")
    assert not any(name.startswith("native") for name in found)


@NATIVE
def test_a_gradient_that_mostly_moves_its_kernel_is_left_to_xla():
    gradient = lambda x, k: jax.vjp(lambda k: layer(x, k), k)[1](layer(x, k))[0]
    wide = jnp.ones((2, 2, 2, 64)), jnp.ones((3, 3, 64, 64))
    assert not chosen(gradient, *wide, table="cpu+native")[-1].startswith("native")
    assert "native_kernel_gradient" in chosen(gradient, X, K, table="cpu+native")


@NATIVE
@pytest.mark.parametrize("precision", ["default", "high", "highest", ("highest", "default")])
def test_float32_is_as_precise_as_any_precision_asks(precision):
    run = lambda x, k: layer(x, k, precision=precision)
    assert chosen(run, X, K, table="cpu+native") == ["native_convolution"]
    np.testing.assert_array_equal(jax.jit(fast(run))(X, K), run(X, K))
