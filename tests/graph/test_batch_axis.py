"""trace follows the images of a batch through every op, and refuses networks that mix them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hcjax import trace
from tests.draws import normal

X = normal(5, 6, 4)
W = normal(4, 4, seed=1)
IMAGE_CONV = {"dimension_numbers": ("NWC", "WIO", "NWC")}


def flat(y):
    return y.reshape(y.shape[0], -1)


def attention(p, x):
    scores = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", x @ p, x), -1)
    return jnp.einsum("nqk,nkc->nqc", scores, x).mean(1)


def token(p, x):
    y = jnp.concatenate([jnp.broadcast_to(p[:1], (x.shape[0], 1, 4)), x], 1)
    return (y @ p)[:, 0]


def windows(p, x):
    """Attention inside windows that are folded into the batch, in front of it and behind."""
    y = x.reshape(x.shape[0], 3, 2, 4).reshape(-1, 2, 4)
    y = y + jnp.zeros((y.shape[0], 1, 1)) + jax.nn.softmax(y @ p @ y.transpose(0, 2, 1)) @ y
    y = y.reshape(-1, 3, 2, 4).transpose(1, 0, 2, 3).reshape(-1, 2, 4) @ p
    return flat(y.reshape(3, -1, 2, 4).transpose(1, 0, 2, 3))


def own_kernels(p, x):
    def one(image):
        kernel = jnp.stack([image[:2] @ p, image[1:3] @ p], -1)
        return lax.conv_general_dilated(image[None], kernel, (1,), "SAME", **IMAGE_CONV)[0]

    return flat(jax.vmap(one)(x))


def picked(p, x):
    y = jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), 1)[:, 0]
    best = jax.vmap(lambda image: image[jnp.argmax(image[:, 0])])(x)
    return y + best.at[:, 1].set(2.0) + jax.vmap(lambda v: v.at[jnp.argmax(v)].add(1.0))(best)


def determinants(p, x):
    """Of a matrix of each image, and of a weight: two diagonals, each written in another way."""
    y = jnp.einsum("nic,njc->nij", x, x) + jnp.eye(6)
    sign, log = jnp.linalg.slogdet(y)
    return jnp.stack([sign, log], 1) + jnp.linalg.det(y / 4)[:, None] * jnp.linalg.slogdet(p)[1]


FINE = {
    "determinants": determinants,
    "a weight's diagonal": lambda p, x: x.mean(1) * jnp.diagonal(p),
    "a diagonal": lambda p, x: jnp.diagonal(x[:, :4], axis1=1, axis2=2) * jnp.trace(p),
    "attention": attention,
    "class token": token,
    "windows": windows,
    "own kernels": own_kernels,
    "picked": picked,
    "flipped too": lambda p, x: flat(jnp.concatenate([x, x[:, ::-1]]).reshape(2, -1, 6, 4).sum(0)),
    "embedding": lambda p, x: p[(x[:, 0] > 0).astype(int)].sum(1),
    "position": lambda p, x: flat(x * lax.broadcasted_iota(jnp.float32, x.shape, 1)),
    "vmap": lambda p, x: jax.vmap(lambda v: jnp.cumsum(jnp.sort(v @ p, 0), 0)[-1])(x),
    "other order": lambda p, x: (p.T @ x.transpose(2, 1, 0).reshape(4, -1)).reshape(24, -1).T,
    "best": lambda p, x: lax.top_k(x.mean(1) @ p, 3)[0],
}


@pytest.mark.parametrize("name", FINE)
def test_what_keeps_images_apart_is_traced(name):
    model = trace(FINE[name], W, X[:1])
    expected = np.asarray(FINE[name](W, X))
    np.testing.assert_allclose(model.apply(model.params, X), expected, atol=1e-5)
    alone = [model.apply(model.params, X[n : n + 1])[0] for n in range(5)]
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def averaged(y, **options):
    kernel = jnp.ones((3, 1, 1))
    return lax.conv_general_dilated(y.T[..., None], kernel, (1,), "SAME", **options)[..., 0].T


MIXED = {
    "first": (lambda y: y - y[:1], "takes some images of a batch"),
    "covariance": (lambda y: y @ (y.T @ y), "sums over the batch"),
    "similarity": (lambda y: (y @ y.T) @ y, "mixes the images of a batch"),
    "weighted": (lambda y: y - jnp.ones((1, y.shape[0])) @ y, "sums over the batch"),
    "cumsum": (lambda y: jnp.cumsum(y, 0), "mixes"),
    "sort": (lambda y: jnp.sort(y, 0), "mixes"),
    "argsort": (lambda y: y + jnp.argsort(y, 0), "counts the images"),
    "argmax": (lambda y: y + jnp.argmax(y, 0), "reduces over the batch"),
    "product": (lambda y: y * jnp.prod(y, 0), "reduces over the batch"),
    "rev": (lambda y: lax.rev(y, (0,)), "mixes"),
    "pool": (lambda y: lax.reduce_window(y, 0.0, lax.add, (3, 1), (1, 1), "SAME"), "mixes"),
    "conv": (lambda y: averaged(y, **IMAGE_CONV), "mixes"),
    "fft": (lambda y: jnp.fft.fft(y.T).real.T, "mixes"),
    "shuffled": (lambda y: y.reshape(4, -1).T, "mixes"),
    "position": (lambda y: y + lax.iota(jnp.float32, y.shape[0])[:, None], "counts the images"),
    "written": (lambda y: lax.dynamic_update_slice(y, jnp.ones((1, 4)), (0, 0)), "mixes"),
    "set": (lambda y: y.at[0].set(1.0), "mixes"),
    "shifted": (lambda y: lax.pad(y, 0.0, ((1, -1, 0), (0, 0, 0))), "mixes"),
    "paired": (lambda y: y.reshape(1, -1).reshape(4, -1).T, "mixes"),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_images_is_a_type_error_that_names_the_line(name):
    mix, message = MIXED[name]
    with pytest.raises(TypeError, match=rf"test_batch_axis.py:\d+ .*{message}"):
        trace(lambda p, x: mix(x.mean(1)) @ p, W, X[:1])
