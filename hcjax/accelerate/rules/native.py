"""Rules that hand convolutions to oneDNN's own kernels, through XLA's foreign function interface.

In: a convolution equation in any layout. Out: a call that reads and writes it in place, whose
derivative is that of the equation.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax import lax

from hcjax.accelerate.rules.canonical import Conv, conv
from hcjax.core import system
from hcjax.core.walker import Eqn, Place, bind
from hcjax.native import calls, onednn

_INT8 = ["int8", "int8", "int32"]
_DTYPES = (["float32"] * 3, ["bfloat16"] * 3, _INT8)
_MOST_AXES = 3


def native_kernel_gradient(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a kernel gradient by oneDNN.

    ResNet-20, 16 channels at 32 x 32 pixels, batch 128: 15 → 11 ms; 3 x 3 x 3 taps, 16 to 32
    channels at 32 x 32 x 32 pixels: 94 → 11, with the value and the image's gradient 472 → 56
    (AMD EPYC with AVX-512, busy with other work).
    """
    del place
    c = conv(eqn)
    if why := _refused(eqn, c):
        return why
    if not c.is_kernel_gradient:
        return "not a kernel gradient"
    if c.groups != 1 or any(d != 1 for d in c.image_dilation):
        return "grouped or dilated otherwise than a layer's is"
    sizes = (c.image[1:-1], c.out[1:-1], c.kernel[:-2])
    padding = _padding(*sizes, c.kernel_dilation, c.strides, [low for low, _ in c.padding])
    if padding is None:
        return "crops the image"
    images, kernel, result = c.orders
    orders = (
        (images[-1], *images[1:-1], images[0]),
        (*result[1:-1], result[0], result[-1]),
        (kernel[-2], *kernel[:-2], kernel[-1]),
    )
    window = onednn.window_of(c.kernel_dilation, c.strides, padding, *orders, c.batch_groups)
    x, dy, k = shapes(eqn)
    if why := kernel_missing("kernel gradient", (x, k, dy), window):
        return why
    return _call(eqn, lambda x, dy: onednn.kernel_gradient(x, dy, window=window, result=k))


def native_transposed(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a strided layer's input gradient, or a transposed convolution, by oneDNN.

    ResNet-20's 16 ← 32 channels by 2, batch 128: 21 → 5.8 ms; U-Net, up by 2: 1.8 → 1.5 (AMD EPYC
    with AVX-512, busy with other work).
    """
    del place
    c = conv(eqn)
    if why := _refused(eqn, c):
        return why
    ones = (1,) * len(c.strides)
    if c.image_dilation == ones:
        return "the image is not dilated"
    if c.strides != ones or c.batch_groups != 1:
        return "strided as well"
    # out[i] = sum_a u[i + a d - low] k[a] with u[j s] = dy[j] is the gradient of a layer
    # y[j] = sum_a x[j s + a d - l] k'[a], where k' is k reversed and l = (K - 1) d - low
    taps = c.kernel[:-2]
    reach = [(n - 1) * d for n, d in zip(taps, c.kernel_dilation, strict=True)]
    before = [r - low for r, (low, _) in zip(reach, c.padding, strict=True)]
    sizes = (c.out[1:-1], taps, c.image[1:-1])
    padding = _padding(*sizes, c.image_dilation, c.kernel_dilation, before)
    if padding is None:
        return "crops the result"
    images, kernel, result = c.orders
    orders = (result, (*kernel[:-2], kernel[-1], kernel[-2]), images)
    window = onednn.window_of(c.image_dilation, c.kernel_dilation, padding, *orders, c.groups)
    dy, k, x = shapes(eqn)
    if why := kernel_missing("transposed", (x, k, dy), window):
        return why

    def run(dy, k):
        return onednn.transposed(dy, lax.rev(k, kernel[:-2]), window=window, result=x)

    return _call(eqn, run)


def native_convolution(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a convolution by oneDNN.

    ResNet-20, 16 channels at 32 x 32 pixels, batch 128: 24 → 12 ms, in int8 183 → 4.3; MobileNet's
    depthwise one: 159 → 7.6; channels first 21 → 18 (AMD EPYC with AVX-512, busy with other work).
    """
    if _few_pixels(conv(eqn)):
        return "a kernel gradient of few pixels: most of the time moves the kernel"
    window = forward_window(eqn)
    if isinstance(window, str):
        return window
    y, packed = shapes(eqn)[-1], packed_kernel(eqn, place, window)

    def fast(x, k, *packed):
        return onednn.convolution(x, k, window=window, result=y, packed=packed)

    run = calls.differentiable(fast, lambda x, k, *_: bind(eqn, [x, k])[0])
    return lambda x, k: run(x, k, *packed)


def packed_kernel(eqn: Eqn, place: Place, window: dict, **after: float) -> tuple[np.ndarray, ...]:
    """Returns a convolution's kernel in the layout that oneDNN takes, if the program holds it.

    Bringing it there at each call was a third of AlexNet 32's time at batch 1, and a quarter of
    NIN's, by oneDNN's own clock.

    Args:
      eqn, place: of the convolution.
      window, **after: as for `onednn.packed`.

    Returns:
      One array; none for a kernel that is computed, or an argument, or taken as it is.
    """
    k, aval = place.constant(eqn.invars[1]), eqn.invars[1].aval
    if k is None or isinstance(k, jax.core.Tracer) or np.shape(k) != aval.shape:
        return ()
    if k.dtype != aval.dtype or (isinstance(k, jax.Array) and not k.is_fully_addressable):
        return ()
    packed = onednn.packed(np.asarray(k), [a.shape for a in shapes(eqn)], window, **after)
    return () if packed is None else (packed,)


def _few_pixels(c: Conv) -> bool:
    """Whether this is a kernel gradient of fewer pixels than taps."""
    # both operands are images, and their batches, which come first, are contracted
    return c.orders[0][-1] == c.orders[1][-2] == 0 and not c.is_kernel_gradient


def forward_window(eqn: Eqn) -> dict | str:
    """Returns the window of a convolution that oneDNN computes, or the reason why it does not."""
    c = conv(eqn)
    if why := _refused(eqn, c):
        return why
    if c.batch_groups != 1 or any(d != 1 for d in c.image_dilation):
        return "the image is dilated, or batch groups"
    sizes = (c.image[1:-1], c.kernel[:-2], c.out[1:-1])
    padding = _padding(*sizes, c.strides, c.kernel_dilation, [low for low, _ in c.padding])
    if padding is None:
        return "crops the image"
    window = onednn.window_of(c.strides, c.kernel_dilation, padding, *c.orders, c.groups)
    return kernel_missing("forward", tuple(shapes(eqn)), window) or window


def _padding(images, taps, pixels, strides, dilation, low) -> list[tuple[int, int]] | None:
    """Returns the padding (low, high) of a layer of these sizes; None if it would crop its images.

    The end of an image that no tap reaches is no crop: a layer that rounds its size down ends so.
    """
    padding = []
    for n, k, y, s, d, first in zip(images, taps, pixels, strides, dilation, low, strict=True):
        last = (y - 1) * s + (k - 1) * d + 1 - first - n
        if first < 0 or last <= -s:
            return None
        padding.append((first, max(last, 0)))
    return padding


def _refused(eqn: Eqn, c: Conv) -> str:
    """Returns the reason why oneDNN cannot compute a convolution, or ''."""
    if c.symbolic:
        return "a symbolic size"
    if not all((*c.image, *c.kernel, *c.out)):
        return "an empty array"
    if len(c.strides) > _MOST_AXES or not c.strides:
        return f"{len(c.strides)} spatial axes"
    dtypes = [v.aval.dtype.name for v in (*eqn.invars, *eqn.outvars)]
    if dtypes == _INT8 and not system.multiplies_int8_exactly():
        return "of int8, whose sums this processor may saturate"
    if dtypes not in _DTYPES:
        return f"of {', '.join(dtypes[:-1])} to {dtypes[-1]}"
    # float32's sums are float32's, which all of these allow; others name an algorithm
    precision = c.options["precision"]
    pair = precision if isinstance(precision, tuple) else (precision,)
    if not all(p is None or isinstance(p, lax.Precision) for p in pair):
        return f"of a precision of its own, {precision}"
    if any(any(v.aval.sharding.spec) for v in (*eqn.invars, *eqn.outvars)):
        return "of arrays that are sharded over a mesh, which a call is not"
    return onednn.missing()


def shapes(eqn: Eqn) -> list[jax.ShapeDtypeStruct]:
    """Returns shape and dtype of an equation's operands and result."""
    avals = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]


def kernel_missing(passing: str, arrays: tuple, window: dict, after: int = 0) -> str:
    """Returns why oneDNN has no fast kernel for a layer (images, kernel, result), or ''."""
    sizes = [a.shape for a in arrays]
    name = onednn.kernel_name(passing, arrays[0].dtype.name, sizes, window, after)
    if name.startswith("none"):
        return f"oneDNN has no kernel ({name.removeprefix('none: ')})"
    # its convolution as an inner product adds a sum in another layout one number at a time
    slow = "ref" in name or (after and name.startswith("ip:"))
    return f"oneDNN has only a slow kernel ({name})" if slow else ""


def _call(eqn: Eqn, fast: Callable) -> Callable:
    return calls.differentiable(fast, lambda *operands: bind(eqn, operands)[0])
