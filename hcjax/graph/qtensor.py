"""QTensor: integers and their scale, the one form of quantized arrays.

Symmetric: value = scale · q, q in ±(2^(bits-1) - 1), so that -x is there wherever x is. Asymmetric:
value = scale · (q - zero), q in [-2^(bits-1), 2^(bits-1) - 1]. Zero is exact in both.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

BITS = range(2, 9)
_LEAST = float(np.finfo(np.float32).tiny)  # of a scale: below, a CPU that flushes would divide by 0


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "scale", "zero"),
    meta_fields=("bits", "axis"),
)
@dataclasses.dataclass(frozen=True)
class QTensor:
    """An array of small integers.

    Invariants, which `quantize` keeps and `check` tests: values lie in `limits(bits, …)`; every
    scale is finite and > 0; scale and zero have one element, or one per index of `axis`.

    values: int8[...], one to a byte whatever the bits. scale: float32[] or float32[size of axis].
    zero: int32 like scale, or None: symmetric. bits: 2 to 8; symmetric 2 bits are ternary. axis: of
    the channels that have scales of their own; None: one scale for all.
    """

    values: jax.Array
    scale: jax.Array
    zero: jax.Array | None
    bits: int
    axis: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for."""
        return self.values.shape

    @property
    def size(self) -> int:
        """Numbers in it."""
        return self.values.size

    @property
    def nbytes(self) -> int:
        """Bytes of its integers, at their bits, and of its scales and zeros."""
        zeros = 0 if self.zero is None else self.zero.nbytes
        return -(-self.values.size * self.bits // 8) + self.scale.nbytes + zeros


def limits(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Returns the least and the greatest integer of so many bits.

    Args:
      bits: 2 to 8.
      symmetric: whether the least is minus the greatest.

    Raises:
      ValueError: if bits is out of range.

    Example:
      >>> limits(8, symmetric=True), limits(4, symmetric=False), limits(2, symmetric=True)
      ((-127, 127), (-8, 7), (-1, 1))
    """
    if bits not in BITS:
        raise ValueError(f"bits must be 2 to 8, got {bits}")
    most = 2 ** (bits - 1) - 1
    return (-most if symmetric else -most - 1), most


def ranged(
    low: jax.Array, high: jax.Array, *, bits: int, symmetric: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the scale and zero whose integers cover [low, high] and 0.

    Symmetric: scale = max(|low|, |high|) / most, zero = None. Asymmetric: scale = (high - low) /
    (most - least), zero = round(least - low / scale), with low <= 0 <= high made so.

    Args:
      low, high: float[] or float[C], finite, low <= high.
      bits: 2 to 8.
      symmetric: which of both.

    Returns:
      (float32 scale > 0, int32 zero or None). Where the range is empty the scale is 1.

    Example:
      >>> scale, zero = ranged(jnp.float32(0.0), jnp.float32(51.0), bits=8, symmetric=False)
      >>> round(float(scale), 6), int(zero)
      (0.2, -128)
    """
    least, most = limits(bits, symmetric=symmetric)
    low = jnp.minimum(jnp.asarray(low, jnp.float32), 0)
    high = jnp.maximum(jnp.asarray(high, jnp.float32), 0)
    if symmetric:
        width, steps = jnp.maximum(-low, high), most
    else:
        # halved: the width of a range of float32 need not be one
        width, steps = high / 2 - low / 2, (most - least) / 2
    scale = jnp.where(width > 0, jnp.maximum(width / steps, _LEAST), 1.0)
    if symmetric:
        return scale, None
    return scale, jnp.clip(jnp.round(least - low / scale), least, most).astype(jnp.int32)


def quantize(
    x: jax.Array,
    *,
    bits: int = 8,
    axis: int | None = None,
    symmetric: bool = True,
    scale: jax.Array | None = None,
    zero: jax.Array | None = None,
) -> QTensor:
    """Returns an array in integers: q = clip(round(x / scale) + zero), ties to even.

    Args:
      x: float[...], finite.
      bits: 2 to 8.
      axis: of the channels that have scales of their own; None: one scale.
      symmetric: see the module; ignored where `scale` is given, whose `zero` says it.
      scale: float32[] or float32[size of axis], > 0; None: what covers x (`ranged`).
      zero: int32 like scale, in the limits; None: symmetric.

    Returns:
      QTensor.

    Raises:
      ValueError: if bits, axis or the shape of scale or zero is not legal.

    Example:
      >>> q = quantize(jnp.array([[1.0, -0.5], [0.0, 0.3]]), bits=4, axis=1)
      >>> q.values.tolist(), dequantize(q).tolist()
      ([[7, -7], [0, 4]], [[1.0, -0.5], [0.0, 0.2857142984867096]])
    """
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is none of an array of rank {x.ndim}")
    axis = None if axis is None else axis % x.ndim
    x = x.astype(jnp.float32)
    if scale is None:
        if zero is not None:
            raise ValueError("zero without a scale")
        others = tuple(a for a in range(x.ndim) if a != axis)
        low, high = x.min(others, initial=0), x.max(others, initial=0)
        scale, zero = ranged(low, high, bits=bits, symmetric=symmetric)
    expected = () if axis is None else (x.shape[axis],)
    for name, value in (("scale", scale), ("zero", zero)):
        if value is not None and jnp.shape(value) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {jnp.shape(value)}")
    least, most = limits(bits, symmetric=zero is None)
    q = jnp.round(x / _along(scale, axis, x.ndim))
    q = q if zero is None else q + _along(zero, axis, x.ndim)
    values = jnp.clip(q, least, most).astype(jnp.int8)
    return QTensor(values, jnp.asarray(scale, jnp.float32), zero, bits, axis)


def dequantize(q: QTensor) -> jax.Array:
    """Returns the float32 array that a QTensor stands for: scale · (values - zero).

    Example:
      >>> dequantize(quantize(jnp.array([0.0, 2.54]))).tolist()
      [0.0, 2.5399999618530273]
    """
    whole = q.values.astype(jnp.int32)
    if q.zero is not None:
        whole = whole - _along(q.zero, q.axis, whole.ndim)
    return whole.astype(jnp.float32) * _along(q.scale, q.axis, whole.ndim)


def check(q: QTensor) -> None:
    """Raises ValueError, naming what is wrong, unless a QTensor keeps its invariants.

    Args:
      q: of concrete arrays.

    Example:
      >>> check(quantize(jnp.ones((2, 3)), axis=0))
    """
    least, most = limits(q.bits, symmetric=q.zero is None)
    expected = () if q.axis is None else (q.values.shape[q.axis],)
    problems = {
        f"values are {q.values.dtype}, not int8": q.values.dtype != np.int8,
        f"scale is {q.scale.dtype}{q.scale.shape}, not float32{expected}": (
            q.scale.dtype != np.float32 or q.scale.shape != expected
        ),
        "a scale is not finite and > 0": not bool((np.isfinite(q.scale) & (q.scale > 0)).all()),
        f"a value is outside [{least}, {most}]": q.values.size
        and not least <= int(np.min(q.values)) <= int(np.max(q.values)) <= most,
    }
    if q.zero is not None:
        inside = q.zero.shape == expected and q.zero.dtype == np.int32
        inside = inside and bool(((q.zero >= least) & (q.zero <= most)).all())
        problems[f"zero is not int32{expected} in [{least}, {most}]"] = not inside
    if found := [text for text, wrong in problems.items() if wrong]:
        raise ValueError("; ".join(found))


def _along(value: jax.Array, axis: int | None, ndim: int) -> jax.Array:
    """Returns one value per channel in a shape that broadcasts to the whole array."""
    if axis is None:
        return jnp.asarray(value)
    return jnp.reshape(value, [-1 if a == axis else 1 for a in range(ndim)])
