"""A racer: one library, one network, one way of running it, in a process of its own.

    python serve.py MODULE WORK MODE VARIANT kept|released

Says one JSON line when it is ready (versions, parameters, seconds it took); then, for each line
with a number of seconds, runs about that long and answers with images per second, and for "memory"
with the most bytes that it has had. Every racer is
limited to the same two CPUs, and has, unless its memory is to be released, the same allocator
settings.
"""

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

THREADS = 2


def take_cpus():
    """Limits this process to the first CPUs that it may use; for before a library counts them."""
    if hasattr(os, "sched_setaffinity"):  # Linux has it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def of_hcjax(name):
    """Loads one file of hcjax/devices, without importing hcjax, which a racer need not have."""
    path = Path(__file__).resolve().parents[2] / "hcjax" / "devices" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    """Builds what the command line names, and answers."""
    take_cpus()
    module, work, mode, variant, memory = sys.argv[1:6]
    if memory == "kept":
        of_hcjax("allocator").keep_memory()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(THREADS)
    started = time.perf_counter()
    peer = importlib.import_module(module)
    run, images, facts = peer.make(work, mode, variant)
    run(1)
    facts |= {"python": sys.version.split()[0], "seconds": time.perf_counter() - started}
    answer(run, images, facts)


def answer(run, images, facts):
    """Answers each line of input until it ends; run(count) makes calls of so many images each."""
    peak_memory_bytes = of_hcjax("memory").peak_memory_bytes
    run(2)
    begin = time.perf_counter()
    run(3)
    each = (time.perf_counter() - begin) / 3
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(peak_memory_bytes(), flush=True)
            continue
        count = max(2, int(float(line) / each))
        begin = time.perf_counter()
        run(count)
        took = time.perf_counter() - begin
        each = took / count
        print(images * count / took, flush=True)


if __name__ == "__main__":
    main()
