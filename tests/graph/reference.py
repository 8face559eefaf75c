"""A plain NumPy interpreter of int8 graphs: int64 everywhere, so that what leaves int32 is seen.

Written from what the ops mean, not from the code that runs them. Matrix products are taken in
float64, which is exact below 2**53.
"""

import jax
import numpy as np

from hcjax.graph.model import at_batch
from hcjax.graph.qtensor import QTensor


def logits(model, images):
    """Returns float32[N, K] of an int8 Model."""
    return outputs(model, images)


def outputs(model, *inputs):
    """Returns the outputs of an int8 Model; ops that stay in float run as they are."""
    arrays = [np.asarray(x) for x in jax.tree.leaves(inputs)]
    batch = next(len(x) for x in arrays if x.ndim)
    env = {n: np.asarray(v) for n, v in model.graph.constants.items()}
    leaves = model.leaves(model.params)
    env |= {n: leaves[path] for path, n in model.graph.params.items()}
    env |= zip(model.graph.inputs, arrays, strict=True)
    for op in model.graph.ops:
        values = [v.values if isinstance(v, QTensor) else v for v in map(env.get, op.inputs)]
        real = op.kind not in SCALED and any(v.dtype.kind == "f" for v in values)
        if model.floats and (real or op.kind not in OPS):
            env[op.output] = np.asarray(op.run_one(batch, *map(env.get, op.inputs)))
            continue
        values = [_wide(np.asarray(v)) for v in values]
        result = OPS[op.kind](at_batch(op.params, batch), *values)
        if result.dtype == np.int64:
            info = np.iinfo(op.dtype)
            assert info.min <= result.min() and result.max() <= info.max, (op.kind, op.source)
            result = result.astype(op.dtype)
        env[op.output] = result
    found = [env[number] for number in model.graph.outputs]
    return jax.tree.unflatten(jax.tree.structure(model.outputs), found)


def _wide(x):
    return x.astype(np.int64) if x.dtype.kind == "i" else x


def quantize(p, x, step):
    q = np.round(x.astype(np.float32) * (np.float32(1) / step.astype(np.float32)))
    q = q + p.get("zero", 0)
    return np.clip(q, p["least"], p["most"]).astype(np.int64)


def requantize(p, *values):
    count = len(p["bounds"])
    terms, multipliers = values[:count], values[count : 2 * count]
    offset, shift = values[2 * count :]
    total = offset
    for term, multiplier, bound in zip(terms, multipliers, p["bounds"], strict=True):
        assert np.abs(term).max() <= bound
        raised = term << (30 - bound.bit_length())
        assert np.abs(raised).max() < 2**31
        total = total + ((raised * multiplier) >> 32)
        assert np.abs(total).max() < 2**31
    return np.clip(total >> shift, p["least"], p["most"])


def convolution(p, x, kernel):
    numbers = p["dimension_numbers"]
    x = np.transpose(x, numbers.lhs_spec)  # N C spatial
    kernel = np.transpose(kernel, numbers.rhs_spec)  # O I spatial
    rank = x.ndim - 2
    x = _dilated(x, p["lhs_dilation"])
    kernel = _dilated(kernel, p["rhs_dilation"])
    x = np.pad(x, [(0, 0), (0, 0), *p["padding"]])
    windows = np.lib.stride_tricks.sliding_window_view(
        x, kernel.shape[2:], axis=tuple(range(2, 2 + rank))
    )
    windows = windows[
        (slice(None), slice(None), *(slice(None, None, s) for s in p["window_strides"]))
    ]
    groups = p["feature_group_count"]
    outs = []
    for g in range(groups):
        ins, chans = kernel.shape[1], kernel.shape[0] // groups
        part = windows[:, g * ins : (g + 1) * ins].astype(np.float64)
        weights = kernel[g * chans : (g + 1) * chans].astype(np.float64)
        axes = [1, *range(2 + rank, 2 + 2 * rank)]
        outs.append(np.tensordot(part, weights, (axes, [1, *range(2, 2 + rank)])))
    y = np.concatenate(outs, -1).astype(np.int64)  # N spatial O
    y = np.moveaxis(y, -1, 1)
    return np.transpose(y, np.argsort(numbers.out_spec))


def _dilated(x, factors):
    for axis, factor in enumerate(factors, 2):
        if factor > 1:
            shape = list(x.shape)
            shape[axis] = (shape[axis] - 1) * factor + 1
            wider = np.zeros(shape, x.dtype)
            wider[(slice(None),) * axis + (slice(None, None, factor),)] = x
            x = wider
    return x


def dot(p, x, y):
    (left, right), batch = p["dimension_numbers"]
    if not batch[0]:
        y = np.tensordot(x.astype(np.float64), y.astype(np.float64), (left, right))
        return y.astype(np.int64)
    letters = iter("abcdefghijklmnop")
    names = [[next(letters) for _ in x.shape], [next(letters) for _ in y.shape]]
    for a, b in zip((*batch[0], *left), (*batch[1], *right), strict=True):
        names[1][b] = names[0][a]
    kept = [[n for a, n in enumerate(names[s]) if a not in (*batch[s], *(left, right)[s])]
            for s in (0, 1)]  # fmt: skip
    result = [names[0][a] for a in batch[0]] + kept[0] + kept[1]
    spelt = f"{''.join(names[0])},{''.join(names[1])}->{''.join(result)}"
    return np.einsum(spelt, x.astype(np.float64), y.astype(np.float64)).astype(np.int64)


def look_up(p, q, table):
    if p["axis"] is None:
        return table[q + 128]
    channel = np.arange(q.shape[p["axis"]]).reshape(
        [-1 if a == p["axis"] else 1 for a in range(q.ndim)]
    )
    return table[channel, q + 128]


def dequantize(p, acc, scale, *offset):
    acc = acc + offset[0] if offset else acc
    assert np.abs(acc).max() < 2**31
    return acc.astype(np.float32) * scale.astype(np.float32)


def windows(reduce, empty):
    def compute(p, x):
        sizes, strides = p["window_dimensions"], p["window_strides"]
        assert set(p["base_dilation"]) == set(p["window_dilation"]) == {1}
        x = np.pad(x, p["padding"], constant_values=empty)
        seen = np.lib.stride_tricks.sliding_window_view(x, sizes)
        seen = seen[tuple(slice(None, None, s) for s in strides)]
        return reduce(seen, axis=tuple(range(x.ndim, 2 * x.ndim)))

    return compute


def broadcast(p, x):
    shape = [1] * len(p["shape"])
    for axis, size in zip(p["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), p["shape"])


def sliced(p, x):
    strides = p["strides"] or (1,) * x.ndim
    limits = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return x[tuple(slice(*each) for each in limits)]


def larger(p, x, y):
    return np.maximum(x, y)


def pad(p, x, value):
    for axis, (low, high, between) in enumerate(p["padding_config"]):
        size = (x.shape[axis] - 1) * (between + 1) + 1
        spread = np.full((*x.shape[:axis], size, *x.shape[axis + 1 :]), value, x.dtype)
        spread[(slice(None),) * axis + (slice(None, None, between + 1),)] = x
        widths = [(0, 0)] * x.ndim
        widths[axis] = (max(low, 0), max(high, 0))
        x = np.pad(spread, widths, constant_values=value)
        end = x.shape[axis] + min(high, 0)
        x = x[(slice(None),) * axis + (slice(max(-low, 0), end),)]
    return x


def rows_at(p, x, index):
    """Whole slices at given places of one axis, as `x[index]` and `take` are traced."""
    numbers = p["dimension_numbers"]
    (axis,) = numbers.start_index_map
    assert numbers.collapsed_slice_dims == (axis,) and index.shape[-1] == 1
    assert all(n == x.shape[a] for a, n in enumerate(p["slice_sizes"]) if a != axis)
    assert index.min() >= 0 and index.max() < x.shape[axis]
    taken = np.take(x, index[..., 0], axis)
    places = range(axis, axis + index.ndim - 1)  # of the index's axes: theirs are what is no offset
    ends = [a for a in range(taken.ndim) if a not in numbers.offset_dims]
    return np.moveaxis(taken, places, ends)


SCALED = {"quantize", "requantize", "dequantize", "look_up"}  # read real numbers by their meaning
OPS = {
    "slice": sliced,
    "quantize": quantize,
    "requantize": requantize,
    "conv_general_dilated": convolution,
    "dot_general": dot,
    "look_up": look_up,
    "dequantize": dequantize,
    "relu": lambda p, x: np.maximum(x, 0),
    "stop_gradient": lambda p, x: x,
    "mul": lambda p, x, y: x * y,
    "add": lambda p, x, y: x + y,
    "lt": lambda p, x, y: x < y,
    "select_n": lambda p, which, x, y: np.where(which, y, x),
    "reduce_window_max": windows(np.max, -128),
    "reduce_window_sum": windows(np.sum, 0),
    "reduce_sum": lambda p, x: x.sum(tuple(p["axes"])),
    "reduce_max": lambda p, x: x.max(tuple(p["axes"])),
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "broadcast_in_dim": broadcast,
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "max": larger,
    "rev": lambda p, x: np.flip(x, tuple(p["dimensions"])),
    "cumsum": lambda p, x: x.cumsum(p["axis"]),
    "sort": lambda p, x: np.sort(x, p["dimension"]),
    "pad": pad,
    "gather": rows_at,
}
