"""Throughput and memory of training against batch size, image size, width, data and devices.

    python benchmarks/scale.py                 every sweep: five minutes
    python benchmarks/scale.py --only batch    one of them

ResNet-20 (data: LeNet-5) as `fit` trains it, on random images; each point has a process of its own
with the launcher's allocator settings. Devices are forced host devices that share the same cores:
what more of them cost, not what more hardware would gain. Run it on a quiet machine. How a pod
would scale: docs/tpu.md, from compiled programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

POINT = {"model": "resnet20", "batch": 128, "size": 32, "width": 16, "examples": 2048, "devices": 1}
SWEEPS = {
    "batch": [16, 32, 64, 128, 256, 512],
    "size": [16, 32, 64, 96],
    "width": [8, 16, 32, 64],
    "examples": [2048, 20_000, 200_000],
    "devices": [1, 2, 4],
}


def measure(point: dict, seconds: float) -> dict:
    """Returns images per second, seconds to the first step and peak memory of one point."""
    from hcjax.devices import allocator

    allocator.keep_memory()
    import jax
    import optax

    import hcjax
    from benchmarks import ours
    from hcjax.data import batches
    from hcjax.data.dataset import Split
    from hcjax.devices import memory
    from hcjax.train import parallel

    lenet = point["model"] == "lenet5"
    shape = (28, 28, 1) if lenet else (point["size"], point["size"], 3)
    options = {} if lenet else {"width": point["width"]}
    network = hcjax.models.create(point["model"], input_shape=shape, **options)
    train = ours.trainer(network, shape, tx=optax.sgd(0.01, momentum=0.9))
    split = Split(*ours.data(shape, point["examples"]))
    stream = batches.train_batches(split, seed=0, batch_size=point["batch"])

    def run(count):
        begin = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(train(parallel.shard(next(stream))))
        return time.perf_counter() - begin

    first = run(1)
    run(2)
    done, took = 0, 0.0
    while took < seconds:
        took += run(1)
        done += 1
    return {
        "images_per_second": done * point["batch"] / took,
        "first_step_seconds": first,
        "peak_bytes": memory.peak_memory_bytes(),
    }


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each point")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(json.loads(options.child), options.seconds)))
        return 0
    rows = []
    for sweep in options.only:
        base = POINT | ({"model": "lenet5"} if sweep == "examples" else {})
        print(f"\n| {base['model']}, {sweep} | images/s | first step s | peak MiB |")
        print("|---|---|---|---|")
        for value in SWEEPS[sweep]:
            point = base | {sweep: value}
            flags = f"--xla_force_host_platform_device_count={point['devices']}"
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
            command = [sys.executable, __file__, "--child", json.dumps(point)]
            command += ["--seconds", str(options.seconds)]
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
            if run.returncode:
                print(f"{sweep} {value} failed: {run.stderr.strip().splitlines()[-1]}")
                return 1
            found = json.loads(run.stdout.splitlines()[-1])
            rows.append(point | found)
            print(
                f"| {value:,} | {found['images_per_second']:,.0f} | "
                f"{found['first_step_seconds']:.1f} | {found['peak_bytes'] / 2**20:,.0f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
