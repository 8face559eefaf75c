"""A small LeNet-5 trained on a slice of MNIST, and what compression makes of it: once a process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hcjax
from hcjax import cards

LIMIT = 1000  # examples of each part


@functools.cache
def data():
    """Returns the slice: 1,000 training and 1,000 test images."""
    return hcjax.data.load("mnist", limit=LIMIT, validation=0)


def about(**changes):
    """Returns what a file of one of the models says of it."""
    return {
        "class_names": list(data().class_names),
        "mean": data().mean.tolist(),
        "std": data().std.tolist(),
        "data": {"source": "mnist", "limit": LIMIT},
    } | changes


@functools.cache
def models():
    """Returns the network as it was trained, with nine of ten weights 0, and with 4-bit weights."""
    network = hcjax.models.create("lenet5_tiny", activation="relu")
    params, state = network.init(jax.random.key(0))
    done = hcjax.fit(
        network.apply,
        params,
        data(),
        state=state,
        loss=hcjax.losses.cross_entropy,
        tx=optax.adam(3e-3),
        steps=60,
        batch_size=64,
        key=jax.random.key(1),
        quiet=True,
    )
    apply = hcjax.inference(network.apply, state)
    dense = hcjax.fold(hcjax.trace(apply, done.params, jnp.zeros((1, 28, 28, 1))))
    masks = hcjax.prune.masks(dense.params, sparsity=0.9)
    sparse = dense.replace(params=hcjax.prune.apply(masks, dense.params))
    small = hcjax.int8(dense, hcjax.calibrate(dense, normalised()[:64]), bits=4)
    return {"float": dense, "pruned": sparse, "int4": small}


@functools.cache
def scorecards():
    """Returns the models' cards, by name; the others' baseline is "float"."""
    made = {}
    for name, model in models().items():
        made[name] = cards.scorecard(
            model, data(), name=name, baseline=made.get("float"), timed=False
        )
    return made


def normalised():
    """Returns the test images as the networks take them, by plain NumPy."""
    return (data().test.images.astype(np.float32) / 255 - data().mean) / data().std


def predictions(model):
    """Returns int[1000]: what a model says, without anything that scores it in hcjax."""
    return np.asarray(jax.jit(model.apply)(model.params, normalised())).argmax(1)
