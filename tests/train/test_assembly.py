"""One assembly of the steps: it is what `fit` runs and what `--plan` compiles."""

import ast
from pathlib import Path

import jax
import numpy as np
import optax

from hcjax import data, losses, models
from hcjax.train import assembly, parallel
from hcjax.train.step import init_state

PACKAGE = Path(__file__).parents[2] / "hcjax"


def test_the_steps_train_and_score_a_batch():
    network = models.create("mlp_tiny", input_shape=(4, 4, 1), num_classes=3)
    params, state = network.init(jax.random.key(0))
    tx = optax.sgd(0.1)
    facts = {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32), "num_classes": 3}
    train_step, eval_step = assembly.make_steps(
        network.apply, loss=losses.cross_entropy, tx=tx, augment=[("shift", {})], **facts
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 4, 4, 1), np.uint8)
    split = data.Split(images, rng.integers(0, 3, 8).astype(np.int32))
    batch = next(data.train_batches(split, seed=0, batch_size=8))
    before = init_state(params, state, tx)
    after, sums = parallel.train(train_step)(before, parallel.shard(batch), jax.random.key(1))
    assert int(after.step) == 1 and float(sums["count"]) == 8
    batch = next(data.eval_batches(split, batch_size=8))
    batch.pop("index")
    sums, _ = parallel.evaluate(eval_step)(after.params, after.state, parallel.shard(batch))
    assert int(sums["count"]) == 8


def test_nobody_else_in_the_package_puts_a_training_step_together():
    callers = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "attr", None) or getattr(
                getattr(node, "func", None), "id", None
            )
            if name == "make_train_step":
                callers.append(path.name)
    assert callers == ["assembly.py"]
