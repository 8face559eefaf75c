"""Unpacks damaged `.hcz` files by the ten thousands, and prints what each kind of damage came to.

    python benchmarks/fuzz.py                    100,000 inputs; about 10 minutes
    python benchmarks/fuzz.py --inputs 2000

A float, an int8, a shared, a pruned and a 4-bit Model are packed, then cut, flipped, spliced and
rewritten, most of them under a checksum that is right again. Each must raise an ArtifactError, or
be a Model that can be applied, and some of those are: within --seconds each, and the process within
--mebibytes more than it began with. The exit code is 0 if all did; else the culprit's bytes are
kept in a file, and its name is printed.
"""

import argparse
import collections
import faulthandler
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from hypothesis import HealthCheck, Phase, given, seed, settings

import hcjax
from hcjax.core import text
from hcjax.core.formats import clock
from hcjax.devices import memory
from tests.export import damage

CHUNK = 250  # inputs that hypothesis keeps in mind at a time


def fuzz(inputs: int, seconds: float, first_seed: int) -> dict[str, collections.Counter]:
    """Returns kind of damage -> counts of "inputs" and "valid", and "slowest" in seconds."""
    blobs = [hcjax.pack(model) for model in damage.tiny()]
    found = collections.defaultdict(collections.Counter)
    culprit = pathlib.Path(tempfile.gettempdir()) / "hcjax-fuzz.hcz"

    def one(drawn):
        kind, data = drawn
        culprit.write_bytes(data)  # so that a crash leaves it behind
        faulthandler.dump_traceback_later(10 * seconds, exit=True)  # a hang ends the process
        started = time.perf_counter()
        valid = damage.survives(data)
        took = time.perf_counter() - started
        faulthandler.cancel_dump_traceback_later()
        assert took <= seconds, f"{took:.1f} s"
        row = found[kind]
        row.update(inputs=1, valid=valid)
        row["slowest"] = max(row["slowest"], took)

    options = {"deadline": None, "database": None, "phases": (Phase.generate,),
               "suppress_health_check": list(HealthCheck)}  # fmt: skip
    try:
        done, began = 0, time.perf_counter()
        while done < inputs:
            count = min(CHUNK, inputs - done)
            # a function that has been decorated once may not be so again
            some = given(damage.damaged(blobs))(lambda drawn: one(drawn))
            seed(first_seed + done)(settings(max_examples=count, **options)(some))()
            done = sum(row["inputs"] for row in found.values())
            left = clock((time.perf_counter() - began) * (inputs - done) / done)
            print(f"{done:,} of {inputs:,}  ETA {left} ", end="\r", file=sys.stderr, flush=True)
    except BaseException:
        print(f"\nFAILED at the input in {culprit}", file=sys.stderr)
        raise
    print(file=sys.stderr)
    culprit.unlink()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="that one input may take")
    parser.add_argument("--mebibytes", type=int, default=1024, help="that all may add")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for model in damage.tiny():  # what jax takes once is not the inputs' doing
        assert damage.survives(hcjax.pack(model))
    before = memory.peak_memory_bytes()
    found = fuzz(args.inputs, args.seconds, args.seed)
    added = (memory.peak_memory_bytes() - before) / 2**20
    lines = [("damage", "inputs", "errors", "valid models", "slowest ms")]
    for kind, row in sorted(found.items()):
        counts = (row["inputs"], row["inputs"] - row["valid"], row["valid"])
        lines.append((kind, *counts, f"{1000 * row['slowest']:.0f}"))
    print(text.aligned(lines))
    print(f"{added:.0f} MiB added at the peak")
    sys.exit(added > args.mebibytes)


if __name__ == "__main__":
    main()
