"""Rules for matrix products that are too thin for a matrix kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from hcjax.core.walker import Eqn, Place, bind
from hcjax.native import calls, onednn, rows

_FEW_OUTPUTS = 32  # beyond, the matrix kernel is as fast
_LEAST_LENGTH = 256  # of the sums; below, overhead dominates
_MOST_ROWS = 4  # beyond, reading the matrix is not what takes the time
_LEAST_SIZE = 1 << 19  # of the matrix; a smaller one is in the nearest caches


def native_rows(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a few rows times a large matrix with all threads, reading it from end to end.

    AlexNet 32, one image, 4,096 inputs and 1,024 units: 0.51 → 0.37 ms (AMD EPYC with AVX-512,
    busy with other work). XLA reads the matrix with one thread, and again for other rows.
    """
    left, right = (v.aval for v in eqn.invars)
    if not all(isinstance(d, int) for d in (*left.shape, *right.shape)):
        return "a symbolic size"
    if any(v.aval.dtype != jnp.float32 for v in (*eqn.invars, *eqn.outvars)):
        return "not float32"
    if eqn.params["dimension_numbers"] != (((left.ndim - 1,), (0,)), ((), ())) or right.ndim != 2:
        return "not rows times a matrix"
    made = place.producer(eqn.invars[1])
    if made is not None and made.primitive.name == "transpose":
        return "of a transposed matrix, which XLA reads where it lies"
    length, columns = right.shape
    if not length or not left.size or left.size > _MOST_ROWS * length:
        return f"{left.size // max(length, 1)} rows; 1 to {_MOST_ROWS} pay"
    if right.size < _LEAST_SIZE or columns <= _FEW_OUTPUTS:
        return f"{length} x {columns}; {_LEAST_SIZE} and more than {_FEW_OUTPUTS} columns pay"
    precision = eqn.params["precision"]
    pair = precision if isinstance(precision, tuple) else (precision,)
    if not all(p is None or isinstance(p, lax.Precision) for p in pair):
        return f"of a precision of its own, {precision}"
    if any(any(v.aval.sharding.spec) for v in (*eqn.invars, *eqn.outvars)):
        return "of arrays that are sharded over a mesh, which a call is not"
    if why := onednn.missing() or rows.missing():
        return why
    shape = eqn.outvars[0].aval.shape

    def product(x, w):
        return rows.product(x.reshape(-1, length), w).reshape(shape)

    def plain(*operands):
        return bind(eqn, operands)[0]

    return calls.differentiable(calls.alone(product, plain), plain)


def row_times_thin(eqn: Eqn, place: Place) -> Callable | str:
    """Computes one row times a matrix of few columns as products and one sum.

    A single image's last layer: 10 µs against 27 for 5,408 inputs and 10 classes.
    """
    del place
    left, right = (v.aval for v in eqn.invars)
    (contracted, other), (batch, _) = eqn.params["dimension_numbers"]
    if not all(isinstance(d, int) for d in (*left.shape, *right.shape)):
        return "a symbolic size"
    if batch or any(v.aval.dtype != jnp.float32 for v in (*eqn.invars, *eqn.outvars)):
        return "a batch of products, or not float32"
    length = math.prod(left.shape[i] for i in contracted)
    if left.size != length:
        return f"{left.size // max(length, 1)} rows"
    if length < _LEAST_LENGTH or right.size > _FEW_OUTPUTS * length:
        size = f"{length} x {right.size // max(length, 1)}"
        return f"{size}; from {_LEAST_LENGTH} on and up to {_FEW_OUTPUTS} pay"
    shape = eqn.outvars[0].aval.shape

    def product(x, k):
        axes = (*contracted, *(i for i in range(x.ndim) if i not in contracted))
        row = lax.transpose(x, axes).reshape(length, 1)
        k = lax.transpose(k, (*other, *(i for i in range(k.ndim) if i not in other)))
        return (row * k.reshape(length, -1)).sum(0).reshape(shape)

    return product
