"""Networks that are no image classifiers: (apply, params, inputs, ops that stay in float)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from tests.draws import normal
from tests.graph.networks import randomized


def linen(module, *inputs):
    """Returns (apply, params, inputs) of a Linen module in inference."""
    ones = jax.tree.map(lambda x: x[:1], inputs)
    variables = randomized(module.init(jax.random.key(0), *ones))
    return module.apply, variables, inputs


class UNet(nn.Module):
    up: str

    @nn.compact
    def __call__(self, x):
        a = nn.relu(nn.Conv(6, (3, 3))(x))
        b = nn.relu(nn.Conv(8, (3, 3), strides=2)(a))
        b = nn.relu(nn.Conv(8, (3, 3))(b))
        if self.up == "transposed":
            b = nn.ConvTranspose(6, (2, 2), (2, 2))(b)
        else:
            b = jax.image.resize(b, (*a.shape[:3], 8), self.up)
        c = nn.relu(nn.Conv(6, (3, 3))(jnp.concatenate([a, b], -1)))
        return nn.Conv(3, (1, 1))(c)


class Detector(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (6, 8):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        heat = nn.sigmoid(nn.Conv(3, (1, 1))(x))
        both = nn.Conv(6, (1, 1))(x) * jnp.array([300.0] * 4 + [0.1] * 2)
        box, offset = jnp.split(both, [4], -1)
        flat = jnp.concatenate([jnp.exp(box * 0.001), 0.01 * offset, 50 * nn.relu(box)], -1)
        return {"heat": heat, "box": (box, offset), "flat": flat.reshape(x.shape[0], -1, 10)}


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, image, sound):
        a = nn.relu(nn.Conv(6, (3, 3), strides=2)(image)).mean((1, 2))
        b = nn.relu(nn.Conv(6, (5,), strides=2)(sound["wave"])).mean(1)
        return nn.Dense(4)(jnp.concatenate([a, b * 2], -1))


class TextCNN(nn.Module):  # Kim, 2014
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 8)(tokens)
        pooled = [nn.relu(nn.Conv(5, (width,))(x)).max(1) for width in (2, 3, 4)]
        return nn.Dense(4)(jnp.concatenate(pooled, -1))


class Encoder(nn.Module):
    layers: int = 1

    @nn.compact
    def __call__(self, x, mask=None):
        for _ in range(self.layers):
            y = nn.LayerNorm()(x)
            seen = None if mask is None else mask[:, None, None, :]
            x = x + nn.MultiHeadDotProductAttention(2, deterministic=True)(y, mask=seen)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        return x


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens, mask):
        x = nn.Embed(20, 8)(tokens)
        x = x + self.param("place", nn.initializers.normal(0.5), (1, tokens.shape[1], 8))
        x = Encoder()(x, mask) * mask[..., None]
        return nn.Dense(4)(x.sum(1) / mask.sum(1)[:, None])


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), strides=4)(x)
        x = x.reshape(x.shape[0], -1, 8)
        token = self.param("token", nn.initializers.normal(0.5), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 8)), x], 1)
        x = x + self.param("place", nn.initializers.normal(0.5), (1, x.shape[1], 8))
        return nn.Dense(4)(nn.LayerNorm()(Encoder()(x)[:, 0]))


class CNN3D(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(6, (3, 3, 3))(x)), (2, 2, 2), (2, 2, 2))
        return nn.Dense(4)(nn.relu(nn.Conv(8, (3, 3, 3))(x)).mean((1, 2, 3)))


class ConvNeXt(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(8, (2, 2), strides=2)(x))
        y = nn.LayerNorm()(nn.Conv(8, (7, 7), feature_group_count=8)(x))
        y = nn.Dense(8)(nn.gelu(nn.Dense(16)(y)))
        x = x + y * self.param("gamma", nn.initializers.constant(0.1), (8,))
        return nn.Dense(4)(nn.LayerNorm()(x.mean((1, 2))))


def lstm(params, x):
    width = params["h"].shape[0]

    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ params["x"] + h @ params["h"] + params["b"], 4, -1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = (jnp.zeros((x.shape[0], width)),) * 2
    (h, _), every = lax.scan(step, start, x.swapaxes(0, 1))
    return {"last": h @ params["out"], "every": every.swapaxes(0, 1)}


def lstm_of(steps):
    """Returns an LSTM of 6 units over so many steps."""
    params = {"x": (3, 24), "h": (6, 24), "b": (24,), "out": (6, 4)}
    return lstm, {k: 0.4 * normal(*s, seed=3) for k, s in params.items()}, (normal(6, steps, 3),)


def tokens(*shape):
    """Returns int32[shape] in 0..19."""
    return jnp.asarray(np.random.default_rng(0).integers(0, 20, shape), jnp.int32)


MASK = jnp.asarray(np.arange(7) < np.array([[7], [5], [3], [7], [6], [2]]), jnp.float32)
OPEN = {
    "unet transposed": lambda: linen(UNet("transposed"), normal(6, 12, 12, 2)),
    "unet bilinear": lambda: linen(UNet("bilinear"), normal(6, 12, 12, 2)),
    "unet nearest": lambda: linen(UNet("nearest"), normal(6, 12, 12, 2)),
    "detector": lambda: linen(Detector(), normal(6, 12, 12, 2)),
    "two inputs": lambda: linen(TwoInputs(), normal(6, 8, 8, 2), {"wave": normal(6, 16, 2)}),
    "text cnn": lambda: linen(TextCNN(), tokens(6, 9)),
    "transformer": lambda: linen(Transformer(), tokens(6, 7), MASK),
    "vit": lambda: linen(ViT(), normal(6, 12, 12, 2)),
    "cnn 3d": lambda: linen(CNN3D(), normal(6, 6, 6, 6, 2)),
    "convnext": lambda: linen(ConvNeXt(), normal(6, 8, 8, 2)),
    "lstm, unrolled": lambda: lstm_of(3),
    "lstm, a loop": lambda: lstm_of(40),
}
