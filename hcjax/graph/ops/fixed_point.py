"""Fixed-point arithmetic of the integer program, shared by the int8 network and its training.

A real number is scale · q. A layer's accumulator is int32 and represents s · acc + offset.
Fixed-point multiplication with the ratio s / scale makes it int8 again:

    q = clip((sum_k mulhi(acc_k << pre_k, multiplier_k) + offset) >> shift)

mulhi keeps the upper 32 bits of a product of 64. `multipliers` chooses shift so that no sum can
leave int32: each of n terms is below 2^28 / n, for every accumulator within its bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph import qtensor

_ROOM = 28  # bits of the sum of all terms, two below those of int32: the rounding half and the sign
_FINEST = 22  # fractional bits, at most
_WIDEST = 30  # bits of an accumulator, at most
_LARGEST = float(np.nextafter(np.float32(2**31), np.float32(0)))  # the greatest float32 in int32


class Fixed(NamedTuple):
    """The constants of one requantization; shapes broadcast to the accumulators'.

    multipliers: int32[...], one for each term. offset: int32[...], the rounding half included.
    shift: int32[...], 1 to 22. room: int32[...], spare bits; below 0 a sum could overflow.
    """

    multipliers: tuple[jax.Array, ...]
    offset: jax.Array
    shift: jax.Array
    room: jax.Array


def limits(bits: int, *, signed: bool) -> tuple[int, int]:
    """Returns (qmin, qmax): the least and the greatest integer of an activation.

    0 represents the real 0 exactly, as padding needs. Signed: ±(2^(bits-1) - 1). Otherwise
    0 to 2^bits - 1, but at most 127, the greatest int8.

    Args:
      bits: 2 to 8.
      signed: whether the activation can be negative.

    Raises:
      ValueError: if bits is out of range.

    Example:
      >>> limits(8, signed=True), limits(8, signed=False), limits(4, signed=False)
      ((-127, 127), (0, 127), (0, 15))
    """
    qmin, qmax = qtensor.limits(bits, symmetric=True)
    if signed:
        return qmin, qmax
    return 0, min(2**bits - 1, 127)


def pre_shift(bound: int) -> int:
    """Returns the left shift before mulhi, in bits, of an accumulator of at most ±bound.

    Raises:
      ValueError: if bound has more than 30 bits.

    Example:
      >>> pre_shift(9 * 64 * 127 * 127)
      6
    """
    if bound.bit_length() > _WIDEST:
        raise ValueError(f"an accumulator of up to {bound:,} has more than {_WIDEST} bits")
    return _WIDEST - bound.bit_length()


def multipliers(
    scales: Sequence[jax.Array],
    bounds: Sequence[int],
    offset: jax.Array | None,
    output_scale: jax.Array,
    zero: int = 0,
    *,
    compiled: bool = False,
) -> Fixed:
    """Returns the integer constants that convert accumulators to integers of another scale.

    It computes products, quotients and exponents of values behind an optimization barrier. A
    compiler can contract none of these, so the bits are the same compiled or not.

    Args:
      scales: float32[...] of each term, of any sign; shapes broadcast to the accumulators'.
      bounds: of each term, |acc| <= bound < 2^30.
      offset: float32[...], a real number to add; None for none.
      output_scale: float32[], > 0, scale of the result.
      zero: zero point of the result, the integer that represents 0.
      compiled: whether to compile this as one program, for arrays outside of any: XLA would compile
        each of its dozen ops for every shape.

    Returns:
      Fixed. An offset beyond what the terms could make good counts as little as is needed for the
      result to be qmin or qmax, if int32 could not hold it.

    Example:
      >>> fixed = multipliers([jnp.float32(0.5)], [1000], None, jnp.float32(2.0))
      >>> requantize([jnp.int32(10)], [1000], fixed, 0, 127).item()  # 10 * 0.5 / 2 = 2.5
      3
    """
    for bound in bounds:
        pre_shift(bound)  # raises
    widths = tuple(bound.bit_length() for bound in bounds)
    compute = _compiled_multipliers if compiled else _multipliers
    return compute(tuple(scales), widths, offset, output_scale, np.float32(zero) if zero else None)


def _multipliers(
    scales: tuple[jax.Array, ...],
    widths: tuple[Any, ...],
    offset: jax.Array | None,
    output_scale: jax.Array,
    zero: Any,
) -> Fixed:
    """Returns what `multipliers` does, of bounds of so many bits."""
    output_scale, offset, *scales = apart(output_scale, offset, *scales)
    ratios = [over(scale, output_scale) for scale in scales]
    offset_ratio = 0.0 if offset is None else over(offset, output_scale)
    if zero is not None:
        offset_ratio = apart(offset_ratio) + zero
    exponents = [jnp.frexp(r)[1] + width for r, width in zip(ratios, widths, strict=True)]
    if offset is not None:
        offset_ratio = _within_room(offset_ratio, exponents, 0.0 if zero is None else zero)
    exponents.append(jnp.frexp(offset_ratio)[1])
    exponent = exponents[0]
    for other in exponents[1:]:
        exponent = jnp.maximum(exponent, other)
    if all(jnp.ndim(r) == 0 for r in ratios):
        exponent = jnp.max(exponent)  # one multiplier and one shift for all channels
    room = _ROOM - exponent - (len(exponents) - 1).bit_length()
    shift = jnp.clip(room, 1, _FINEST)
    integers = tuple(
        _int32(jnp.ldexp(r, shift + 32 - (_WIDEST - width)))
        for r, width in zip(ratios, widths, strict=True)
    )
    half = jnp.left_shift(1, shift - 1)
    return Fixed(integers, _int32(jnp.ldexp(offset_ratio, shift)) + half, shift, room - 1)


def _within_room(offset_ratio: Any, exponents: Sequence[jax.Array], zero: Any) -> Any:
    """Clips offsets that int32 has no room for to where the result is clipped anyway."""
    reach = sum(jnp.ldexp(jnp.float32(1), e) for e in exponents) + 512 + jnp.abs(zero)
    fits = jnp.frexp(offset_ratio)[1] <= _ROOM - 1 - len(exponents).bit_length()
    clipped = jnp.clip(offset_ratio, -reach, reach)
    return jnp.where(fits & jnp.isfinite(offset_ratio), offset_ratio, clipped)


_compiled_multipliers = jax.jit(_multipliers)


def requantize(
    terms: Sequence[jax.Array], bounds: Sequence[int], fixed: Fixed, qmin: int, qmax: int
) -> jax.Array:
    """Returns int32: the sum of the terms as integers of another scale, rounded and clipped.

    Args:
      terms: int32[...] of one shape.
      bounds: of each, |term| <= bound.
      fixed: from `multipliers` for these bounds.
      qmin, qmax: of the result; int32[...] or ints.
    """
    total = jnp.broadcast_to(fixed.offset, terms[0].shape)
    for term, bound, multiplier in zip(terms, bounds, fixed.multipliers, strict=True):
        term_up = lax.shift_left(term, jnp.int32(pre_shift(bound)))
        total = total + mulhi(term_up, jnp.broadcast_to(multiplier, term.shape))
    rounded = lax.shift_right_arithmetic(total, jnp.broadcast_to(fixed.shift, total.shape))
    return jnp.clip(rounded, qmin, qmax)


def apart(*values: Any) -> Any:
    """Hides values from constant folding and fusion: later arithmetic has the same bits everywhere.

    XLA would contract a product and a sum, and fold constants.

    Example:
      >>> jax.jit(lambda x: apart(x, 3.0)[0] / 2)(jnp.float32(1.0)).item()
      0.5
    """
    results = lax.optimization_barrier(values)
    return results[0] if len(values) == 1 else results


def over(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns x · (1 / scale), rounded to float32 twice: the same bits in any program.

    XLA compiles x / scale to either form, depending on whether scale is a constant and on the loop.

    Example:
      >>> over(jnp.float32(5.0), jnp.float32(2.0)).item()
      2.5
    """
    return x * apart(1.0 / apart(jnp.asarray(scale, jnp.float32)))


def quantize(x: jax.Array, scale: jax.Array, qmin: int, qmax: int, zero: int = 0) -> jax.Array:
    """Returns whole numbers as float32[...]: round(x · (1 / scale)) + zero clipped, ties to even.

    Example:
      >>> quantize(jnp.array([-1.0, 0.26, 9.0]), jnp.float32(0.5), 0, 15).tolist()
      [0.0, 1.0, 15.0]
    """
    q = jnp.round(over(x.astype(jnp.float32), scale))
    return jnp.clip(q + zero if zero else q, qmin, qmax)


def _int32(x: jax.Array) -> jax.Array:
    """Rounds a float32 of any size to the nearest int32."""
    return jnp.round(jnp.clip(x, -_LARGEST, _LARGEST)).astype(jnp.int32)


def whole(x: jax.Array) -> jax.Array:
    """Rounds a float32 of any size to the nearest int32 within ±2^29.

    Example:
      >>> whole(jnp.array([2.5, -7.6, jnp.inf])).tolist()
      [2, -8, 536870912]
    """
    return jnp.round(jnp.clip(jnp.nan_to_num(x), -(2.0**29), 2.0**29)).astype(jnp.int32)


def clips(low: float, high: float, qmin: int, qmax: int, scale: jax.Array, zero: int = 0):
    """Returns (qmin, qmax) of a value that is clipped to [low, high], real numbers.

    Example:
      >>> clips(0.0, float("inf"), -127, 127, jnp.float32(0.1))
      (0, 127)
      >>> int(clips(-1.0, 6.0, -127, 127, jnp.float32(0.1))[1])
      60
    """
    if low == 0:
        qmin = min(max(qmin, zero), qmax)
    elif low > -np.inf:
        qmin = jnp.clip(whole(over(low, scale)) + zero, qmin, qmax)
    return qmin, qmax if high == np.inf else jnp.clip(whole(over(high, scale)) + zero, qmin, qmax)


def look_up(q: jax.Array, table: jax.Array, axis: int | None) -> jax.Array:
    """Returns table[q + 128], with a separate table for each index of an axis.

    Args:
      q: int32[...] in -128 to 127.
      table: [256] or [C, 256].
      axis: of the C channels; None for one table.

    Example:
      >>> look_up(jnp.array([-128, 0]), jnp.arange(256), None).tolist()
      [0, 128]
    """
    index = q + 128
    if axis is not None:
        index = index + 256 * lax.broadcasted_iota(jnp.int32, q.shape, axis)
    return table.reshape(-1)[index]


def mulhi(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the upper 32 bits of the product of two int32 arrays: floor(a · b / 2^32).

    It is `lax.mulhi`, except in a program over several devices, where XLA refuses the primitive
    (jax 0.10 to 0.12): there it multiplies halves of 16 bits.

    Example:
      >>> mulhi(jnp.array([2**30, -1]), jnp.array([8, 1])).tolist()
      [2, -1]
    """
    mesh = jax.sharding.get_abstract_mesh()
    return in_halves(a, b) if mesh.manual_axes and mesh.size > 1 else lax.mulhi(a, b)


def in_halves(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes `mulhi` from products of 16-bit halves, which all fit 32 bits.

    Example:
      >>> in_halves(jnp.array([-(2**31), 2**31 - 1]), jnp.array([-(2**31), -3])).tolist()
      [1073741824, -2]
    """
    half = jnp.int32(16)
    high = lax.shift_right_arithmetic  # a = high · 2^16 + low, 0 <= low < 2^16
    (ah, al), (bh, bl) = ((high(x, jnp.full_like(x, half)), x & 0xFFFF) for x in (a, b))
    low = (al.astype(jnp.uint32) * bl.astype(jnp.uint32)) >> jnp.uint32(16)
    middle = ah * bl + low.astype(jnp.int32)
    other = al * bh + (middle & 0xFFFF)
    return (
        ah * bh
        + high(middle, jnp.full_like(middle, half))
        + high(other, jnp.full_like(other, half))
    )
