"""The one form of a convolution that the rules work in: NHWC images, HWIO kernels.

In: a convolution equation in any layout. Out: its sizes in canonical order, and how to bring its
operands into that order and its result back; where the layout is canonical, nothing is moved.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import jax
from jax import lax

from hcjax.core.walker import Eqn


class Conv(NamedTuple):
    """A convolution equation in canonical order.

    image: (N, *S, C). kernel: (*K, I, O). out: (N', *S', O). strides, padding, image_dilation,
    kernel_dilation: per spatial axis. groups, batch_groups: as of `lax.conv_general_dilated`.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    image_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    batch_groups: int
    orders: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    options: dict[str, Any]

    @property
    def canonical(self) -> bool:
        """Whether the equation has the canonical layout already."""
        return all(order == tuple(range(len(order))) for order in self.orders)

    @property
    def symbolic(self) -> bool:
        """Whether a size is not known."""
        return not all(isinstance(d, int) for d in (*self.image, *self.kernel, *self.out))

    @property
    def taps(self) -> int:
        """Pixels of the kernel."""
        return math.prod(self.kernel[:-2])

    @property
    def pixels(self) -> int:
        """Pixels of the result."""
        return math.prod(self.out[1:-1])

    @property
    def is_kernel_gradient(self) -> bool:
        """Whether this is the form that `jax.grad` gives a kernel: two images, batches contracted.

        The kernel is an image as large as the layer's result, and the layer's input lies with its
        channels where a batch is expected, which no layer's own convolution does.
        """
        return self.taps >= self.pixels and self.orders[0][0] != 0

    def inputs(self, x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns image and kernel in canonical order."""
        return lax.transpose(x, self.orders[0]), lax.transpose(k, self.orders[1])

    def result(self, y: jax.Array) -> jax.Array:
        """Returns the result in the equation's own order."""
        order = self.orders[2]
        return lax.transpose(y, tuple(order.index(i) for i in range(len(order))))

    def barred(self, x: jax.Array, k: jax.Array) -> jax.Array:
        """Returns the convolution of the equation's operands, barred once they are canonical."""
        return self.result(self.run(*lax.optimization_barrier(self.inputs(x, k))))

    def run(self, x: jax.Array, k: jax.Array, **changes: Any) -> jax.Array:
        """Returns the convolution of canonical operands, with some of its arguments changed."""
        letters = "HWD"[: len(self.strides)]
        arguments = {
            "window_strides": self.strides,
            "padding": self.padding,
            "lhs_dilation": self.image_dilation,
            "rhs_dilation": self.kernel_dilation,
            "feature_group_count": self.groups,
            "batch_group_count": self.batch_groups,
            **self.options,
            **changes,
        }
        layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        return lax.conv_general_dilated(x, k, dimension_numbers=layout, **arguments)


def conv(eqn: Eqn) -> Conv:
    """Returns the canonical reading of a `conv_general_dilated` equation."""
    p = eqn.params
    d = p["dimension_numbers"]
    orders = (
        (d.lhs_spec[0], *d.lhs_spec[2:], d.lhs_spec[1]),
        (*d.rhs_spec[2:], d.rhs_spec[1], d.rhs_spec[0]),
        (d.out_spec[0], *d.out_spec[2:], d.out_spec[1]),
    )
    arrays = (*eqn.invars, *eqn.outvars)
    shapes = [
        tuple(v.aval.shape[i] for i in order) for v, order in zip(arrays, orders, strict=True)
    ]
    return Conv(
        *shapes,
        strides=tuple(p["window_strides"]),
        padding=tuple(p["padding"]),
        image_dilation=tuple(p["lhs_dilation"]),
        kernel_dilation=tuple(p["rhs_dilation"]),
        groups=p["feature_group_count"],
        batch_groups=p["batch_group_count"],
        orders=orders,
        options={
            "precision": p["precision"],
            "preferred_element_type": p["preferred_element_type"],
        },
    )


def refused(c: Conv) -> str:
    """Returns the reason why a rule for plain convolutions does not apply, or ''."""
    if c.symbolic:
        return "a symbolic size"
    if not all((*c.image, *c.kernel, *c.out)):
        return "an empty array"
    if c.groups != 1 or c.batch_groups != 1:
        return "grouped"
    if any(d != 1 for d in c.image_dilation):
        return "the image is dilated"
    return ""


def layer_behind(c: Conv, x: jax.Array, dy: jax.Array) -> tuple[Conv, jax.Array, jax.Array]:
    """Returns the layer whose kernel gradient this is, its images and their result's gradient.

    In canonical order x is (I, *S, N), dy is (*S', N, O) and the result (I, *K, O): the layer's
    taps are the result's pixels, and its strides the kernel's dilation.

    Returns:
      (layer, [N, *S, I], [N, *S', O]), ungrouped.
    """
    x, dy = c.inputs(x, dy)
    n = x.ndim
    x = lax.transpose(x, (n - 1, *range(1, n - 1), 0))
    dy = lax.transpose(dy, (n - 2, *range(n - 2), n - 1))
    layer = c._replace(
        image=x.shape,
        kernel=(*c.out[1:-1], c.image[0], c.out[-1]),
        out=dy.shape,
        strides=c.kernel_dilation,
        kernel_dilation=c.strides,
        batch_groups=1,
    )
    return layer, x, dy


def kernel_result(c: Conv, k: jax.Array) -> jax.Array:
    """Returns a kernel [*K, I, O] in the order of the gradient that `layer_behind` was given."""
    n = k.ndim
    return c.result(lax.transpose(k, (n - 2, *range(n - 2), n - 1)))


def dot(c: Conv, a: jax.Array, b: jax.Array, axes: tuple, batch: tuple = ((), ())) -> jax.Array:
    """Returns a product of matrices with the precision and result type of a convolution."""
    return lax.dot_general(a, b, (axes, batch), **c.options)


def columns(x: jax.Array, c: Conv) -> jax.Array:
    """Returns im2col: [N, *S', taps · C], the pixels under each kernel tap, side by side.

    Args:
      x: canonical images.
      c: a convolution without image dilation or groups.
    """
    return lax.concatenate(shifted(x, c), x.ndim - 1)


def rows(x: jax.Array, c: Conv, parts: int) -> jax.Array:
    """Returns im2col, transposed: [parts, taps · C, N / parts · S'], contiguous pixels.

    Args:
      x: canonical images.
      c: a convolution without image dilation or groups.
      parts: number of parts of the batch, a divisor of its size.
    """
    x = x.reshape(parts, -1, *x.shape[1:])
    last = x.ndim - 1
    x = lax.transpose(x, (0, last, *range(1, last)))[..., None]  # [parts, C, N / parts, *S, 1]
    taps = [tap.reshape(*x.shape[:2], -1) for tap in shifted(x, c, leading=3)]
    return lax.concatenate(taps, 1)


def shifted(x: jax.Array, c: Conv, leading: int = 1) -> list[jax.Array]:
    """Returns, for each tap of the kernel, the pixels that it multiplies.

    Args:
      x: canonical images.
      c: a convolution without image dilation.
      leading: axes of x before the image's.
    """
    one = [(0, 0, 0)] * leading
    starts = [max(-low, 0) for low, _ in c.padding]
    if any(low or high for low, high in c.padding):
        spatial = [(max(low, 0), max(high, 0), 0) for low, high in c.padding]
        x = lax.pad(x, lax.full((), 0, x.dtype), [*one, *spatial, (0, 0, 0)])
    parts = []
    for tap in itertools.product(*map(range, c.kernel[:-2])):
        start = [s + t * d for s, t, d in zip(starts, tap, c.kernel_dilation, strict=True)]
        stop = [s + (n - 1) * t + 1 for s, n, t in zip(start, c.out[1:-1], c.strides, strict=True)]
        begin, end = (*[0] * leading, *start, 0), (*x.shape[:leading], *stop, x.shape[-1])
        parts.append(lax.slice(x, begin, end, (*[1] * leading, *c.strides, 1)))
    return parts
