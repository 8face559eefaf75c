"""Int8 as pairs of QuantizeLinear and DequantizeLinear around float ops, which runtimes fuse.

ONNX Runtime makes one integer kernel of DQ, Conv or Gemm, Q, if the activations are uint8 and there
is nothing else between them. It rounds real sums where hcjax rounds by multipliers, and each term
of a residual sum before it is added: results differ by a step now and then.

Kernels are uint8 too: where a processor has no VNNI, the runtime's products of uint8 by int8 add
pairs in 16 bits and saturate; those of uint8 by uint8 never do, and are as fast where it has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcjax.export.onnx import exact, layers, reduction
from hcjax.export.onnx.qdq_writer import ZERO, QdqWriter
from hcjax.export.onnx.reduction import left
from hcjax.export.onnx.steps import addend, ratios
from hcjax.graph.model import LAYERS, Op
from hcjax.graph.qtensor import QTensor

_INT32 = 2**31 - 1


def layer(w: QdqWriter, op: Op) -> None:
    """Leaves a layer of int8 with a kernel of its own to what rounds its sums."""
    kernel = w.found.values.get(op.inputs[1])
    plain = w.dtype(op.inputs[0]) == np.int8 and isinstance(kernel, QTensor)
    plain = plain and w.constant(op.inputs[0]) is None
    if plain and op.kind == "dot_general":
        plain = layers.is_matrix(w, op) and len(op.shape) == 2
    elif plain:
        plain = not any(n > 1 for n in op.params["lhs_dilation"])
        plain = plain and all(n >= 0 for pair in op.params["padding"] for n in pair)
    if plain:
        w.pending[op.output] = op
    else:
        exact.EMITTERS[op.kind](w, op)


def quantize(w: QdqWriter, op: Op) -> None:
    """Writes a QuantizeLinear to uint8."""
    (x, scale), zero = op.inputs, op.params.get("zero", 0)
    step = float(np.asarray(w.constant(scale)).reshape(-1)[0])
    value = w.value(x)
    if np.size(w.constant(scale)) > 1 or value.rows is not None:
        exact.quantize(w, op)
        return
    name = w.get(x, value.perm)
    name = name if w.dtype(x) == np.float32 else w.cast(name, np.float32)
    name = _clip(w, op, name, step, zero)
    w.move(lambda w, op: w.put(op.output, w.quantized(name, step, zero), value.perm), op)


def requantize(w: QdqWriter, op: Op) -> None:
    """Writes the layer whose sums are rounded, or a sum of two terms that are rounded before."""
    count = len(op.params["bounds"])
    terms, constants = op.inputs[:count], [w.constant(i) for i in op.inputs[count:]]
    fused = all(_fuses(w, i, op) for i in terms) and w.dtype(op.output) == np.int8
    if not fused or not all(_per_channel(op, c) for c in constants):
        exact.requantize(w, op)
        return
    step, zero = float(w.step[op.output][0]), w.zero.get(op.output, 0)
    scales = [ratio.reshape(-1) * step for ratio in ratios(op, constants)]
    more = (addend(constants).reshape(-1) - zero) * step
    summed = [i for i in terms if i in w.pending and w.pending[i].kind in LAYERS]
    centres = {i: _centre(w, w.pending[i], scales[terms.index(i)]) for i in summed[1:]}
    more = more + sum(centres.values())
    found: list = []
    for term, scale in zip(terms, scales, strict=True):
        if term in summed:
            bias = -centres[term] if term in centres else more
            name, perm = product(w, w.pending[term], scale, bias)
            if count > 1:
                ends = _reach(op, step, zero, [s for i, s in zip(terms, scales, strict=True)
                                               if i != term and i not in summed])  # fmt: skip
                name = _rounded(w, name, *ends)
            more = more if term in centres else 0 * more
        elif term in w.pending:
            name, perm = _sum(w, w.pending[term], float(scale[0]))
        else:
            perm = w.as_unsigned(term).perm
            name = w.dequantized(w.get_unsigned(term, perm), float(scale[0]), 0)
        if found:
            name = name if perm == found[1] else _turned(w, name, perm, found[1])
            name, perm = w.node("Add", [found[0], name]), found[1]
        found = [name, perm]
    name, perm = found
    if np.any(more):
        name = w.node("Add", [name, w.const(_laid(more, len(op.shape), perm), np.float32)])
    name = _clip(w, op, name, step, zero)
    w.move(lambda w, op: w.put(op.output, w.quantized(name, step, zero), perm), op)


def _centre(w: QdqWriter, op: Op, scale: np.ndarray) -> np.ndarray:
    """Returns real numbers: what the zero point of a layer's input adds to its sums."""
    x, kernel = op.inputs[:2]
    axis = layers.kernel_outputs(op)
    values = w.constant(kernel).astype(np.int64)
    sums = values.sum(tuple(a for a in range(values.ndim) if a != axis))
    return scale * w.zero.get(x, 0) * sums


def _reach(op: Op, step: float, zero: int, others: list[np.ndarray]) -> tuple[float, float]:
    """Returns the real ends of a term beyond which the sum is clipped, whatever the others are."""
    low, high = ((op.params[k] - zero) * step for k in ("least", "most"))
    if not others:  # of other layers: as far again
        return low - (high - low) / 2, high + (high - low) / 2
    spread = [sorted((-exact.STEPS * float(s[0]), (exact.STEPS - 1) * float(s[0]))) for s in others]
    return low - sum(high for _, high in spread), high - sum(low for low, _ in spread)


def _rounded(w: QdqWriter, name: str, low: float, high: float) -> str:
    """Rounds a term to uint8 between real ends, and reads it."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    zero = int(np.clip(np.round(-low / step), 0, 255)) - exact.STEPS
    return w.dequantized(w.quantized(name, step, zero), step, zero)


def _sum(w: QdqWriter, op: Op, scale: float) -> tuple[str, tuple]:
    """Writes a sum over axes of real numbers."""
    (x,), axes = op.inputs, op.params["axes"]
    perm = w.as_unsigned(x).perm
    name = w.dequantized(w.get_unsigned(x, perm), scale, 0)
    places = w.const([perm.index(a) for a in axes], np.int64)
    return w.node("ReduceSum", [name, places], keepdims=0), tuple(left(perm, axes))


def reduce_sum(w: QdqWriter, op: Op) -> None:
    """Leaves a sum of int8 to what rounds it."""
    if w.dtype(op.inputs[0]) == np.int8 and w.constant(op.inputs[0]) is None:
        w.pending[op.output] = op
    else:
        reduction.EMITTERS["reduce_sum"](w, op)


def _fuses(w: QdqWriter, number: int, op: Op) -> bool:
    """Returns whether a term is a layer that this op alone reads, or an int8."""
    if number in w.pending:
        alone = len(w.readers[number]) == 1 and number not in w.found.model.graph.outputs
        return alone and w.shape(number) == op.shape
    if w.dtype(number) != np.int8 or w.shape(number) != op.shape or w.constant(number) is not None:
        return False
    value = w.as_unsigned(number)
    return value.rows is None and not value.missing


def _per_channel(op: Op, constant: np.ndarray) -> bool:
    """Returns whether a constant is one number, or one for each channel on the last axis."""
    return constant.size == 1 or constant.size == constant.shape[-1]


def _turned(w: QdqWriter, name: str, perm: tuple, other: tuple) -> str:
    return w.node("Transpose", [name], perm=[perm.index(a) for a in other])


def _laid(value: np.ndarray, rank: int, perm: tuple) -> np.ndarray:
    if value.size == 1:
        return value.reshape(())
    return value.reshape((1,) * (rank - 1) + value.shape).transpose(perm)


def _clip(w: QdqWriter, op: Op, name: str, step: float, zero: int) -> str:
    """Adds a Clip before a rounding whose ends uint8 does not have; -127 is near enough to -128."""
    least, most = op.params["least"], op.params["most"]
    if least <= -127 and most >= 127:
        return name
    ends = [w.const((n - zero) * step, np.float32) for n in (least, most)]
    return w.node("Clip", [name, *ends])


def product(w: QdqWriter, op: Op, scale: np.ndarray, bias: np.ndarray) -> tuple[str, tuple]:
    """Writes a layer on real numbers; returns its name and order of axes.

    scale: real value of one of its sum, one or one for each channel. bias: real, likewise.
    """
    x, kernel = op.inputs[:2]
    conv = op.kind == "conv_general_dilated"
    x, pads = _before_padding(w, op) if conv else (x, [])
    zero = w.zero.get(x, 0)
    step = float(w.step[x][0]) if x in w.step else 1.0
    if conv:
        numbers = op.params["dimension_numbers"]
        weights = w.constant(kernel).transpose(numbers.rhs_spec)
        name, perm, axis = w.get_unsigned(x, numbers.lhs_spec), tuple(numbers.out_spec), 0
        params = op.params
        attributes = {
            "strides": list(params["window_strides"]),
            "pads": [low for low, _ in pads] + [high for _, high in pads],
            "dilations": list(params["rhs_dilation"]),
            "group": params["feature_group_count"],
        }
    else:
        weights, rows = w.constant(kernel), w.as_unsigned(x).rows
        weights = weights if rows is None else weights[rows]
        name = w.get_unsigned(x) if rows is None else w.unsigned[x].name
        perm, axis, attributes = tuple(range(len(op.shape))), 1, {}
    channels = weights.shape[axis]
    of_kernel = np.broadcast_to((scale / step).astype(np.float32), (channels,))
    signs = np.where(of_kernel < 0, -1, 1)
    along = [-1 if a == axis else 1 for a in range(weights.ndim)]
    weights = weights.astype(np.int64) * signs.reshape(along)
    of_kernel = np.maximum(np.abs(of_kernel), np.finfo(np.float32).tiny)
    others = tuple(a for a in range(weights.ndim) if a != axis)
    sums = weights.sum(others)
    of_bias = (np.float32(step) * of_kernel).astype(np.float32)
    whole = np.broadcast_to(bias, (channels,)) / of_bias.astype(np.float64) + zero * sums
    whole = np.clip(np.round(whole), -_INT32, _INT32).astype(np.int32)
    names = [
        w.dequantized(name, step, zero),
        _dequantized(w, (weights + ZERO).astype(np.uint8), of_kernel, axis, ZERO),
        _dequantized(w, whole, of_bias, 0),
    ]
    return w.node("Conv" if conv else "Gemm", names, **attributes), perm


def _dequantized(
    w: QdqWriter, values: np.ndarray, scales: np.ndarray, axis: int, zero: int = 0
) -> str:
    zeros = np.full(len(scales), zero, values.dtype)
    names = [w.const(values), w.const(scales, np.float32), w.const(zeros)]
    return w.node("DequantizeLinear", names, axis=axis)


def _before_padding(w: QdqWriter, op: Op) -> tuple[int, list]:
    """Returns the operand of a convolution before a padding with its zero, and all padding."""
    x, pads = op.inputs[0], [tuple(pair) for pair in op.params["padding"]]
    maker = w.producers.get(x)
    if maker is None or maker.kind != "pad" or any(map(any, pads)):
        return x, pads
    numbers, config = op.params["dimension_numbers"], maker.params["padding_config"]
    inside = [config[a] for a in numbers.lhs_spec[2:]]
    plain = not any(map(any, (config[a] for a in numbers.lhs_spec[:2])))
    plain = plain and all(low >= 0 and high >= 0 and not mid for low, high, mid in inside)
    zero = w.constant(maker.inputs[1])
    if not plain or zero is None or w.zero.get(maker.inputs[0]) != int(zero.reshape(())):
        return x, pads
    return maker.inputs[0], [(low, high) for low, high, _ in inside]


def dequantize(w: QdqWriter, op: Op) -> None:
    """Writes the layer of the logits."""
    x, scale, *offset = op.inputs
    if x not in w.pending or w.pending[x].kind not in LAYERS or not _fuses(w, x, op):
        exact.dequantize(w, op)
        return
    scale = np.asarray(w.constant(scale), np.float64).reshape(-1)
    offset = np.zeros(1) if not offset else w.constant(offset[0]).astype(np.float64).reshape(-1)
    channel = w.pending[x].params["dimension_numbers"].out_spec[1] \
        if w.pending[x].kind != "dot_general" else len(op.shape) - 1  # fmt: skip
    if max(scale.size, offset.size) > 1 and channel != len(op.shape) - 1:
        exact.dequantize(w, op)
        return
    name, perm = product(w, w.pending[x], scale, offset * scale)
    w.put(op.output, name, perm)


def moves(emitter: Callable) -> Callable:
    """Returns the emitter of an op that moves numbers: uint8 where it moves int8."""

    def moved(w: QdqWriter, op: Op) -> None:
        given = [i for i in op.inputs if w.constant(i) is None]
        if given and all(w.dtype(i) == np.int8 for i in given):
            for i in given:
                w.as_unsigned(i)
            w.move(emitter, op)
        else:
            emitter(w, op)

    return moved


MOVES = (
    "reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "rev", "concatenate", "pad",
    "copy", "stop_gradient", "reduce_window_max", "reduce_max",
)  # fmt: skip
EMITTERS = {
    **dict.fromkeys(LAYERS, layer),
    "quantize": quantize,
    "requantize": requantize,
    "dequantize": dequantize,
    "reduce_sum": reduce_sum,
}
