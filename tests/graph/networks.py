"""Networks of several libraries, all parameters and statistics random: (apply, params, image).

Random, because some libraries start a last layer at zero, which would make every check vacuous.
"""

from functools import lru_cache

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import lax

import hcjax
from tests.draws import normal


def randomized(tree, seed=0):
    """Returns the tree with every float leaf near its value, but none constant; statistics > 0."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    new = [
        jnp.asarray(np.asarray(leaf) + rng.uniform(0.05, 0.3, leaf.shape).astype(leaf.dtype))
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        else leaf
        for leaf in leaves
    ]
    return jax.tree.unflatten(treedef, new)


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        x = nn.Dropout(0.5, deterministic=not train)(nn.hard_swish(nn.Conv(8, (1, 1))(x)))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        return nn.Dense(10)(x)


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.dense(self.drop(x).mean((1, 2)))


class EquinoxCNN(eqx.Module):
    conv: eqx.nn.Conv2d
    dense: eqx.nn.Linear

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(3, 8, 3, stride=2, key=a)
        self.dense = eqx.nn.Linear(8, 10, key=b)

    def __call__(self, x):
        return self.dense(jax.nn.relu(self.conv(x)).mean((1, 2)))


def linen():
    net, x = LinenCNN(), jnp.ones((1, 16, 16, 3))
    return net.apply, randomized(net.init(jax.random.key(0), x)), x


def nnx_cnn(train=False):
    net = NnxCNN(nnx.Rngs(0))
    if not train:
        net.eval()
    definition, state = nnx.split(net)
    return lambda s, x: nnx.merge(definition, s)(x), randomized(state), jnp.ones((1, 16, 16, 3))


def equinox():
    params, static = eqx.partition(EquinoxCNN(jax.random.key(0)), eqx.is_array)
    apply = lambda p, x: jax.vmap(eqx.combine(p, static))(x)
    return apply, randomized(params), jnp.ones((1, 3, 16, 16))


def haiku(make, size=32):
    net = hk.without_apply_rng(
        hk.transform_with_state(lambda x, train: make()(x, is_training=train))
    )
    x = jnp.ones((1, size, size, 3))
    params, state = jax.eval_shape(lambda key: net.init(key, x, True), jax.random.key(0))
    rng = np.random.default_rng(0)  # drawn here, for haiku would compile each layer's
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) / 10, s.dtype), params)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
    apply = lambda p, x: net.apply(p["params"], p["state"], x, False)[0]
    return apply, randomized({"params": params, "state": state}), x


def haiku_resnet():
    widths = {"channels_per_group": (8, 8, 16, 16), "bottleneck": False, "resnet_v2": False}
    return haiku(lambda: hk.nets.ResNet((1, 1, 1, 1), 10, **widths))


def haiku_mobilenet():
    return haiku(lambda: hk.nets.MobileNetV1((1, 2), (8, 16), 10))


def dense_net():
    """Concatenation, squeeze-and-excite, PReLU, and one kernel used twice."""
    shapes = {"a": (3, 3, 3, 8), "b": (1, 1, 11, 11), "c": (11, 11), "d": (11, 10), "slope": (11,)}
    params = {k: jnp.zeros(s) - 0.1 for k, s in shapes.items()}

    def conv(x, k):
        return lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(p, x):
        y = jnp.concatenate([x, jax.nn.relu(conv(x, p["a"]))], -1)
        y = conv(conv(y, p["b"]) * 2.0, p["b"]) - 1.0
        y = jnp.where(y > 0, y, p["slope"] * y)
        y = y * jax.nn.sigmoid(y.mean((1, 2)) @ p["c"])[:, None, None]
        return y.mean((1, 2)) @ p["d"]

    return apply, randomized(params), jnp.ones((1, 8, 8, 3))


def ours(name, shape, **options):
    def make():
        network = hcjax.models.create(name, input_shape=shape, **options)
        params, state = jax.eval_shape(network.init, jax.random.key(0))
        fill = lambda tree: jax.tree.map(lambda s: jnp.full(s.shape, 0.02, s.dtype), tree)
        return (
            hcjax.inference(network.apply, fill(state)),
            randomized(fill(params)),
            jnp.ones((1, *shape)),
        )

    return make


NETWORKS = {
    "linen": linen,
    "nnx": nnx_cnn,
    "equinox": equinox,
    "haiku resnet": haiku_resnet,
    "haiku mobilenet": haiku_mobilenet,
    "dense": dense_net,
    "lenet5": ours("lenet5", (28, 28, 1)),
    "resnet_tiny": ours("resnet_tiny", (32, 32, 3)),
    "seed_cnn_tiny": ours("seed_cnn_tiny", (8, 8, 1)),
}
# what of a library's params is no parameter
FROZEN = {
    "linen": "batch_stats/.*",
    "nnx": ".*/(mean|var)/value",
    "haiku resnet": "state/.*",
    "haiku mobilenet": "state/.*",
}


@lru_cache
def folded(name):
    """Returns a folded network and 8 random images for it."""
    apply, params, image = NETWORKS[name]()
    images = normal(8, *image.shape[1:], seed=1)
    return hcjax.fold(hcjax.trace(apply, params, image, frozen=FROZEN.get(name, ""))), images


def logits(model, images):
    """Returns a model's logits, compiled."""
    return np.asarray(jax.jit(model.apply)(model.params, images))
