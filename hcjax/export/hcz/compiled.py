"""The coder of `numbers`, compiled by XLA for the CPU: the same bytes in a thirtieth of the time.

Only integers of 32 bits, so that every machine computes the same. Contexts are rows of a table,
where a number has at most M bits and c, 0 to 8, are its neighbours:

    c           whether it is 0
    9           its sign
    1 + 9i + c  whether its magnitude has more than i bits, for i of 1 and 2
    25 + i      the same, for i from 3 to M
    24 + M + i  the second bit of a magnitude of i bits
    25 + 2M     its other bits, of which nothing is learned
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from hcjax.errors import ArtifactError
from hcjax.export.hcz.coder import BITS, FAST, FULL, HALF, SLOW, TOP, Budget, Encoder

LONGEST = 32  # bits of a number
_STEPS = 2**16  # bits that one call encodes
_NUMBERS = 2**11  # numbers that one call decodes
_ROW = 2**11  # of a longer row a call decodes a part, and is given the elements above
_SIGN = 9
_FLAG, _SIGNED, _UNARY, _SECOND, _OTHERS, _WRONG = map(np.int32, range(6))  # what is read next


@cache
def cpu() -> jax.Device | None:
    """Returns a CPU to compile for; None where jax was told to have none."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def encode(values: np.ndarray, row: int, bits: int) -> tuple[bytes, int]:
    """Encodes numbers as `numbers.encode` says.

    Args:
      values: int[n], of up to 32 bits; bool[n] where there is only whether each is 0.
      row: elements in a row.
      bits: of a number, 8, 16 or 32.

    Returns:
      (the bytes, the count of bits that cost).
    """
    flags = values.dtype.kind == "b"
    neighbours = _neighbours(values, row)
    at_once = _STEPS if flags else _STEPS // (2 * bits + 1)
    run, other = _encoder(bits), 25 + 2 * bits
    state = (_table(bits), np.uint32(0), np.uint32(FULL), np.uint32(0))
    pieces, carries, count = [], [], 0
    for start in range(0, values.size, at_once):
        part = slice(start, start + at_once)
        if flags:
            contexts, ones = neighbours[part], values[part]
        else:
            contexts, ones = _bits(values[part].astype(np.int64), neighbours[part], bits)
        steps = [np.zeros(_STEPS, np.uint8), np.zeros(_STEPS, np.uint8)]
        for step, given in zip(steps, (contexts, ones), strict=True):
            step[: given.size] = given
        *state, length, written, carry = run(*state, *steps, np.int32(contexts.size))
        pieces.append(np.asarray(written)[: int(length)])
        carries.append(np.asarray(carry)[: int(length)])
        count += int((contexts != other).sum())
    # a carry is of the byte before; behind the last one there is none
    written, carried = np.concatenate(pieces), np.concatenate([*carries, [state[3]]])[1:]
    total = sum(int.from_bytes(part.tobytes()) for part in (written, carried.astype(np.uint8)))
    encoder = Encoder(int(state[1]), int(state[2]), total.to_bytes(written.size))
    return encoder.finish(), count


def decode(
    data: bytes, size: int, row: int, bits: int, budget: Budget, *, flags: bool
) -> np.ndarray:
    """Decodes the numbers of `encode`.

    Args:
      data: the bytes.
      size: count of numbers.
      row: elements in a row.
      bits: of a number, 8, 16 or 32.
      budget: which is subtracted from.
      flags: whether there is only whether each is 0.

    Returns:
      int32[size].

    Raises:
      ArtifactError: if the bytes end too soon, a number has too many bits, or the budget is spent.
    """
    run, window = _decoder(bits), 2 * (2 * bits + 1) * _NUMBERS + 2
    padded = np.frombuffer(data + bytes(window), np.uint8)
    code, at = np.uint32(int.from_bytes(padded[:4].tobytes())), 4
    state = (_table(bits), np.zeros(_ROW // 16, np.uint32), _start(code))
    flat, done, long = np.zeros(size, np.int32), 0, row > _ROW
    while done < size:
        count = min(_NUMBERS, size - done)
        above = np.zeros(_NUMBERS, np.uint8)
        if long:
            first = done - row
            known = _capped(flat[max(first, 0) : max(first + count, 0)])
            above[max(-first, 0) : count][: known.size] = known
        here = min(at, len(data))  # behind the end there are zeros
        asked = np.array([count, row, flags, long], np.int32)
        table, ring, scalars, out = run(*state, padded[here : here + window], above, asked)
        left = {name: np.asarray(value) for name, value in scalars.items()}
        budget.left -= int(left["count"])
        at += int(left["at"])
        if budget.left < 0:
            raise ArtifactError("the file is too short for so many numbers")
        if at > len(data) + 5:
            raise ArtifactError("a stream ends before its last number: the file is cut short")
        if left["next"] == _WRONG:
            raise ArtifactError(f"a number is no int{bits}: the file is damaged")
        flat[done : done + count] = np.asarray(out)[:count]
        done += count
        state = (table, ring, scalars | {"count": np.int32(0), "at": np.int32(0)})
    return flat


def _table(bits: int) -> np.ndarray:
    """Returns the fast and the slow average of each context, 16 bits each."""
    return np.full(26 + 2 * bits, HALF << 16 | HALF, np.uint32)


def _capped(values: np.ndarray) -> np.ndarray:
    """Returns magnitudes up to 2."""
    large = (values > 1) | (values < -1)
    return (values != 0).astype(np.uint8) + large.astype(np.uint8)


def _neighbours(values: np.ndarray, row: int) -> np.ndarray:
    """Returns 3 · (magnitude before) + (magnitude above) of each element, of magnitudes up to 2."""
    capped, found = _capped(values), np.zeros(values.size, np.uint8)
    found[1:] = 3 * capped[:-1]
    found[row:] += capped[: max(values.size - row, 0)]
    return found


def _bits(values: np.ndarray, neighbours: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the context of each bit of some numbers, and the bits."""
    magnitudes = np.abs(values)
    powers = 2 ** np.arange(bits, dtype=np.int64)
    lengths = np.searchsorted(powers, magnitudes, side="right").astype(np.int32)
    ends = np.cumsum(2 * lengths + 1)
    starts = ends - 2 * lengths - 1
    contexts = np.full(ends[-1], 25 + 2 * bits, np.uint8)
    ones = np.zeros(ends[-1], bool)
    contexts[starts], ones[starts] = neighbours, lengths > 0
    for i in range(1, lengths.max(initial=0) + 1):
        some = np.flatnonzero(lengths >= i)
        length, at = lengths[some], starts[some]
        if i == 1:
            contexts[at + 1], ones[at + 1] = _SIGN, values[some] < 0
        contexts[at + i + 1] = 1 + 9 * i + neighbours[some] if i < 3 else 25 + i
        ones[at + i + 1] = length > i
        if i > 1:
            ones[at + length + i] = magnitudes[some] >> (length - i) & 1
        if i == 2:
            contexts[at + length + 2] = 24 + bits + length
    return contexts, ones


@cache
def _encoder(bits: int) -> Callable[..., Any]:
    """Returns the program that encodes up to `_STEPS` bits.

    It returns the bytes that are shifted out, and for each whether there was a carry before it.
    """

    def run(table, low, width, carried, contexts, ones, count):
        def step(state):
            i, table, low, width, carried, n, written, carries = state
            context, one = _at(contexts, i).astype(np.int32), _at(ones, i) == 1
            averages = _at(table, context)
            bound = _bound(averages, width, context == 25 + 2 * bits)
            table = _put(table, context, _learned(averages, one))
            after = jnp.where(one, low + bound, low)
            width = jnp.where(one, width - bound, bound)
            # of chance 1/2 both halves are of one length, and what an odd width has left is lost
            width = jnp.where(context == 25 + 2 * bits, bound, width)
            shifts = _shifts(width)
            carried = carried | (after < low).astype(
                np.uint32
            )  # once at most, until a byte is shifted out
            carries = _put(carries, n, carried.astype(np.uint8))
            for k in (0, 1):  # the next ones overwrite what is not shifted out
                written = _put(written, n + k, (after >> (24 - 8 * k)).astype(np.uint8))
            carried = jnp.where(shifts > 0, np.uint32(0), carried)
            low, width = after << 8 * shifts, width << 8 * shifts
            return i + 1, table, low, width, carried, n + shifts.astype(np.int32), written, carries

        bytes_, zero = jnp.zeros(2 * _STEPS + 2, np.uint8), np.int32(0)
        state = (zero, table, low, width, carried, zero, bytes_, bytes_)
        return lax.while_loop(lambda state: state[0] < count, step, state)[1:]

    return _compiled(run)


@cache
def _decoder(bits: int) -> Callable[..., Any]:
    """Returns the program that decodes up to `_NUMBERS` numbers, one bit in each step."""

    def run(table, ring, scalars, data, aboves, asked):
        size, row, flags, long = asked[0], asked[1], asked[2] == 1, asked[3] == 1

        def going(state):
            i, *_, s = state
            return (i < size) & (s["next"] != _WRONG)

        def step(state):
            i, table, ring, out, s = state
            phase, length = s["next"], s["length"]
            word, place = _at(ring, s["column"] >> 4), (s["column"] & 15).astype(np.uint32) * 2
            above = jnp.where(long, _at(aboves, i).astype(np.uint32), word >> place & 3)
            near = (s["before"] * 3 + above).astype(np.int32)
            unary = jnp.where(length < 3, 1 + 9 * length + near, 25 + length)
            at = [phase == p for p in (_FLAG, _SIGNED, _UNARY, _SECOND)]
            contexts = [near, np.int32(_SIGN), unary, 24 + bits + length]
            context, others = _chosen(at, contexts, np.int32(25 + 2 * bits)), phase == _OTHERS
            averages = _at(table, context)
            bound = _bound(averages, s["width"], others)
            one = s["code"] >= bound
            # else XLA computes these again for each of the values below
            one, context, averages, bound = lax.optimization_barrier(
                (one, context, averages, bound)
            )
            bit = one.astype(np.uint32)
            table = _put(table, context, _learned(averages, one))
            code = jnp.where(one, s["code"] - bound, s["code"])
            width = jnp.where(one & ~others, s["width"] - bound, bound)
            shifts = _shifts(width)
            two = [_at(data, s["at"] + k).astype(np.uint32) for k in (0, 1)]
            code = code << 8 * shifts | (two[0] << 8 | two[1]) >> (16 - 8 * shifts)
            # `length` counts up in unary, then down to the last bit
            ends = _chosen(at, [~one | flags, np.bool_(False), ~one & (length == 1), length == 2],
                           length == 3)  # fmt: skip
            value = _chosen(at, [bit, s["value"], s["value"], 2 | bit], s["value"] << 1 | bit)
            negative = _chosen(at[:2], [np.uint32(0), bit], s["negative"])
            grown = length + one.astype(np.int32)
            length = _chosen(at, [length, np.int32(1), grown, length], length - 1)
            after = _chosen(
                at, [_SIGNED, _UNARY, jnp.where(one, _UNARY, _SECOND), _OTHERS], _OTHERS
            )
            most = np.uint32(2 ** (bits - 1) - 1) + negative
            wrong = (length > bits) | ends & (value > most) & ~flags
            after = jnp.where(wrong, _WRONG, jnp.where(ends, _FLAG, after))
            out = _put(out, i, jnp.where(negative == 1, -value, value))
            capped = jnp.minimum(value, np.uint32(2))
            fresh = word & ~(np.uint32(3) << place) | capped << place
            ring = _put(ring, s["column"] >> 4, jnp.where(ends, fresh, word))
            column = jnp.where((s["column"] + 1 < row) & ~long, s["column"] + 1, 0)
            return (
                i + ends.astype(np.int32),
                table,
                ring,
                out,
                {
                    "code": code,
                    "width": width << 8 * shifts,
                    "at": s["at"] + shifts.astype(np.int32),
                    "count": s["count"] + 1 - others.astype(np.int32),
                    "next": after,
                    "length": length,
                    "value": value,
                    "negative": negative,
                    "before": jnp.where(ends, capped, s["before"]),
                    "column": jnp.where(ends, column, s["column"]),
                },
            )

        state = (np.int32(0), table, ring, jnp.zeros(_NUMBERS, np.uint32), scalars)
        _, table, ring, out, scalars = lax.while_loop(going, step, state)
        return table, ring, scalars, out.astype(np.int32)

    return _compiled(run)


def _start(code: np.uint32) -> dict[str, Any]:
    """Returns what a decoder carries beside its arrays, before the first bit."""
    whole = dict.fromkeys(("at", "count", "next", "length", "column"), np.int32(0))
    return whole | {"code": code, "width": np.uint32(FULL)} | dict.fromkeys(
        ("value", "negative", "before"), np.uint32(0)
    )  # fmt: skip


def _compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a loop into one kernel, where XLA might by itself run each step as several."""
    inner = jax.jit(run)

    @jax.jit
    def whole(*args):
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return inner(*args)

    def call(*args):
        promotion, jitted = jax.numpy_dtype_promotion("standard"), jax.disable_jit(False)
        with jax.default_device(cpu()), promotion, jitted:  # whatever the session's settings are
            return whole(*args)

    return call


def _bound(averages: jax.Array, width: jax.Array, half: jax.Array) -> jax.Array:
    """Returns the width of a 0."""
    chance = (averages >> 16) + (averages & 0xFFFF) >> 1
    return jnp.where(half, width >> 1, (width >> BITS) * chance)


def _learned(averages: jax.Array, one: jax.Array) -> jax.Array:
    """Returns both averages of a context, moved towards a bit."""
    top, moved = np.uint32(1 << BITS), []
    for average, shift in ((averages >> 16, FAST), (averages & 0xFFFF, SLOW)):
        down, up = average - (average >> shift), average + (top - average >> shift)
        moved.append(jnp.where(one, down, up))
    return moved[0] << 16 | moved[1]


def _shifts(width: jax.Array) -> jax.Array:
    """Returns the bytes that a width below `TOP` shifts out: up to 2."""
    return (width < np.uint32(TOP)).astype(np.uint32) + (width < np.uint32(TOP >> 8))


def _chosen(cases: list, values: list, otherwise: Any) -> jax.Array:
    """Returns the value of the first case that is true."""
    for case, value in zip(cases[::-1], values[::-1], strict=True):
        otherwise = jnp.where(case, value, otherwise)
    return otherwise


def _at(array: jax.Array, i: jax.Array) -> jax.Array:
    return lax.squeeze(lax.dynamic_slice(array, (i,), (1,)), (0,))


def _put(array: jax.Array, i: jax.Array, value: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(array, lax.broadcast(value, (1,)), (i,))
