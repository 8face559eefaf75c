"""ResNet-50 on TPUs that are not here: compiled for a slice by Google's compiler, not executed.

    pip install libtpu
    python benchmarks/plan.py --topology=v5e:2x4

Compiles the steps of configs/resnet50_imagenet.py as they are; only the images are missing, and
no compiler asks for those. Prints FLOPs, bytes, HBM, all-reduces and bounds per chip, the largest
batch that fits and weak scaling, and writes them to WORKDIR/plan.json. One compilation takes about
75 s on 2 CPU cores, the whole about ten minutes; `--quick` compiles the two steps only.
The numbers are bounds: no TPU has been measured.

Of ResNet-50's 267 leaves of gradients and statistics 263 are all-reduced, beside the metrics: in
each of the 4 blocks with a projection, the biases of the two BatchNorms that are added up have the
same gradient, and the compiler sends it once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from configs import resnet50_imagenet
from hcjax import data
from hcjax.app import run
from hcjax.errors import HcjaxError

EXAMPLES = {"train": 1_271_167, "validation": 10_000, "test": 50_000}


def imagenet() -> data.Dataset:
    """Returns ImageNet's shapes and classes; its images cannot be read."""

    def unread(row: int) -> np.ndarray:
        raise AssertionError(f"a plan reads no image, and here it asked for {row}")

    parts = {
        part: data.Split(
            data.LazyImages(unread, np.arange(count), (224, 224, 3)), np.zeros(count, np.int32)
        )
        for part, count in EXAMPLES.items()
    }
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return data.Dataset(
        name="imagenet2012",
        class_names=tuple(map(str, range(1000))),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        statistics_examples=0,
        **parts,
    )


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--batch_size", type=int, default=1024, help="global")
    parser.add_argument("--sync_batchnorm", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workdir", default="runs/plan-resnet50")
    args = parser.parse_args()
    config = resnet50_imagenet.get_config()
    config.train.batch_size = args.batch_size
    config.model.sync_batchnorm = args.sync_batchnorm
    try:
        run.plan(config, args.workdir, args.topology, dataset=imagenet(), quick=args.quick)
    except HcjaxError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
