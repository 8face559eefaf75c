"""Whole filters pruned from a ResNet beside Torch-Pruning: same weights, same training afterwards.

    python benchmarks/filters.py runs/resnet20        a workdir of configs/resnet20.py
    python benchmarks/filters.py --quick              ResNet-8, 100 steps on MNIST: that it runs

Each way takes the trained network and leaves at most --macs of its products; each is then trained
by hcjax's `fit`, by the config's recipe but with --epochs and --rate, once for every seed, in
training mode, BatchNorm included. Channels of hcjax are scored on --images training images, which
a folded network ranks alike; "refitted" is the folded network after `hcjax.prune.refit`, as a stage
`shrink` leaves it, without any training. Torch-Pruning 1.6.0 ends in an IndexError on the shortcuts
of the network, which pad channels; it is left the channels inside the blocks, and so is hcjax in
the rows "inside". Printed: accuracy before and after, on --part, and images/s at batch 128, folded,
the network as it was and the pruned one taking turns.

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
from hcjax.app import stages  # noqa: E402
from hcjax.app.setup import optimizer_of, set_up  # noqa: E402
from hcjax.graph.model import Cut  # noqa: E402

INSIDE = r".*/conv1/kernel"  # kernels whose outputs no shortcut joins
THEIRS = ("magnitude", "lamp", "bn scale")


class Start(NamedTuple):
    """A trained network, and how it goes on to be trained: `fit`'s arguments but steps and key."""

    apply: Callable
    params: Any
    state: Any
    dataset: hcjax.data.Dataset
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


def trained(workdir: str) -> Start:
    """Returns the network of a workdir and its recipe."""
    found = hcjax.load(workdir)
    recipe = stages.parse(found.config)
    setup = set_up(recipe)
    dataset = dataclasses.replace(setup.dataset, mean=found.mean, std=found.std)

    def optimizer(steps, rate):
        return optimizer_of(recipe.optim, steps, learning_rate=rate)

    fit = setup.options | {"patience": None, "objective": setup.objective}
    return Start(found.apply, found.params, found.state, dataset, fit, optimizer)


def quick() -> Start:
    """Returns a small network, trained for a moment."""
    dataset = hcjax.data.load("mnist", limit=4000)
    network = hcjax.models.create("resnet8")
    params, state = network.init(jax.random.key(0))

    def optimizer(steps, rate):
        del steps
        return optax.adam(rate)

    fit = {"loss": hcjax.losses.cross_entropy}
    done = hcjax.fit(network.apply, params, dataset, state=state, tx=optimizer(0, 3e-3), steps=100,
                     key=jax.random.key(1), quiet=True, **fit)  # fmt: skip
    return Start(network.apply, done.params, done.state, dataset, fit, optimizer)


def theirs(start: Start, importance: str, macs: float, venvs: Path) -> tuple[Cut, ...]:
    """Returns what Torch-Pruning cuts, chosen in a process of its own; checks its network first."""
    images = np.random.default_rng(0).standard_normal((2, *start.dataset.image_shape), np.float32)
    arrays = {path: np.asarray(leaf) for tree in (start.params, start.state)
              for path, leaf in trees.paths(tree)}  # fmt: skip
    arrays["images"] = images.transpose(0, 3, 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        np.savez(file, **arrays)
        command = [peers.python_of("torch_pruning", venvs), str(FOLDER / "prune_with_torch.py")]
        command += [str(file), importance, str(macs)]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"Torch-Pruning, {importance}: {run.stderr.strip().splitlines()[-1]}")
    answer = json.loads(run.stdout.splitlines()[-1])
    logits, _ = start.apply(start.params, start.state, images, train=False, key=None)
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-3, atol=1e-3)
    cuts = []
    for block, kept in answer["kept"].items():
        size = start.params[block]["norm1"]["scale"].shape[0]
        places = [(f"params/{block}/conv1/kernel", 3), (f"params/{block}/conv2/kernel", 2)]
        places += [(f"params/{block}/norm1/{name}", 0) for name in ("scale", "bias")]
        places += [(f"state/{block}/norm1/{name}", 0) for name in ("mean", "variance")]
        cuts += [Cut(path, axis, tuple(kept), size) for path, axis in places]
    return tuple(cuts)


def retrained(
    start: Start, params: Any, state: Any, epochs: float, rate: float, seed: int, runs: Path | None
):
    """Returns (params, state) after training on; a run found in the folder `runs` is resumed."""
    batch_size = start.fit.get("batch_size", 128)
    steps = round(epochs * len(start.dataset.train.labels) / batch_size)
    if runs is not None:  # a folder for each start and recipe, which `fit` does not compare
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("workdir", nargs="?")
    parser.add_argument("--macs", type=float, default=0.5, help="the part of them that stays")
    parser.add_argument("--epochs", type=float, default=6.0, help="of training afterwards")
    parser.add_argument("--rate", type=float, default=0.03, help="its peak learning rate")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of trainings")
    parser.add_argument("--rounds", type=int, default=7, help="of timing")
    parser.add_argument("--round-to", type=int, default=4, help="hcjax's channel counts")
    parser.add_argument("--images", type=int, default=512, help="that hcjax ranks and refits on")
    parser.add_argument("--theirs", nargs="+", default=THEIRS[:1], choices=THEIRS)
    parser.add_argument("--only", nargs="+", metavar="ROW", help='such as "hcjax, inside"')
    parser.add_argument("--part", default="test", choices=("validation", "test"), help="scored")
    parser.add_argument("--runs", type=Path, help="folder that keeps the trainings, to go on with")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--venvs", type=Path, default=peers.VENVS, help="of the environments")
    args = parser.parse_args()
    if args.quick:
        start, args.epochs, args.seeds, args.rounds, args.rate = quick(), 1.0, (0,), 2, 1e-3
    elif args.workdir is None:
        parser.error("give the workdir of a trained ResNet, or --quick")
    else:
        start = trained(args.workdir)
    if not len(getattr(start.dataset, args.part).labels):
        parser.error(
            f"--part {args.part}: {args.workdir or '--quick'} kept none; train a network "
            "with --config.data.validation=5000"
        )
    whole = start.model(start.params, start.state)
    folded, dataset = hcjax.fold(whole), start.dataset
    images = hcjax.data.normalise(dataset.train.images[: args.images], dataset.mean, dataset.std)
    ours = {"round_to": args.round_to, "macs": args.macs, "images": images}
    ways = {
        "hcjax": lambda: hcjax.shrink(whole, **ours).cut,
        "hcjax, inside": lambda: hcjax.shrink(whole, select=INSIDE, **ours).cut,
    }
    for name in args.theirs:
        ways[f"Torch-Pruning, {name}"] = lambda name=name: theirs(
            start, name, args.macs, args.venvs
        )

    if unknown := set(args.only or ()) - set(ways):
        parser.error(f"--only: unknown {sorted(unknown)}; legal: {list(ways)}")
    ways = {name: way for name, way in ways.items() if not args.only or name in args.only}

    def score(params, state):
        found = hcjax.evaluate(start.apply, params, start.dataset, state=state, part=args.part)
        return 100 * found.summary["accuracy"]

    total = hcjax.cost(whole).macs
    accuracy = score(start.params, start.state)
    print(f"{start.dataset.name}, {args.part} part: {accuracy:.2f} %, {total:,} MACs", flush=True)
    for name, cuts in ways.items():
        both = hcjax.cut({"params": start.params, "state": start.state}, cuts())
        params, state = both["params"], both["state"]
        small, before = start.model(params, state), score(params, state)
        ratio, refitted = speed(whole, small, args.rounds), ""
        if name == "hcjax":
            model = hcjax.prune.refit(hcjax.shrink(folded, **ours), folded, images)
            plain = hcjax.evaluate(model.apply, model.params, dataset, part=args.part)
            refitted = f"refitted {100 * plain.summary['accuracy']:.2f} %  "
        scores = [
            score(*retrained(start, params, state, args.epochs, args.rate, seed, args.runs))
            for seed in args.seeds
        ]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        print(
            f"{name:28s} MACs {hcjax.cost(small).macs / total:.3f}  before {before:.2f} %  "
            f"{refitted}after {statistics.mean(scores):.2f}{spread} % (n = {len(scores)})  "
            f"speed {ratio['']:.2f} ({ratio['_min']:.2f} to {ratio['_max']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
