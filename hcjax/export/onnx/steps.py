"""Real scales of the numbers of an integer program, from its multipliers and its input's scale.

The fixed-point constants hold ratios of scales to 28 bits or so: the scale of a result is that of
its sum over the ratio. What a table computes has no such ratio; its scale is taken as 1, and the
last layer, which knows its real scale, makes good for that.
"""

from __future__ import annotations

import numpy as np

from hcjax.graph.model import LAYERS, Op
from hcjax.graph.ops.fixed_point import pre_shift


def ratios(op: Op, constants: list[np.ndarray]) -> list[np.ndarray]:
    """Returns float64[...] of each term of a rounding: steps of the result in one of the term's.

    constants: multipliers of the terms, offset and shift.
    """
    *multipliers, _, shift = (np.asarray(c, np.float64) for c in constants)
    return [
        m * 2.0 ** (pre_shift(bound) - 32 - shift)
        for m, bound in zip(multipliers, op.params["bounds"], strict=True)
    ]


def addend(constants: list[np.ndarray]) -> np.ndarray:
    """Returns float64[...]: what a rounding adds, in steps of the result."""
    *_, offset, shift = (np.asarray(c, np.float64) for c in constants)
    return (offset - 2.0 ** (shift - 1)) * 2.0**-shift


def steps(w) -> dict[int, np.ndarray]:
    """Returns number -> float64, the real value of a step of each int8 and int32 of a program.

    A number for each output channel, along the last axis, where a layer's kernel has several.
    """
    found: dict[int, np.ndarray] = {}
    for op in w.found.ops:
        known = [found[i] for i in op.inputs if i in found]
        if op.kind == "quantize":
            found[op.output] = np.asarray(w.constant(op.inputs[1]), np.float64).reshape(-1)[:1]
        elif op.kind == "requantize":
            constants = [w.constant(i) for i in op.inputs[len(op.params["bounds"]) :]]
            first = found.get(op.inputs[0], np.ones(1))
            ratio = ratios(op, constants)[0].reshape(-1)
            positive = np.abs(np.broadcast_arrays(first, ratio)) if ratio.size in (1, first.size) \
                else np.ones((2, 1))  # fmt: skip
            inside = positive[1] > 0
            found[op.output] = np.median(positive[0][inside] / positive[1][inside]).reshape(1) \
                if inside.any() else np.ones(1)  # fmt: skip
        elif op.kind in LAYERS and known:
            scale = getattr(w.found.values.get(op.inputs[1]), "scale", None)
            own = known[1] if scale is None and len(known) > 1 else scale
            own = np.ones(1) if own is None else np.asarray(own, np.float64).reshape(-1)
            found[op.output] = known[0] * own
        elif op.kind != "dequantize" and w.dtype(op.output).kind == "i":
            found[op.output] = known[0] if known else np.ones(1)
    return found
