"""hcjax beside PyTorch, Keras, ONNX Runtime and plain Flax, on this machine, in one run.

    python benchmarks/peers.py                          everything: an hour
    python benchmarks/peers.py --quick                  training, three networks and peers
    python benchmarks/peers.py --only ResNet-20 --modes inference latency --peers torch
    python benchmarks/peers.py --python .venv/bin/python .venv-newest/bin/python   a race for each

Each racer has a process of its own on the same two CPUs (on Linux; two threads elsewhere) and the
launcher's allocator settings (plain Flax a second one without, which is how its own examples run);
they take turns, and a ratio is the median over rounds of hcjax's images per second by the peer's:
above 1 hcjax is faster. Beside it the most memory that each process has had (what it imports
included), in MiB. Where a racer fails, its cell says so, and the exit code is 1. The peers'
virtual environments are made on first use from benchmarks/peers/*.txt (in ~/.cache/hcjax/peers).
Images are random, networks as in benchmarks/peers/networks.py. Run it on a quiet machine.

floor: the time that a step's products need at this machine's matrix-product peak, or its bytes at
the memory's bandwidth, whichever is longer; of floor: the part of that speed that hcjax reaches.
Both peaks are the fastest of several sizes, repeated, before the race and after it, on those CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this race; benchmarks/gpu.py is the other
FOLDER = Path(__file__).resolve().parent / "peers"
VENVS = Path.home() / ".cache" / "hcjax" / "peers"
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER)]

import floor  # noqa: E402
import networks  # noqa: E402
import results  # noqa: E402
import serve  # noqa: E402
from racer import Racer  # noqa: E402
from results import MODES, TITLES  # noqa: E402

# what a racer that cannot start, or stops, ends in
TROUBLE = (RuntimeError, OSError, ValueError, subprocess.SubprocessError)


class Peer(NamedTuple):
    """A racer: its module, environment (None: this one) and variant.

    float32: whether it computes in it. memory: "kept" by the allocator, or "released" (default).
    """

    module: str
    environment: str | None
    variant: str
    modes: tuple[str, ...] = MODES
    float32: bool = True
    memory: str = "kept"


INFER = ("inference", "latency")
PEERS = {
    "torch eager": Peer("with_torch", "torch", "eager"),
    "torch channels_last": Peer("with_torch", "torch", "channels_last"),
    "torch compile": Peer("with_torch", "torch", "compile"),
    "torch jit": Peer("with_torch", "torch", "jit", INFER),
    "torch bf16": Peer("with_torch", "torch", "bf16", float32=False),
    "hcjax bf16": Peer("with_hcjax", None, "bf16", MODES[:1], float32=False),
    "Keras on TensorFlow": Peer("with_keras", "keras_tensorflow", "tensorflow"),
    "Keras on JAX": Peer("with_keras", "keras_jax", "jax"),
    "ONNX Runtime": Peer("with_onnxruntime", "onnxruntime", "float32", INFER),
    "ONNX Runtime int8": Peer("with_onnxruntime", "onnxruntime", "int8", INFER, False),
    "plain Flax": Peer("with_flax", None, "", memory="released"),
    "plain Flax, memory kept": Peer("with_flax", None, ""),
}
TORCH = {name for name, peer in PEERS.items() if name.startswith("torch") and peer.float32}
OURS = Peer("with_hcjax", None, "")
QUICK = {
    "works": ("seed CNN", "LeNet-5", "ResNet-20"),
    "peers": ("torch channels_last", "Keras on TensorFlow", "plain Flax"),
}


def interpreter(file: Path) -> str | None:
    """Returns the Python that a requirements file asks for in its first line, or this one."""
    first = file.read_text().splitlines()[0]
    if not first.startswith("# python "):
        return sys.executable
    version = first.removeprefix("# python ").strip()
    places = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *places.glob(f"{version}.*/bin/python")]
    for candidate in filter(None, [*found, f"/usr/bin/python{version}"]):
        # a shim may be on the PATH for a version that is not switched on: ask it
        asked = subprocess.run([str(candidate), "-c", "import ensurepip"], capture_output=True)
        if asked.returncode == 0:
            return str(candidate)
    return None


def python_of(environment: str | None, folder: Path) -> str:
    """Returns the Python of a peer's environment, made if it is not there."""
    if environment is None:
        return sys.executable
    file, home = FOLDER / f"{environment}.txt", folder / environment
    python, done = home / "bin" / "python", home / "installed.txt"
    if done.exists() and done.read_text() == file.read_text():
        return str(python)
    base = interpreter(file)
    if base is None:
        raise RuntimeError(f"no Python as {file.name} asks for")
    print(f"making the environment {home} …", flush=True)
    subprocess.run([base, "-m", "venv", "--clear", str(home)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "-r", str(file)]
    made = subprocess.run(pip, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"pip: {made.stderr.strip().splitlines()[-1]}")
    done.write_text(file.read_text())
    return str(python)


def start(peer: Peer, work: str, mode: str, folder: Path) -> Racer:
    """Returns a peer's process, ready to run a network in one way."""
    python = python_of(peer.environment, folder)
    arguments = [peer.module, work, mode, peer.variant, peer.memory]
    return Racer([python, str(FOLDER / "serve.py"), *arguments])


def race(work: str, mode: str, peers: dict[str, Peer], options) -> list[dict]:
    """Returns a row per peer of one network run in one way; where one failed, it says why."""
    racers: dict[str, Racer] = {}
    rates: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    try:
        for name, peer in {"hcjax": OURS, **peers}.items():
            try:
                racers[name] = start(peer, work, mode, options.venvs)
                rates[name] = []
            except TROUBLE as error:
                failed[name] = str(error)[:200]
        counts = {name: racer.facts["parameters"] for name, racer in racers.items()}
        if len(set(counts.values())) > 1:
            raise SystemExit(f"{work}: the networks differ in their parameters: {counts}")
        for _ in range(options.rounds):
            for name in [] if "hcjax" in failed else list(rates):
                try:
                    rates[name].append(racers[name].round(options.seconds))
                except TROUBLE as error:
                    failed[name] = str(error)[:200]
                    del rates[name]
        memory = {name: racers[name].memory() for name in rates}
    finally:
        for racer in racers.values():
            racer.close()
    ours = rates.get("hcjax")
    rows = []
    for name in peers:
        row = {"work": work, "mode": mode, "peer": name}
        row["ours_images_per_second"] = statistics.median(ours) if ours else None
        if why := [f"{n}: {failed[n]}" for n in ("hcjax", name) if n in failed]:
            rows.append(row | {"failed": "; ".join(why)})
            continue
        versions = racers[name].facts | {"hcjax": racers["hcjax"].facts}
        row |= {"ours_memory": memory["hcjax"], "peer_memory": memory[name]}
        rows.append(row | results.row(ours, rates[name]) | {"versions": versions})
    return rows


def grade(rows: list[dict], machine: dict) -> None:
    """Writes into each row the floor's speed and the part of it that hcjax reaches."""
    for row in rows:
        ours, most = row["ours_images_per_second"], floor.images_per_second
        row["floor_images_per_second"] = most(row["work"], row["mode"], machine)
        row["fraction_of_floor"] = ours and ours / row["floor_images_per_second"]


def write(rows: list[dict], path: Path | None) -> None:
    """Writes all rows so far where `--json` said."""
    if path:
        path.write_text(json.dumps(rows, indent=1) + "\n")


def race_each(pythons: list[str], arguments: list[str], path: Path | None) -> int:
    """Runs the race once for each Python, then prints them beside each other.

    Args:
      pythons: interpreters that have hcjax's requirements.
      arguments: of the command line, without those.
      path: where to write the rows of all, or None.

    Returns:
      The greatest exit code.
    """
    codes, found = [], {}
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            command = [python, __file__, *arguments, "--json", str(file)]
            codes.append(subprocess.run(command).returncode)
            rows = json.loads(file.read_text()) if file.exists() else []
        versions = [row["versions"]["hcjax"] for row in rows if "versions" in row]
        name = f"Python {versions[0]['python']}, jax {versions[0]['jax']}" if versions else python
        found[name] = [row | {"python": name} for row in rows]
    print("\nhcjax / best float32 torch\n\n" + results.beside(found, TORCH))
    write([row for rows in found.values() for row in rows], path)
    return max(codes)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few cells, in under 5 minutes")
    parser.add_argument("--only", nargs="+", metavar="WORK", help=", ".join(networks.WORKS))
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="names or their beginnings")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each racer's turn")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--chart", type=Path, help="write a bar chart (PNG) there")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="folder of the environments")
    parser.add_argument("--python", nargs="+", metavar="PYTHON", help="interpreters to race with")
    options = parser.parse_args()
    if options.python:  # the rest is theirs, as it was written
        ours = argparse.ArgumentParser(add_help=False)
        ours.add_argument("--python", nargs="+")
        ours.add_argument("--json")
        return race_each(options.python, ours.parse_known_args()[1], options.json)
    works = options.only or (QUICK["works"] if options.quick else list(networks.WORKS))
    if unknown := set(works) - set(networks.WORKS):
        parser.error(f"unknown work: {', '.join(unknown)}; there are {', '.join(networks.WORKS)}")
    modes = options.modes or (MODES[:1] if options.quick else MODES)
    wanted = options.peers or (QUICK["peers"] if options.quick else list(PEERS))
    chosen = {n: p for n, p in PEERS.items() if any(n.startswith(w) for w in wanted)}
    if not chosen:
        parser.error(f"no such peer; there are {', '.join(PEERS)}")
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 5), min(options.seconds, 0.7)
    options.venvs.mkdir(parents=True, exist_ok=True)

    serve.take_cpus()  # for the floor; a racer does it itself
    machine = floor.machine()
    print(floor.text(machine), flush=True)
    rows: list[dict] = []
    for mode in modes:
        for work in works:
            print(f"{TITLES[mode]}: {work} …", flush=True)
            peers = {n: p for n, p in chosen.items() if mode in p.modes}
            found = race(work, mode, peers, options)
            grade(found, machine)
            for row in found:
                said = f"failed: {row['failed']}" if "failed" in row else f"{row['ratio']:6.2f}"
                print(f"  {row['peer']:22s} {said}", flush=True)
            rows += found
            write(rows, options.json)
    machine = floor.faster(machine, floor.machine())
    print(floor.text(machine))
    grade(rows, machine)
    write(rows, options.json)
    for mode in MODES:
        peers = {n: n in TORCH for n, p in PEERS.items() if mode in p.modes}
        if table := results.table(mode, rows, list(networks.WORKS), peers):
            print("\n" + table)
    whole = [row for row in rows if "failed" not in row]
    if options.chart and whole:
        results.chart(whole, options.chart)
        print(f"\nchart in {options.chart}")
    return 0 if len(whole) == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
