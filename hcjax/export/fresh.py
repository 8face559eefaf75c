"""Runs a StableHLO file in a process that imports jax and NumPy alone: `python fresh.py FILE`.

It reads requests from stdin and writes answers to stdout, each 8 bytes of length and an archive of
arrays: flat inputs "0", "1", ...; flat outputs likewise. A request with "calls" is answered by the
"seconds" of so many calls. `runtimes` starts it; a stranger's program need be no longer than
`opened`.
"""

import io
import sys
import time

import jax
import numpy as np


def opened(path):
    """Returns (function of flat arrays, their dtypes) of a file."""
    with open(path, "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    call = jax.jit(program.call)

    def run(arrays):
        args, _ = jax.tree.unflatten(program.in_tree, arrays)
        return jax.block_until_ready(jax.tree.leaves(call(*args)))

    return run, [aval.dtype for aval in program.in_avals]


def send(stream, arrays):
    """Writes named arrays to a stream; those of a dtype that NumPy has not, as bytes."""
    file = io.BytesIO()
    plain = {k: x.view(f"V{x.itemsize}") if x.dtype.kind == "V" else x for k, x in arrays.items()}
    np.savez(file, allow_pickle=False, **plain)
    stream.write(len(file.getvalue()).to_bytes(8, "little") + file.getvalue())
    stream.flush()


def receive(stream):
    """Returns the named arrays that come next in a stream, or None at its end."""
    size = stream.read(8)
    if len(size) < 8:
        return None
    data = stream.read(int.from_bytes(size, "little"))
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def numbered(arrays):
    """Returns arrays by their number, as text."""
    return {str(i): np.asarray(x) for i, x in enumerate(arrays)}


def main():
    """Serves until stdin ends."""
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # what libraries print is no answer
    run, dtypes = opened(sys.argv[1])
    while (request := receive(sys.stdin.buffer)) is not None:
        calls, seconds = int(request.pop("calls", 0)), []
        arrays = [request[str(i)].view(dtype) for i, dtype in enumerate(dtypes)]
        results = run(arrays)
        for _ in range(calls):
            started = time.perf_counter()
            run(arrays)
            seconds.append(time.perf_counter() - started)
        send(out, {"seconds": np.array(seconds)} if calls else numbered(results))


if __name__ == "__main__":
    assert "hcjax" not in sys.modules
    main()
