"""oneDNN's convolutions for XLA's CPU programs.

In: canonical readings of convolutions. Out: arrays. The library is PyPI's `onednn-cpu-gomp`, called
by `convolution.cc`, which is built here at first use; `missing()` says why where that cannot be.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax.native import build, calls

SOURCE = Path(__file__).parent / "convolution.cc"
_OFF = "HCJAX_NATIVE"
_WHEELS = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
TYPES = ("float32", "bfloat16", "int8")
_BOUNDS = np.finfo(np.float32)
PASSES = ("forward", "kernel gradient", "transposed")


@cache
def missing() -> str:
    """Returns why oneDNN cannot be called in this process, and the cure; '' if it can.

    The first call builds, and may take some seconds.
    """
    if os.environ.get(_OFF) == "0":
        return f"{_OFF}=0 switches them off"
    if jax.default_backend() != "cpu":
        return f"the platform is {jax.default_backend()}"
    try:
        calls.load(_library()).hcjax_set_threads(calls.threads())
    except build.BuildError as error:
        return str(error)
    except OSError as error:
        return f"the library cannot be loaded: {error}"
    return ""


def version() -> str:
    """Returns the release of the wheel."""
    return metadata.version(_WHEELS[0])


def convolution(
    x,
    k,
    bias=None,
    added=None,
    *,
    window: dict,
    result,
    least=-np.inf,
    most=np.inf,
    in_place=False,
    packed=(),
):
    """Returns a convolution, after it bias and another array added, then clipped.

    Args:
      x, k: images and kernel, of any layout.
      bias: float32[O]; None for none.
      added: array like the result; None for none.
      window: of `window_of`.
      result: shape and dtype.
      least, most: what the result is clipped to.
      in_place: whether the result may take the memory of `added`.
      packed: the kernel as `packed` gives it, which is read instead of k; () to read k.
    """
    extra = [array for array in (bias, added) if array is not None]
    after = {
        "bias": bias is not None,
        "sum": added is not None,
        "in_place": in_place,
        "clip": bool(least > -np.inf or most < np.inf),
        "least": np.float32(max(least, _BOUNDS.min)),
        "most": np.float32(min(most, _BOUNDS.max)),
        "packed": np.array(k.shape if packed else (), np.int64),
    }
    name = calls.target(_library(), "hcjax_convolution")
    place = 1 + len(extra) if in_place else None
    (kernel,) = packed or (k,)
    return calls.call(name, result, x, kernel, *extra, reused=place, **window, **after)


def kernel_gradient(x, dy, *, window: dict, result):
    """Returns the gradient of a layer's kernel from its images and its result's gradient."""
    return calls.call(calls.target(_library(), "hcjax_kernel_gradient"), result, x, dy, **window)


def transposed(dy, k, *, window: dict, result):
    """Returns the gradient of a layer's images, a transposed convolution of dy."""
    return calls.call(calls.target(_library(), "hcjax_transposed"), result, dy, k, **window)


def window_of(strides, dilation, padding, x_order, k_order, y_order, groups: int) -> dict[str, Any]:
    """Returns the attributes of a layer.

    Args:
      strides, dilation: of each spatial axis.
      padding: (low, high) of each.
      x_order, k_order, y_order: the axes of the layer's images, kernel and result, in the order
        batch, spatial, channels; of a kernel spatial, inputs, outputs.
      groups: of channels.
    """
    low, high = zip(*padding, strict=True)
    spans = {"strides": strides, "dilation": dilation, "low": low, "high": high}
    spans |= {"x_order": x_order, "k_order": k_order, "y_order": y_order}
    return {k: np.array(v, np.int64) for k, v in spans.items()} | {"groups": np.int64(groups)}


def kernel_name(passing: str, dtype: str, sizes, window: dict, after: int = 0) -> str:
    """Returns the name of oneDNN's kernel for a pass of a layer, or "none: " and why.

    Args:
      passing: one of `PASSES`.
      dtype: of the operands, one of `TYPES`; the result of int8 is int32.
      sizes: shapes of the layer's images, kernel and result, as arrays have them.
      window: of `window_of`.
      after: what follows a forward pass: 1 for a bias, plus 2 for a sum, plus 4 for a clip,
        plus 8 for a sum in place.
    """
    name = ctypes.create_string_buffer(200)
    layer, steps = _Layer.of(dtype, sizes, window), _After(after, 0, 6)
    passing = PASSES.index(passing)
    calls.load(_library()).hcjax_kernel_name(passing, layer, ctypes.byref(steps), name, len(name))
    return name.value.decode()


def packed(k, sizes, window: dict, after: int = 0, least=-np.inf, most=np.inf) -> np.ndarray | None:
    """Returns a layer's kernel in the layout that its forward pass takes; None if it takes any.

    The layout depends on all that `convolution` is told, which must be the same, and on the number
    of this process's threads.

    Args:
      k: an array with values, of a dtype in `TYPES`.
      sizes, window, after: see `kernel_name`.
      least, most: see `convolution`.

    Returns:
      uint8[bytes].
    """
    k = np.ascontiguousarray(k)
    layer = _Layer.of(k.dtype.name, sizes, window)
    steps = _After(after, max(least, _BOUNDS.min), min(most, _BOUNDS.max))
    pack, steps = calls.load(_library()).hcjax_pack, ctypes.byref(steps)
    pack.restype = ctypes.c_int64
    kernel = ctypes.c_void_p(k.ctypes.data)
    if not (size := pack(layer, steps, kernel, None)):
        return None
    made = np.zeros(size, np.uint8)  # what only fills up a block is zeros
    pack(layer, steps, kernel, ctypes.c_void_p(made.ctypes.data))
    return made


class _Layer(ctypes.Structure):
    """A layer as `convolution.cc` describes it."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("spatial", ctypes.c_int32),
        ("groups", ctypes.c_int64),
        ("sizes", ctypes.c_void_p),
        ("window", ctypes.c_void_p),
        ("orders", ctypes.c_void_p),
    )

    @classmethod
    def of(cls, dtype: str, sizes, window: dict) -> Any:
        """Returns a pointer to the description of a layer, which keeps what it points to."""
        names = (("strides", "dilation", "low", "high"), ("x_order", "k_order", "y_order"))
        rows = [sizes, *([window[name] for name in group] for group in names)]
        arrays = [np.ascontiguousarray(row, np.int64) for row in rows]
        spatial, groups = len(window["strides"]), int(window["groups"])
        layer = cls(TYPES.index(dtype), spatial, groups, *(a.ctypes.data for a in arrays))
        layer.arrays = arrays
        return ctypes.pointer(layer)


class _After(ctypes.Structure):
    """What follows a forward pass as `convolution.cc` describes it."""

    _fields_ = (("after", ctypes.c_int32), ("least", ctypes.c_float), ("most", ctypes.c_float))


@cache
def _library() -> Path:
    """Returns the built library."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise build.BuildError(f"oneDNN's wheel is for Linux on x86_64, not {platform.machine()}")
    # waiting threads sleep: they must not take a core from XLA's own
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    shared, headers = _file(_WHEELS[0], "libdnnl.so.3"), _file(_WHEELS[1], "oneapi/dnnl/dnnl.hpp")
    include = headers.parents[2]
    flags = ("-isystem", calls.include_folder(), "-isystem", str(include))
    flags += (f"-Wl,-rpath,{shared.parent}", "-Wl,--no-as-needed", str(shared))
    depends = "\n".join(f"{wheel} {metadata.version(wheel)}" for wheel in _WHEELS)
    return build.library([SOURCE], flags=flags, depends=depends, check=_probe)


def _file(wheel: str, name: str) -> Path:
    """Returns the path of a file of an installed wheel."""
    try:
        files = metadata.distribution(wheel).files or []
    except metadata.PackageNotFoundError:
        raise build.BuildError(f"{wheel} is not installed: pip install {wheel}") from None
    for file in files:
        if str(file).endswith(name) and (path := Path(str(file.locate())).resolve()).exists():
            return path
    raise build.BuildError(f"{wheel} has no {name}: pip install --force-reinstall {wheel}")


_CHECK = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from hcjax.native import calls, onednn
order = (0, 1, 2, 3)
window = onednn.window_of((1, 1), (1, 1), ((1, 1), (1, 1)), order, order, order, 1)
x, k = jnp.arange(128.0).reshape(2, 4, 4, 4), jnp.arange(144.0).reshape(3, 3, 4, 4) % 5
target = calls.target(Path(sys.argv[1]), "hcjax_transposed")
ours = calls.call(target, jax.ShapeDtypeStruct(x.shape, x.dtype), x, k, **window)
layout = ("NHWC", "HWIO", "NHWC")
def layer(x):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
plain = jax.vjp(layer, x)[1](x)[0]
np.testing.assert_allclose(ours, plain, rtol=1e-5)
"""


def _probe(library: Path) -> None:
    """Raises BuildError unless a library just built computes what XLA does, in a new process.

    One built for another jaxlib would end the process that loads it.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-c", _CHECK, str(library)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise build.BuildError(f"a library built for oneDNN does not work here: {lines[-1]:.200}")
