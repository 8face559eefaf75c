"""Compiles real training steps for TPUs that are not there; test_plan.py runs it, once for each.

    python tests/train/tpu_plans.py networks|generations|configs [CACHE]

networks: what those of `NETWORKS` compute and communicate, and an int8 network's products.
generations: a tiny network for every slice that docs/tpu.md names, and one whole plan, with the
largest batch and weak scaling. configs: every config of the project, lowered and not compiled.

Prints one JSON line per plan, with the shapes that its all-reduces ought to have. A process of
its own, because libtpu stays loaded in the process that has loaded it.
"""

import contextlib
import json
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import hcjax
from hcjax import losses, models
from hcjax.app import planning
from hcjax.config import configfile
from hcjax.data import OTHERS
from hcjax.devices import libtpu
from hcjax.graph.model import LAYERS
from hcjax.train import assembly, parallel, step
from hcjax.train.plan import bounds, chips, planner
from tests import sources

SHAPES = {
    "lenet5": (28, 28, 1),
    "resnet20": (32, 32, 3),
    "resnet_tiny": (32, 32, 3),
    "seed_cnn_tiny": (8, 8, 1),
}
NETWORKS = [
    ("lenet5", "v5e:2x4", False),
    ("lenet5", "v5e:16x16", False),
    ("lenet5", "v6e:4x4", False),
    ("resnet20", "v5e:2x4", False),
    ("resnet20", "v5e:16x16", False),
    ("resnet20", "v6e:4x4", False),
    ("resnet_tiny", "v5e:2x4", True),
]
PER_CHIP = 8


def one(model: str, topology: str, sync: bool, cache: str | None, *, whole: bool = False) -> dict:
    """Returns a plan, and what its step ought to communicate; or a whole plan, as by default."""
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
    scored = whole or (model == "lenet5" and topology == "v5e:2x4")
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    start = jax.eval_shape(lambda p, s: step.init_state(p, s, tx), params, state)
    size = PER_CHIP * chips.parse(topology).chips
    label = np.zeros(size, np.int32)
    batch = {"inputs": np.zeros((size, *shape), np.uint8), "labels": label}
    found = planner.plan(
        train,
        score if scored else None,
        start,
        batch | {"position": label},
        batch | {"mask": label > 0},
        topology=topology,
        largest=whole,
        scaling=whole,
        quick=not whole,
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
    with libtpu.alone(partial(print, file=sys.stderr)):
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


def refused(topology: str) -> dict:
    """Returns what the compiler says that a program of 149.06 GiB needs."""
    one = jax.sharding.SingleDeviceSharding(planner.topology_devices(chips.parse(topology))[0])
    large = jax.ShapeDtypeStruct((200_000, 200_000), np.float32, sharding=one)
    try:
        planner._facts(jax.jit(lambda x: x @ x).lower(large), "it", quick=True)
    except bounds.TooLarge as error:
        return {"model": "refused", "needed": error.needed, "plan": {"topology": topology}}
    raise AssertionError(f"{topology} has room for it")


def documented() -> list[str]:
    """Returns every slice that the documentation of plans and its errors name."""
    text = (Path(__file__).parents[2] / "docs" / "tpu.md").read_text()
    return sorted(set(re.findall(r"\bv\d\w?:\d+(?:x\d+)+", text + chips.EXAMPLES)))


def lowered(name: str, folder: str) -> dict:
    """Returns the size of a config's program before the TPU compiler gets it, and of its plan."""
    config = configfile.load(f"configs/{name}.py")
    config.cache_dir = "off"
    if config.data.path:
        config.data.path = str(Path(folder) / name / Path(config.data.path).name)  # nothing there
    if config.data.source in OTHERS:
        sources.make(config.data.source, config.data.path, config.data)
    programs = []

    def stand_in(program, what, *, quick):
        programs.append(len(program.as_text()))
        return {"compile_seconds": 0.0, "collectives": []} | dict.fromkeys(COUNTS, 1.0)

    planner._facts = stand_in
    with contextlib.redirect_stdout(sys.stderr):
        plan = planning.plan(config, folder, "v5e:2x4", quick=True)
    return {"model": name, "programs": programs, "plan": plan}


COUNTS = (
    "flops", "bytes_accessed", "hbm_bytes", "arguments", "results", "temporaries", "program",
)  # fmt: skip


def main(what: str, cache: str | None = None) -> None:
    """Prints the lines of one of the three kinds."""

    def say(line):
        print(json.dumps(line), flush=True)

    if what == "networks":
        say(integers())
        for wanted in NETWORKS:
            say(one(*wanted, cache))
    elif what == "generations":
        for topology in documented():
            say(one("seed_cnn_tiny", topology, False, cache))
        with libtpu.alone(partial(print, file=sys.stderr)):
            for topology in chips.EXAMPLES.split(", "):
                say(refused(topology))
        say(one("seed_cnn_tiny", "v5e:4x4", False, cache, whole=True))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for path in sorted(Path("configs").glob("*.py")):
                say(lowered(path.stem, folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
