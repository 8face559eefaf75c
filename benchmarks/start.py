"""How long until the first training step, and how much memory: two launches of configs/lenet.py.

    python benchmarks/start.py

Each launch trains a few steps and ends. The first compiles; the second finds every program in the
compilation cache, a folder of this benchmark's own. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def launch(config: str, folder: Path, number: int) -> dict:
    """Returns the report of one launch."""
    workdir = folder / f"run{number}"
    command = [sys.executable, "launch.py", f"--config={config}", "--config.train.epochs=0.2"]
    command += [f"--config.cache_dir={folder / 'cache'}", f"--workdir={workdir}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return json.loads((workdir / "report.json").read_text())


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/lenet.py")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reports = [launch(args.config, Path(folder), number) for number in (1, 2)]
    for name, found in zip(("first", "second"), reports, strict=True):
        parts = ", ".join(f"{k} {v:.2f}" for k, v in found["start_seconds"].items())
        print(f"{name} launch: first step after {found['seconds_to_first_step']:.2f} s ({parts})")
    last = reports[-1]
    peak, rate = last["peak_memory_bytes"] / 2**20, last["images_per_second"]
    print(f"peak memory {peak:.0f} MiB, {rate:.0f} images/s")
    versions = last["versions"]
    print(f"{last['device']}; python {versions['python']}, jax {versions['jax']}")


if __name__ == "__main__":
    main()
