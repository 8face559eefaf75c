"""QTensor: integers and their scale, the one form of quantized arrays.

Symmetric: value = scale · q, q in ±(2^(bits-1) - 1), a range closed under negation. Asymmetric:
value = scale · (q - zero), q in [-2^(bits-1), 2^(bits-1) - 1]. Zero is exact in both.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief

BITS = range(2, 9)
_MIN_SCALE = float(np.finfo(np.float32).tiny)  # scale: a CPU would flush a smaller one to 0


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

    values: int8[...], one byte each for any bits. scale: float32[] or float32[size of axis].
    zero: int32 like scale, or None: symmetric. bits: 2 to 8; symmetric 2 bits are ternary. axis: of
    the channels, each with its own scale; None: one scale for all.
    """

    values: jax.Array
    scale: jax.Array
    zero: jax.Array | None
    bits: int
    axis: int | None

    __repr__ = brief.record

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that it represents."""
        return self.values.shape

    @property
    def size(self) -> int:
        """Count of its numbers."""
        return self.values.size

    @property
    def nbytes(self) -> int:
        """Bytes of its integers, at `bits` each, and of its scales and zeros."""
        zeros = 0 if self.zero is None else self.zero.nbytes
        return -(-self.values.size * self.bits // 8) + self.scale.nbytes + zeros


def limits(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Returns (qmin, qmax): the least and the greatest integer of a number of bits.

    Args:
      bits: 2 to 8.
      symmetric: whether qmin is -qmax.

    Raises:
      ValueError: if bits is out of range.

    Example:
      >>> limits(8, symmetric=True), limits(4, symmetric=False), limits(2, symmetric=True)
      ((-127, 127), (-8, 7), (-1, 1))
    """
    if bits not in BITS:
        raise ValueError(f"bits must be 2 to 8, got {bits}")
    qmax = 2 ** (bits - 1) - 1
    return (-qmax if symmetric else -qmax - 1), qmax


def ranged(
    low: jax.Array, high: jax.Array, *, bits: int, symmetric: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the scale and zero of integers that cover [low, high] and 0.

    Symmetric: scale = max(|low|, |high|) / qmax, zero = None. Asymmetric: scale = (high - low) /
    (qmax - qmin), zero = round(qmin - low / scale), after low = min(low, 0), high = max(high, 0).

    Args:
      low, high: float[] or float[C], finite, low <= high.
      bits: 2 to 8.
      symmetric: whether the range is symmetric about 0.

    Returns:
      (float32 scale > 0, int32 zero or None). Where the range is empty the scale is 1.

    Example:
      >>> scale, zero = ranged(jnp.float32(0.0), jnp.float32(51.0), bits=8, symmetric=False)
      >>> round(float(scale), 6), int(zero)
      (0.2, -128)
    """
    qmin, qmax = limits(bits, symmetric=symmetric)
    low = jnp.minimum(jnp.asarray(low, jnp.float32), 0)
    high = jnp.maximum(jnp.asarray(high, jnp.float32), 0)
    if symmetric:
        width, intervals = jnp.maximum(-low, high), qmax
    else:
        # halved: high - low may overflow float32
        width, intervals = high / 2 - low / 2, (qmax - qmin) / 2
    scale = jnp.where(width > 0, jnp.maximum(width / intervals, _MIN_SCALE), 1.0)
    if symmetric:
        return scale, None
    return scale, jnp.clip(jnp.round(qmin - low / scale), qmin, qmax).astype(jnp.int32)


def quantize(
    x: jax.Array,
    *,
    bits: int = 8,
    axis: int | None = None,
    symmetric: bool = True,
    scale: jax.Array | None = None,
    zero: jax.Array | None = None,
) -> QTensor:
    """Quantizes an array: q = clip(round(x / scale) + zero), ties to even.

    Args:
      x: float[...], finite.
      bits: 2 to 8.
      axis: of the channels, each with its own scale; None: one scale.
      symmetric: see the module. Ignored if `scale` is given: then it is whether `zero` is None.
      scale: float32[] or float32[size of axis], > 0; None: the one that covers x (`ranged`).
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
        other_axes = tuple(a for a in range(x.ndim) if a != axis)
        low, high = x.min(other_axes, initial=0), x.max(other_axes, initial=0)
        scale, zero = ranged(low, high, bits=bits, symmetric=symmetric)
    expected = () if axis is None else (x.shape[axis],)
    for name, value in (("scale", scale), ("zero", zero)):
        if value is not None and jnp.shape(value) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {jnp.shape(value)}")
    qmin, qmax = limits(bits, symmetric=zero is None)
    q = jnp.round(x / _broadcast(scale, axis, x.ndim))
    q = q if zero is None else q + _broadcast(zero, axis, x.ndim)
    values = jnp.clip(q, qmin, qmax).astype(jnp.int8)
    return QTensor(values, jnp.asarray(scale, jnp.float32), zero, bits, axis)


def dequantize(q: QTensor) -> jax.Array:
    """Returns the float32 array that a QTensor represents: scale · (values - zero).

    Example:
      >>> dequantize(quantize(jnp.array([0.0, 2.54]))).tolist()
      [0.0, 2.5399999618530273]
    """
    integers = q.values.astype(jnp.int32)
    if q.zero is not None:
        integers = integers - _broadcast(q.zero, q.axis, integers.ndim)
    return integers.astype(jnp.float32) * _broadcast(q.scale, q.axis, integers.ndim)


def check(q: QTensor) -> None:
    """Raises ValueError with every invariant that a QTensor breaks, if it breaks any.

    Args:
      q: of concrete arrays.

    Example:
      >>> check(quantize(jnp.ones((2, 3)), axis=0))
    """
    qmin, qmax = limits(q.bits, symmetric=q.zero is None)
    expected = () if q.axis is None else (q.values.shape[q.axis],)
    values, scale = np.asarray(q.values), np.asarray(q.scale)  # XLA would compile each shape
    problems = {
        f"values are {values.dtype}, not int8": values.dtype != np.int8,
        f"scale is {scale.dtype}{scale.shape}, not float32{expected}": (
            scale.dtype != np.float32 or scale.shape != expected
        ),
        "a scale is not finite and > 0": not bool((np.isfinite(scale) & (scale > 0)).all()),
        f"a value is outside [{qmin}, {qmax}]": values.size
        and not qmin <= int(values.min()) <= int(values.max()) <= qmax,
    }
    if q.zero is not None:
        zero = np.asarray(q.zero)
        valid = zero.shape == expected and zero.dtype == np.int32
        valid = valid and bool(((zero >= qmin) & (zero <= qmax)).all())
        problems[f"zero is not int32{expected} in [{qmin}, {qmax}]"] = not valid
    if messages := [text for text, failed in problems.items() if failed]:
        raise ValueError("; ".join(messages))


def _broadcast(value: jax.Array, axis: int | None, ndim: int) -> jax.Array:
    """Reshapes one value per channel so that it broadcasts to the array."""
    if axis is None:
        return jnp.asarray(value)
    return jnp.reshape(value, [-1 if a == axis else 1 for a in range(ndim)])
