"""Single operations, written as users write them; each gives (function, its random arguments)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax


def arrays(*shapes: tuple[int, ...], dtype=np.float32) -> list[jax.Array]:
    """Returns an array of random numbers per shape."""
    rng = np.random.default_rng(0)
    if dtype == np.int8:
        return [jnp.asarray(rng.integers(-127, 128, shape, np.int8)) for shape in shapes]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def layer(x, k, *, stride=1, padding="SAME", layout=("NHWC", "HWIO", "NHWC"), **options):
    """Returns a convolution."""
    strides = (stride,) * (np.ndim(x) - 2)
    return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=layout, **options)


def forward(image, kernel, dtype=np.float32, **options):
    """A layer."""
    return partial(layer, **options), arrays(image, kernel, dtype=dtype)


def gradient(of: int, image, kernel, **options):
    """A layer's gradient of its image (0) or its kernel (1)."""
    run = partial(layer, **options)
    x, k = arrays(image, kernel)
    dy = arrays(jax.eval_shape(run, x, k).shape)
    return lambda x, k, dy: jax.vjp(run, x, k)[1](dy)[of], [x, k, *dy]


def passes(image, kernel, **options):
    """A layer's value and both gradients."""
    run = partial(layer, **options)
    x, k = arrays(image, kernel)
    dy = arrays(jax.eval_shape(run, x, k).shape)

    def all_three(x, k, dy):
        y, back = jax.vjp(run, x, k)
        return y, back(dy)

    return all_three, [x, k, *dy]


def finished(image, kernel, **options):
    """A layer with bias, the sum of a residual branch, and a relu."""
    run = partial(layer, **options)
    x, k, bias = arrays(image, kernel, kernel[-1:])
    branch = arrays(jax.eval_shape(run, x, k).shape)
    return lambda x, k, bias, branch: nn.relu(run(x, k) + bias + branch), [x, k, bias, *branch]


def in_use(image, kernel, **options):
    """A layer with bias and relu whose parameters the program holds, and its image."""
    x, k, b = arrays(image, kernel, kernel[-1:])
    return lambda x: jax.nn.relu(layer(x, k, **options) + b), (x,)


def activated(run):
    """Returns a layer with what is before it: a normalisation's scale and shift, and a relu."""
    return lambda x, scale, shift, k: run(nn.relu(x * scale + shift), k)


def forward_activated(image, kernel, **options):
    """A layer after a normalisation and a relu."""
    x, k, scale, shift = arrays(image, kernel, image[-1:], image[-1:])
    return activated(partial(layer, **options)), [x, scale, shift, k]


def gradient_activated(image, kernel, **options):
    """A layer's kernel gradient, after a normalisation and a relu, and before a relu."""
    run, args = forward_activated(image, kernel, **options)
    dy = arrays(jax.eval_shape(run, *args).shape)

    def kernel_gradient(x, scale, shift, k, dy):
        return jax.vjp(lambda k: nn.relu(run(x, scale, shift, k)), k)[1](dy)[0]

    return kernel_gradient, [*args, *dy]


def transposed(image, kernel, stride):
    """A transposed convolution."""
    strides = (stride, stride)
    return lambda x, k: lax.conv_transpose(x, k, strides, "SAME"), arrays(image, kernel)


def pool(of: Callable, image, size, stride):
    """A pool of `flax.linen`."""
    return lambda x: of(x, (size, size), (stride, stride), "SAME"), arrays(image)


def pool_gradient(of: Callable, image, size, stride):
    """The gradient of a pool."""
    run, (x,) = pool(of, image, size, stride)
    dy = arrays(jax.eval_shape(run, x).shape)
    return lambda x, dy: jax.vjp(run, x)[1](dy)[0], [x, *dy]


def norm_gradient(image):
    """All gradients of a BatchNorm, in training."""

    def norm(x, scale, bias):
        axes = tuple(range(x.ndim - 1))
        centred = x - x.mean(axes)
        return centred * lax.rsqrt(x.var(axes) + 1e-5) * scale + bias

    x, scale, bias, dy = arrays(image, image[-1:], image[-1:], image)
    return lambda x, s, b, dy: jax.vjp(norm, x, s, b)[1](dy), [x, scale, bias, dy]


def last_mean(image, kernel):
    """A network's last layer, its relu and the mean over pixels."""
    return lambda x, k: nn.relu(layer(x, k)).mean((1, 2)), arrays(image, kernel)


def product(left, right):
    """A matrix product."""
    return jnp.matmul, arrays(left, right)


def looped(make: Callable, *shapes, **options):
    """An operation on each of two images in a compiled loop."""
    fn, (x, *rest) = make(*shapes, **options)
    return lambda xs, *rest: lax.map(lambda x: fn(x, *rest), xs), [jnp.stack([x, x]), *rest]
