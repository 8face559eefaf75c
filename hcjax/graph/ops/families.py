"""Families of ops: kinds that the readings treat alike, named once, below all of them."""

from __future__ import annotations

# ops that neither add nor scale: the result's numbers are among the operand's
MOVED = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice")
MOVED += ("copy", "stop_gradient", "reduce_max", "reduce_window_max")
# ops that keep the order of numbers
ORDERED = (*MOVED, "relu")
# functions of numbers at one place each, that a table of 256 entries can hold
FUNCTIONS = (
    "abs", "cbrt", "ceil", "cos", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
    "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "ne", "not",
    "and", "or", "pow", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "tan",
    "tanh",
)  # fmt: skip
# those and the ops that sum, scale and clip place by place
ELEMENTWISE = ("add", "sub", "mul", "div", "neg", "relu", "relu6", "clamp", "max", "min")
ELEMENTWISE += FUNCTIONS
