"""Whole filters pruned from a ResNet beside Torch-Pruning: same weights, same data, same epochs.

    python benchmarks/filters.py runs/resnet20        a workdir of configs/resnet20.py
    python benchmarks/filters.py --small              ResNet-20, width 8, on MNIST, not retrained
    python benchmarks/filters.py --quick              ResNet-8, 100 steps on MNIST: that it runs

Each way takes the trained network and leaves at most --macs of its products; each is then trained
for --epochs, once for every seed; all but the first by the workdir's recipe, with --rate.

    hcjax               the pipeline of configs/resnet20_shrink.py, as `launch.py` runs it: folded,
                        channels scored and layers refitted on 512 training images, then trained
                        without BatchNorm, taught by the network before
    hcjax, BatchNorm    the same channels taken out of the network in training mode by `hcjax.cut`,
                        and trained with it; no refit
    hcjax, inside       the same, of the channels inside the blocks alone
    Torch-Pruning, ...  its criteria, on the same images where they ask for some

Torch-Pruning 1.6.0 ends in an IndexError on the shortcuts of the network, which pad channels; it is
left the channels inside the blocks. Printed: accuracy on --part, before training ("refitted": after
`hcjax.prune.refit` of the same channels) and after, and images/s at batch 128, folded, the network
as it was and the pruned one taking turns.

What is to be chosen is chosen with `--part validation`, from a workdir that kept one
(--config.data.validation=5000); the same command with the same --runs then trains nothing again,
and reads the test part of what was chosen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FOLDER = Path(__file__).resolve().parent / "peers"
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER)]

import accelerate as timing  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import peers  # noqa: E402

import hcjax  # noqa: E402
from hcjax import trees  # noqa: E402
from hcjax.app import pipeline, stages, training  # noqa: E402
from hcjax.app.setup import optimizer_of, set_up  # noqa: E402
from hcjax.config import configfile  # noqa: E402
from hcjax.graph.model import Cut  # noqa: E402

INSIDE = r".*/conv1/kernel"  # kernels whose outputs no shortcut joins
THEIRS = ("magnitude", "magnitude, p 1", "lamp", "fpgm", "bn scale", "taylor", "hessian")
IMAGES = 512  # of the training part: what stage `shrink` takes by default
# networks that are trained here, in a minute or two, on MNIST
SMALL = {"model.name": "resnet20", "model.width": 8, "data.limit": 8000, "train.epochs": 4.0}
QUICK = {"model.name": "resnet8", "data.limit": 4000, "train.epochs": 3.2}


class Start(NamedTuple):
    """A trained network, and how it goes on to be trained: `fit`'s arguments but steps and key."""

    workdir: str
    config: dict
    apply: Callable
    params: Any
    state: Any
    dataset: hcjax.data.Dataset
    images: Any
    fit: dict
    optimizer: Callable[[int, float], optax.GradientTransformation]

    def model(self, params: Any, state: Any) -> hcjax.Model:
        """Returns the network in inference, with its statistics as parameters, not folded."""
        images = jnp.zeros((1, *self.dataset.image_shape))
        both = {"params": params, "state": state}
        apply = self.apply

        def predict(both, images):
            return apply(both["params"], both["state"], images, train=False, key=None)[0]

        return hcjax.trace(predict, both, images)


def started(workdir: str) -> Start:
    """Returns the network of a workdir and its recipe."""
    found = hcjax.load(workdir)
    recipe = stages.parse(found.config)
    setup = set_up(recipe)
    dataset = dataclasses.replace(setup.dataset, mean=found.mean, std=found.std)
    images = hcjax.data.normalise(dataset.train.images[:IMAGES], found.mean, found.std)

    def optimizer(steps, rate):
        return optimizer_of(recipe.optim, steps, learning_rate=rate)

    fit = setup.options | {"patience": None, "objective": setup.objective}
    network = (found.config, found.apply, found.params, found.state)
    return Start(workdir, *network, dataset, images, fit, optimizer)


def train(changes: dict, workdir: Path) -> str:
    """Trains a small network in a workdir, if none is there; returns it."""
    config = configfile.load("configs/default.py")
    for key, value in {"optim.learning_rate": 3e-3, "data.validation": 0, **changes}.items():
        configfile.override(config, key, str(value))
    training.train(stages.parse(config), workdir.absolute(), quiet=True)
    return str(workdir)


def piped(start: Start, macs: float, round_to: int, epochs: float, rate: float, seed: int, runs):
    """Returns the networks of the product's own stage: shrunk, and trained after that."""
    config = configfile.load("configs/resnet20_shrink.py").to_dict()
    config |= {"teacher": start.workdir, "seed": seed, "data": start.config["data"]}
    config["augment"] = start.config["augment"]
    options = {"macs": macs, "round_to": round_to, "epochs": epochs}
    config["shrink"] |= options | {"learning_rate": rate if epochs else None}
    workdir = runs / f"shrink-{macs:g}-{round_to}-epochs{epochs:g}-rate{rate:g}-seed{seed}"
    workdir.mkdir(parents=True, exist_ok=True)
    networks = pipeline.compress(stages.parse(config), workdir.absolute())
    return list(networks.models.values())[1:]


def theirs(start: Start, importance: str, macs: float, venvs: Path) -> tuple[Cut, ...]:
    """Returns what Torch-Pruning cuts, chosen in a process of its own; checks its network first."""
    images = np.asarray(start.images)
    arrays = {path: np.asarray(leaf) for tree in (start.params, start.state)
              for path, leaf in trees.paths(tree)}  # fmt: skip
    arrays["images"] = images.transpose(0, 3, 1, 2)
    arrays["labels"] = np.asarray(start.dataset.train.labels[:IMAGES], np.int64)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        np.savez(file, **arrays)
        command = [peers.python_of("torch_pruning", venvs), str(FOLDER / "prune_with_torch.py")]
        command += [str(file), importance, str(macs)]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"Torch-Pruning, {importance}: {run.stderr.strip().splitlines()[-1]}")
    answer = json.loads(run.stdout.splitlines()[-1])
    logits, _ = start.apply(start.params, start.state, images[:2], train=False, key=None)
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-3, atol=1e-3)
    cuts = []
    for block, kept in answer["kept"].items():
        size = start.params[block]["norm1"]["scale"].shape[0]
        places = [(f"params/{block}/conv1/kernel", 3), (f"params/{block}/conv2/kernel", 2)]
        places += [(f"params/{block}/norm1/{name}", 0) for name in ("scale", "bias")]
        places += [(f"state/{block}/norm1/{name}", 0) for name in ("mean", "variance")]
        cuts += [Cut(path, axis, tuple(kept), size) for path, axis in places]
    return tuple(cuts)


def retrained(start: Start, params: Any, state: Any, epochs: float, rate: float, seed: int, runs):
    """Returns (params, state) after training on; a run found in the folder `runs` is resumed."""
    batch_size = start.fit.get("batch_size", 128)
    steps = round(epochs * len(start.dataset.train.labels) / batch_size)
    # a folder for each start and recipe, which `fit` does not compare
    first = trees.sha256({"params": params, "state": state})[:12]
    runs = runs / f"{first}-epochs{epochs:g}-rate{rate:g}-seed{seed}"
    done = hcjax.fit(
        start.apply, params, start.dataset, state=state, tx=start.optimizer(steps, rate),
        steps=steps, key=jax.random.key(seed), workdir=runs, **start.fit,
    )  # fmt: skip
    return done.params, done.state


def speed(whole: hcjax.Model, small: hcjax.Model, rounds: int) -> dict[str, float]:
    """Returns how many times as fast the small network is, by median, least and most."""
    images = jnp.zeros((128, *whole.image_shape))
    runs = {}
    for name, model in (("whole", whole), ("small", small)):
        model = hcjax.fold(model)
        program = hcjax.jit(model.apply)
        runs[name] = lambda program=program, params=model.params: program(params, images)
        jax.block_until_ready(runs[name]())
    return timing.ratios(timing.in_rounds(runs, rounds), "small", "whole")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", nargs="?")
    parser.add_argument("--macs", type=float, help="the part of them that stays (0.5; small: 0.7)")
    parser.add_argument("--epochs", type=float, help="of training afterwards (6; small: 0)")
    parser.add_argument("--rate", type=float, default=0.03, help="its peak learning rate")
    parser.add_argument("--folded-rate", type=float, default=2e-3, help="the pipeline's")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of trainings")
    parser.add_argument("--rounds", type=int, default=7, help="of timing")
    parser.add_argument("--round-to", type=int, help="hcjax's channel counts (4; small: 1)")
    parser.add_argument("--theirs", nargs="+", choices=THEIRS, help="(magnitude; small: all)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help='such as "hcjax, inside"')
    parser.add_argument("--part", default="test", choices=("validation", "test"), help="scored")
    parser.add_argument("--runs", type=Path, help="folder that keeps the trainings, to go on with")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--venvs", type=Path, default=peers.VENVS, help="of the environments")
    args = parser.parse_args()
    if not (args.workdir or args.small or args.quick):
        parser.error("give the workdir of a trained ResNet, --small or --quick")
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs or Path(folder)
        if args.quick:
            given, args.seeds, args.rounds = QUICK, (0,), 2
            args.rate = args.folded_rate = 1e-3
            usual = {"macs": 0.5, "epochs": 1.0, "round_to": 4, "theirs": THEIRS[:1]}
        elif args.small:
            given, args.seeds = SMALL, (0,)
            usual = {"macs": 0.7, "epochs": 0.0, "round_to": 1, "theirs": THEIRS}
        else:
            given, usual = None, {"macs": 0.5, "epochs": 6.0, "round_to": 4, "theirs": THEIRS[:1]}
        for name, value in usual.items():
            if getattr(args, name) is None:
                setattr(args, name, value)
        start = started(args.workdir or train(given, runs / "network"))
        if not len(getattr(start.dataset, args.part).labels):
            parser.error(
                f"--part {args.part}: {start.workdir} kept none; train a network "
                "with --config.data.validation=5000"
            )
        compare(start, args, runs, parser)


def compare(start: Start, args, runs: Path, parser: argparse.ArgumentParser) -> None:
    """Prunes in every way and prints a line for each."""
    whole = start.model(start.params, start.state)
    folded = hcjax.fold(whole)
    ours = {"round_to": args.round_to, "macs": args.macs, "images": start.images}
    ways = {
        "hcjax": None,
        "hcjax, BatchNorm": lambda: hcjax.shrink(whole, **ours).cut,
        "hcjax, inside": lambda: hcjax.shrink(whole, select=INSIDE, **ours).cut,
    }
    for name in args.theirs:
        ways[f"Torch-Pruning, {name}"] = lambda name=name: theirs(
            start, name, args.macs, args.venvs
        )
    if unknown := set(args.only or ()) - set(ways):
        parser.error(f"--only: unknown {sorted(unknown)}; legal: {list(ways)}")
    total = hcjax.cost(whole).macs

    def accuracy(apply, params, state=None):
        found = hcjax.evaluate(apply, params, start.dataset, state=state, part=args.part)
        return 100 * found.summary["accuracy"]

    def of(model):
        return accuracy(model.apply, model.params)

    dataset, before = start.dataset, accuracy(start.apply, start.params, start.state)
    print(f"{dataset.name}, {args.part} part: {before:.2f} %, {total:,} MACs", flush=True)
    for name, cuts in ways.items():
        if args.only and name not in args.only:
            continue
        if cuts is None:
            options = (args.macs, args.round_to, args.epochs, args.folded_rate)
            each = [piped(start, *options, seed, runs) for seed in args.seeds]
            small, before, refitted = each[0][0], None, of(each[0][0])
            after = [of(models[-1]) for models in each]
        else:
            both = hcjax.cut({"params": start.params, "state": start.state}, cuts())
            params, state = both["params"], both["state"]
            small, before = start.model(params, state), accuracy(start.apply, params, state)
            refitted = None
            if name == "hcjax, inside":  # beside Torch-Pruning's, which has nothing like it
                inner = hcjax.shrink(folded, select=INSIDE, **ours)
                refitted = of(hcjax.prune.refit(inner, folded, start.images))
            recipe = (args.epochs, args.rate)
            after = [
                accuracy(start.apply, *retrained(start, params, state, *recipe, seed, runs))
                for seed in args.seeds
                if args.epochs
            ]
        parts = [f"{name:28s} MACs {hcjax.cost(small).macs / total:.3f}"]
        for title, value in (("before", before), ("refitted", refitted)):
            if value is not None:
                parts.append(f"{title} {value:.2f} %")
        if args.epochs:
            spread = f" ± {statistics.stdev(after):.2f}" if len(after) > 1 else ""
            parts.append(f"after {statistics.mean(after):.2f}{spread} % (n = {len(after)})")
        ratio = speed(whole, small, args.rounds)
        parts.append(f"speed {ratio['']:.2f} ({ratio['_min']:.2f} to {ratio['_max']:.2f})")
        print("  ".join(parts), flush=True)


if __name__ == "__main__":
    main()
