"""ResNet-50 on TPUs that are not here: compiled for a slice by Google's compiler, not executed.

    pip install libtpu
    JAX_PLATFORMS=cpu python benchmarks/plan.py --topology=v5e:2x4 --batch_size=1024

Prints FLOPs, bytes, HBM, all-reduces and bounds per chip, the largest batch that fits and weak
scaling, and writes them to plan_resnet50.json. One compilation takes about 75 s on 2 CPU cores,
the whole about ten minutes; `--quick` compiles the training step alone, with less search.
The numbers are bounds: no TPU has been measured.

Of ResNet-50's 267 leaves of gradients and statistics 263 are all-reduced, beside 4 metrics: in
each of the 4 blocks with a projection, the biases of the two BatchNorms that are added up have the
same gradient, and the compiler sends it once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import optax

from hcjax import losses, models, trees
from hcjax.data import prepare
from hcjax.errors import HcjaxError
from hcjax.training import evaluate, parallel, plan, step

SIDE, CLASSES = 224, 1000


def steps(model: str, dtype: str, sync_batchnorm: bool) -> tuple:
    """Returns (train step, eval step, state shapes) of SGD with momentum on ImageNet images."""
    axis = parallel.AXIS if sync_batchnorm else None
    shape = (SIDE, SIDE, 3)
    network = models.create(
        model, num_classes=CLASSES, input_shape=shape, dtype=dtype, axis_name=axis
    )
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    ready = prepare.make_prepare(
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        num_classes=CLASSES,
        augment=[("flip", {})],
    )
    tx = optax.sgd(0.1, momentum=0.9, nesterov=True)
    loss_fn = step.make_loss_fn(network.apply, losses.cross_entropy)
    train = step.make_train_step(loss_fn, tx, prepare=ready, devices=parallel.DEVICES)
    evaluation = evaluate.make_eval_step(network.apply, prepare=ready, devices=parallel.DEVICES)
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    shapes = jax.eval_shape(lambda p, s: step.init_state(p, s, tx), params, state)
    return train, evaluation, shapes


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=1024, help="global")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--sync_batchnorm", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cache", help="folder that keeps what compilations gave")
    parser.add_argument("--out", default="plan_resnet50.json")
    args = parser.parse_args()

    train, evaluation, state = steps(args.model, args.dtype, args.sync_batchnorm)
    size = args.batch_size
    image = jax.ShapeDtypeStruct((size, SIDE, SIDE, 3), np.uint8)
    integers = jax.ShapeDtypeStruct((size,), np.int32)
    batch = {"image": image, "label": integers}
    try:
        found = plan.plan(
            train,
            None if args.quick else evaluation,
            state,
            batch | {"position": integers},
            batch | {"mask": jax.ShapeDtypeStruct((size,), bool)},
            topology=args.topology,
            largest=not args.quick,
            scaling=not args.quick,
            quick=args.quick,
            cache=args.cache,
        )
    except HcjaxError as error:
        print(error, file=sys.stderr)
        return 2
    Path(args.out).write_text(json.dumps(found, indent=1) + "\n")
    print(f"{args.model}, {trees.num_parameters(state.params):,} parameters, {args.dtype}")
    print(plan.text(found))
    print(f"\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
