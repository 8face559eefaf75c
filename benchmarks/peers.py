"""hcjax beside PyTorch, Keras, ONNX Runtime and plain Flax, on this machine, in one run.

    python benchmarks/peers.py                          everything: an hour
    python benchmarks/peers.py --quick                  training, three networks and peers
    python benchmarks/peers.py --only ResNet-20 --modes inference latency --peers torch

Each racer has a process of its own with two threads and the launcher's allocator settings (plain
Flax a second one without, which is how its own examples run); they take turns, and a ratio is the
median over rounds of hcjax's images per second by the peer's: above 1 hcjax is faster. The peers'
virtual environments are made on first use from benchmarks/peers/*.txt (in ~/.cache/hcjax/peers).
Images are random, networks as in benchmarks/peers/networks.py. Run it on a quiet machine.

floor: the time that a step's products need at this machine's matrix-product peak, or its bytes at
the memory's bandwidth, whichever is longer; of floor: the part of that speed that hcjax reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this race; benchmarks/gpu.py is the other
FOLDER = Path(__file__).resolve().parent / "peers"
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER)]

import networks  # noqa: E402
from racer import Racer  # noqa: E402

MODES = ("training", "inference", "latency")
TITLES = {
    "training": f"training, batch {networks.BATCH}",
    "inference": f"inference, batch {networks.BATCH}",
    "latency": "latency, batch 1",
}


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
    "Keras on TensorFlow": Peer("with_keras", "keras_tensorflow", "tensorflow"),
    "Keras on JAX": Peer("with_keras", "keras_jax", "jax"),
    "ONNX Runtime": Peer("with_onnxruntime", "onnxruntime", "float32", INFER),
    "ONNX Runtime int8": Peer("with_onnxruntime", "onnxruntime", "int8", INFER, False),
    "plain Flax": Peer("with_flax", None, "", memory="released"),
    "plain Flax, memory kept": Peer("with_flax", None, ""),
}
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
    """Returns a row per peer of one network run in one way."""
    racers = {"hcjax": start(OURS, work, mode, options.venvs)}
    try:
        for name, peer in peers.items():
            try:
                racers[name] = start(peer, work, mode, options.venvs)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"  {name} failed: {str(error)[:200]}", flush=True)
        counts = {name: racer.facts["parameters"] for name, racer in racers.items()}
        if len(set(counts.values())) != 1:
            raise SystemExit(f"{work}: the networks differ in their parameters: {counts}")
        rates: dict[str, list[float]] = {name: [] for name in racers}
        for _ in range(options.rounds):
            for name, racer in racers.items():
                rates[name].append(racer.round(options.seconds))
    finally:
        for racer in racers.values():
            racer.close()
    ours = rates.pop("hcjax")
    rows = []
    for name, theirs in rates.items():
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            {
                "work": work,
                "mode": mode,
                "peer": name,
                "peer_images_per_second": statistics.median(theirs),
                "ours_images_per_second": statistics.median(ours),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "versions": racers[name].facts | {"hcjax": racers["hcjax"].facts},
            }
        )
    return rows


def table(mode: str, rows: list[dict], works: list[str], peers: list[str]) -> str:
    """Returns one way of running as a Markdown table: a row per network, a column per peer."""
    best = "best torch float32"
    lines = [f"{TITLES[mode]}; images/s, in brackets hcjax / peer (from–to)", ""]
    lines.append(f"| work | hcjax | floor | of floor | {best} | " + " | ".join(peers) + " |")
    lines.append("|" + "---|" * (5 + len(peers)))
    for work in works:
        found = {r["peer"]: r for r in rows if r["work"] == work and r["mode"] == mode}
        if not found:
            lines.append(f"| {work} |" + " not run |" * (4 + len(peers)))
            continue
        first = next(iter(found.values()))
        ours = first["ours_images_per_second"]
        torch = [r for n, r in found.items() if n.startswith("torch") and PEERS[n].float32]
        least = min(torch, key=lambda r: r["ratio"], default=None)
        cells = [f"{ours:,.0f}", f"{ours / first['fraction_of_floor']:,.0f}"]
        cells += [f"{first['fraction_of_floor']:.0%}"]
        cells += [f"**{least['ratio']:.2f}** ({least['peer']})" if least else "not run"]
        for name in peers:
            r = found.get(name)
            cells.append(
                f"{r['peer_images_per_second']:,.0f} "
                f"({r['ratio']:.2f}, {r['ratio_min']:.2f}–{r['ratio_max']:.2f})"
                if r
                else "not run"
            )
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(rows: list[dict], path: Path) -> None:
    """Writes the ratios as bars, a panel per way of running."""
    from matplotlib.figure import Figure

    modes = [m for m in MODES if any(r["mode"] == m for r in rows)]
    figure = Figure(figsize=(11, 3.2 * len(modes)), layout="constrained")
    for axes, mode in zip(figure.subplots(len(modes), squeeze=False)[:, 0], modes, strict=True):
        here = [r for r in rows if r["mode"] == mode]
        works = list(dict.fromkeys(r["work"] for r in here))
        names = list(dict.fromkeys(r["peer"] for r in here))
        width = 0.8 / len(names)
        for n, name in enumerate(names):
            mine = {r["work"]: r for r in here if r["peer"] == name}
            at = [i for i, work in enumerate(works) if work in mine]
            bars = [mine[works[i]] for i in at]
            spread = [
                [r["ratio"] - r["ratio_min"] for r in bars],
                [r["ratio_max"] - r["ratio"] for r in bars],
            ]
            left = [i - 0.4 + (n + 0.5) * width for i in at]
            heights = [r["ratio"] for r in bars]
            axes.bar(left, heights, width, yerr=spread, label=name, error_kw={"lw": 0.7})
        axes.axhline(1, color="black", lw=0.8)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.set_xticks(range(len(works)), works)
        axes.set_ylabel("hcjax / peer")
        axes.set_title(f"{TITLES[mode]}: above 1 hcjax is faster", fontsize=10)
        axes.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Returns the exit code."""
    import floor

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
    home = Path.home() / ".cache" / "hcjax" / "peers"
    parser.add_argument("--venvs", type=Path, default=home, help="folder of the environments")
    options = parser.parse_args()
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

    machine = floor.machine()
    print(floor.text(machine), flush=True)
    rows: list[dict] = []
    for mode in modes:
        for work in works:
            print(f"{TITLES[mode]}: {work} …", flush=True)
            peers = {n: p for n, p in chosen.items() if mode in p.modes}
            found = race(work, mode, peers, options)
            least = floor.images_per_second(work, mode, machine)
            for row in found:
                row["fraction_of_floor"] = row["ours_images_per_second"] / least
                print(f"  {row['peer']:22s} {row['ratio']:6.2f}", flush=True)
            rows += found
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for mode in MODES:
        peers = [n for n, p in PEERS.items() if mode in p.modes]
        print("\n" + table(mode, rows, list(networks.WORKS), peers))
    if options.chart and rows:
        chart(rows, options.chart)
        print(f"\nchart in {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
