"""Weights of kernels, those that are not 0, and their MACs, however a network holds them."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax import cost, trace
from hcjax.graph.cost import kernels


def sparse(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (rng.random(shape) < 0.3)).astype(np.float32)


def test_a_kernel_that_is_an_expression_of_parameters_counts_as_it_is_used():
    w = sparse((5, 7))
    model = trace(lambda p, x: x @ (p["w"].T * p["s"]), {"w": w, "s": np.float32(2)}, w[:1])
    nonzero = int((w != 0).sum())
    assert kernels(model) == (35, nonzero, nonzero)


def test_a_shared_kernel_counts_once_and_works_twice():
    w = sparse((4, 4))
    model = trace(lambda p, x: jnp.tanh(x @ p) @ p, w, w[:1])
    nonzero = int((w != 0).sum())
    assert kernels(model) == (16, nonzero, 2 * nonzero) and cost(model).macs == 32


def test_groups_and_biases():
    k, x = sparse((3, 3, 2, 9)), np.zeros((1, 8, 8, 6), np.float32)

    def apply(p, x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x, p["k"], (1, 1), "VALID", dimension_numbers=layout, feature_group_count=3
        )
        return (y + p["b"]).mean((1, 2))

    model = trace(apply, {"k": k, "b": np.ones(9, np.float32)}, x)
    nonzero = int((k != 0).sum())
    assert kernels(model) == (k.size, nonzero, 36 * nonzero) and cost(model).macs == 36 * k.size


def test_products_of_activations_have_no_kernel():
    w = sparse((3, 3))

    def apply(p, x):
        return (jnp.einsum("ni,nj->nij", x, x) * p).sum(1)

    model = trace(apply, w, w[:1])
    assert kernels(model) == (0, 0, cost(model).macs)
