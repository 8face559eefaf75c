"""Compiles real training steps for TPUs that are not there; test_plan.py runs it once.

    python tests/training/tpu_plans.py [CACHE]

Prints one JSON line per plan, with the shapes that its all-reduces ought to have. A process of
its own, because libtpu stays loaded in the process that has loaded it.
"""

import json
import re
import sys

import jax
import numpy as np
import optax

import hcjax
from hcjax import losses, models
from hcjax.devices import libtpu
from hcjax.graph.model import LAYERS
from hcjax.train import assembly, parallel, step
from hcjax.train.plan import chips, planner

SHAPES = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3), "resnet_tiny": (32, 32, 3)}
WANTED = [
    ("lenet5", "v5e:2x4", False),
    ("lenet5", "v5e:16x16", False),
    ("lenet5", "v6e:4x4", False),
    ("resnet20", "v5e:2x4", False),
    ("resnet20", "v5e:16x16", False),
    ("resnet20", "v6e:4x4", False),
    ("resnet_tiny", "v5e:2x4", True),
]
CHIPS = {"v5e:2x4": 8, "v5e:16x16": 256, "v6e:4x4": 16}
PER_CHIP = 8


def one(model: str, topology: str, sync: bool, cache: str | None) -> dict:
    """Returns a plan, and what its step ought to communicate."""
    shape, axis = SHAPES[model], {"axis_name": parallel.AXIS} if sync else {}
    network = models.create(model, input_shape=shape, **axis)
    channels = np.ones(shape[-1], np.float32)
    tx = optax.sgd(0.1, momentum=0.9)
    train, score = assembly.make_steps(
        network.apply,
        loss=losses.cross_entropy,
        tx=tx,
        mean=0 * channels,
        std=channels,
        num_classes=10,
    )
    scored = model == "lenet5" and topology == "v5e:2x4"
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    whole = jax.eval_shape(lambda p, s: step.init_state(p, s, tx), params, state)
    size = PER_CHIP * CHIPS[topology]
    label = np.zeros(size, np.int32)
    batch = {"image": np.zeros((size, *shape), np.uint8), "label": label}
    found = planner.plan(
        train,
        score if scored else None,
        whole,
        batch | {"position": label},
        batch | {"mask": label > 0},
        topology=topology,
        largest=False,
        scaling=False,
        quick=True,
        cache=cache,
    )
    leaves = jax.tree.leaves((params, state))
    return {
        "model": model,
        "sync": sync,
        "parameters_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params)),
        "leaves": [list(x.shape) for x in leaves],
        "norms": len(jax.tree.leaves(state)) // 2,  # each has a running mean and a variance
        "plan": found,
        "text": planner.text(found),
    }


def integers() -> dict:
    """Returns the types of an int8 network's products, as the TPU compiler leaves them."""
    network = models.create("resnet_tiny", input_shape=(32, 32, 3))
    params, state = network.init(jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, images[:1]))
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    kinds = [op.kind for op in small.graph.ops]
    with libtpu.alone(print):
        one = jax.sharding.SingleDeviceSharding(planner.topology_devices(chips.parse("v5e:2x2"))[0])
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), (small.params, images)
        )
        text = jax.jit(small.apply).lower(*shapes).compile().as_text()
    types = dict(
        re.findall(r"(%[\w.-]+) = (\w+)\[", text) + re.findall(r"([\w.-]+): (\w+)\[", text)
    )
    found = re.findall(r"= (\w+)\[\S+ (?:convolution|dot)\(([^)]*)\)", text)
    return {
        "model": "integers",
        "plan": {"topology": "v5e:2x2"},
        "layers": sum(kind in LAYERS for kind in kinds),
        "products": [[result, *(types[name] for name in of.split(", "))] for result, of in found],
    }


if __name__ == "__main__":
    print(json.dumps(integers()), flush=True)
    for wanted in WANTED:
        print(json.dumps(one(*wanted, sys.argv[1] if len(sys.argv) > 1 else None)), flush=True)
