"""Segmentation from end to end: a U-Net that finds emoji, made small, beside what it costs.

    python benchmarks/emoji.py                 everything, seed 0
    python benchmarks/emoji.py --seeds 3       seeds 0 to 2, mean and standard deviation
    python benchmarks/emoji.py --scenes        only the scenes, for configs/emoji_unet.py
    python benchmarks/emoji.py --quick         made-up shapes and a tiny network: that it runs

Fetches Debian's fonts-noto-color-emoji (apt-get; nothing is installed; fontTools, which matplotlib
brings, reads it), pastes its emoji by their alpha over textures, see `scenes.py`, and writes 24,000
scenes of 40 x 40 pixels with masks. No emoji of a validation or test scene, nor a variant of it or
one that looks like it, is in a training scene. Then trains `configs/emoji_unet.py` and makes seven
networks of it, as `configs/emoji_unet_compress.py` says:

    int8           8 bits, a scale for each channel, zero points; not trained in integers
    int8, naive    one scale for each kernel, no zero points, ranges by the extremes
    4 bits         trained in integers: weights and activations 4 bits, image, first and last
                   layer 8
    4 bits, naive  the same bits the naive way, not trained
    half           half of the products: whole channels gone, layers refitted
    half, trained  the same, trained after that
    half, 4 bits   the same, trained in integers of 4 bits

What is there already is not made again: a run that was cut goes on. Settings are chosen with
`--part validation`; the test part is read once, at the end. Prints a table and whether each bar is
met; the exit code is 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import packages  # noqa: E402
import scenes  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

import hcjax  # noqa: E402
from configs import emoji_unet, emoji_unet_compress  # noqa: E402
from hcjax import optim  # noqa: E402
from hcjax.app.stages.work import by_layer  # noqa: E402
from hcjax.core import text  # noqa: E402
from hcjax.devices import environment  # noqa: E402
from hcjax.quantize.spec import QuantSpec  # noqa: E402
from hcjax.report.tables import mean_std  # noqa: E402

PACKAGE = "fonts-noto-color-emoji"
COUNTS = {"train": 20_000, "validation": 2_000, "test": 2_000}
IMAGES = 512  # training scenes that ranges, channels and layers are fitted on
# network -> the most that its object IoU may be below that of the float network, in points
BARS = {"int8": 0.3, "4 bits": 1.5, "half, trained": 1.0}
LEAST, LARGEST = 0.85, 100_000  # object IoU and parameters of the float network
QUICK = {"train": 64, "validation": 16, "test": 16}


def shapes(count: int = 12) -> list[scenes.Emoji]:
    """Returns made-up emoji, each a family of its own: polygons and ellipses in two colours."""
    found = []
    for n in range(count):
        rng = np.random.default_rng(n)
        image = Image.new("RGBA", (136, 128))
        draw = ImageDraw.Draw(image)
        colours = [(*map(int, rng.integers(0, 256, 3)), 255) for _ in range(2)]
        corners = rng.uniform(4, 124, (3 + n % 4, 2))
        draw.ellipse((20, 20, 116, 108), fill=colours[0])
        draw.polygon([tuple(corner) for corner in corners], fill=colours[1])
        found.append(scenes.Emoji((n,), np.asarray(image.crop(image.getbbox()))))
    return found


def make_scenes(folder: Path, *, quick: bool = False) -> None:
    """Writes the scenes of all parts into `folder/scenes`, unless they are there."""
    counts = QUICK if quick else COUNTS
    if quick:
        emoji = shapes()
    else:
        emoji = scenes.read(packages.fetch([PACKAGE], folder / "packages") / scenes.FONT)
    parts = scenes.split(emoji)
    for number, (part, families) in enumerate(parts.items()):
        print(f"{part}: {counts[part]:,} scenes of {sum(map(len, families)):,} emoji", flush=True)
        scenes.write(folder / "scenes" / part, families, counts[part], seed=[0, number])


class Trial:
    """One seed: its networks, each made once and kept as a file, and their scores."""

    def __init__(self, folder: Path, data: Any, seed: int, *, quick: bool):
        self.folder, self.data, self.seed, self.quick = folder / f"seed{seed}", data, seed, quick
        self.training, self.compression = emoji_unet.get_config(), emoji_unet_compress.get_config()
        self.folder.mkdir(parents=True, exist_ok=True)
        some = data.train.images[: 16 if quick else IMAGES]
        self.images = hcjax.data.normalise(some, data.mean, data.std)
        self.file = self.folder / "facts.json"
        self.facts = json.loads(self.file.read_text()) if self.file.exists() else {}

    def made(self, name: str, make: Callable[[], hcjax.Model]) -> hcjax.Model:
        """Returns a network from its file; made, if there is none."""
        path = self.folder / f"{name.replace(', ', '-').replace(' ', '')}.hcz"
        if not path.exists():
            print(f"seed {self.seed}: {name}", flush=True)
            started = time.perf_counter()
            packed = hcjax.pack(make())
            path.with_suffix(".part").write_bytes(packed)
            path.with_suffix(".part").rename(path)
            self.note(name, seconds=time.perf_counter() - started)
        packed = path.read_bytes()
        model = hcjax.unpack(packed)
        self.note(name, bytes=len(packed), macs=hcjax.cost(model).macs)
        return model

    def note(self, name: str, **facts: Any) -> None:
        """Keeps facts of a network."""
        self.facts.setdefault(name, {}).update(facts)
        self.file.write_text(json.dumps(self.facts, indent=1))

    def score(self, name: str, model: hcjax.Model, part: str) -> None:
        """Keeps the object IoU of a network on a part."""
        if part not in self.facts[name]:
            found = hcjax.evaluate(
                model.apply, model.params, self.data, part=part, task=self.training.task
            ).summary
            self.note(name, **{part: found["object_iou"]})

    def fit(self, name, apply, params, epochs, rate, state=None):
        """Trains by the recipe of `configs/emoji_unet.py` for so many epochs."""
        config = self.training
        batch, epochs = (16, 2) if self.quick else (config.train.batch_size, epochs)
        steps = round(epochs * self.data.train.size / batch)
        warmup = min(config.schedule.warmup_steps, steps // 10)
        schedule = optim.schedule(
            config.schedule.name, learning_rate=rate, steps=steps, warmup_steps=warmup
        )
        tx = optim.create(
            config.optim.name, learning_rate=schedule, weight_decay=config.optim.weight_decay
        )
        augment = [
            (kind, {k: v for k, v in config.augment[kind].items() if v is not None})
            for kind in config.augment.use
        ]
        return hcjax.fit(
            apply, params, self.data, state=state, task=config.task, tx=tx, steps=steps,
            batch_size=batch, augment=augment, ema_decay=config.train.ema_decay,
            key=jax.random.key(self.seed + 1), workdir=self.folder / name, quiet=self.quick,
        )  # fmt: skip

    def float(self) -> hcjax.Model:
        """Trains the network, and folds it."""
        shape = self.data.train.images.shape[1:]
        name, options = self.training.model.name, {"filters": (4, 8)} if self.quick else {}
        network = hcjax.models.create(name, num_classes=2, input_shape=shape, **options)
        params, state = network.init(jax.random.key(self.seed))
        train, optimizer = self.training.train, self.training.optim
        done = self.fit(
            "training", network.apply, params, train.epochs, optimizer.learning_rate, state
        )
        self.note("float", parameters=hcjax.trees.num_parameters(params))
        predict = hcjax.inference(network.apply, done.state)
        return hcjax.fold(hcjax.trace(predict, done.params, jnp.zeros((1, *shape))))

    def tuned(self, name: str, model: hcjax.Model, section: Any) -> hcjax.Model:
        """Trains a Model as a section of the config says."""
        done = self.fit(name, model.apply, model.params, section.epochs, section.learning_rate)
        return model.replace(params=done.params)

    def half(self, model: hcjax.Model) -> hcjax.Model:
        """Takes half of the products out of a network, and refits its layers."""
        small = hcjax.shrink(model, macs=self.compression.shrink.macs, images=self.images)
        return hcjax.prune.refit(small, model, self.images)

    def fake(self, model: hcjax.Model, bits: int, *, naive: bool = False) -> hcjax.Model:
        """Returns a network that rounds as in integers, of 8 bits or of the config's 4."""
        config, options = self.compression.quantize, {}
        if bits == 4:
            for key in ("bits", "activation_bits"):
                options[key] = by_layer(f"quantize.{key}", config[key], int)
        if naive:
            options |= {"granularity": "tensor", "zero_points": False}
        ranges = hcjax.calibrate(model, self.images, method="minmax" if naive else "mse")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which values suffer: the table says how much
            return hcjax.fake_quantize(model, ranges, QuantSpec(**options))

    def run(self, part: str) -> dict[str, dict]:
        """Makes and scores all networks; returns name -> facts."""
        quantize, models = self.compression.quantize, {}

        def add(name, make):
            models[name] = self.made(name, make)
            self.score(name, models[name], part)
            return models[name]

        whole = add("float", self.float)
        for bits, name in ((8, "int8"), (4, "4 bits")):
            if bits == 8:
                add(name, lambda: hcjax.int8(self.fake(whole, 8)))
            else:
                add(name, lambda: hcjax.int8(self.tuned("qat", self.fake(whole, 4), quantize)))
            add(f"{name}, naive", lambda bits=bits: hcjax.int8(self.fake(whole, bits, naive=True)))
        half = add("half", lambda: self.half(whole))
        half = add("half, trained", lambda: self.tuned("half", half, self.compression.shrink))
        add(
            "half, 4 bits",
            lambda: hcjax.int8(self.tuned("half-qat", self.fake(half, 4), quantize)),
        )
        return {name: self.facts[name] for name in models}


def table(runs: list[dict[str, dict]], part: str) -> str:
    """Returns the table: mean and standard deviation over the seeds, and the bars."""
    columns = [f"object IoU, {part}", "points", "bar", "bytes", "times smaller", "MACs", "seconds"]
    lines = [["network", *columns]]
    for name in runs[0]:
        losses = [100 * (run[name][part] - run["float"][part]) for run in runs]
        bar = f">= {LEAST}" if name == "float" else f"{-BARS[name]:g}" if name in BARS else ""
        facts = {key: np.mean([run[name][key] for run in runs]) for key in ("bytes", "macs")}
        lines.append([
            name,
            spread([run[name][part] for run in runs], 4),
            "" if name == "float" else spread(losses, 2),
            bar,
            f"{facts['bytes']:,.0f}",
            f"{np.mean([run['float']['bytes'] for run in runs]) / facts['bytes']:.1f}",
            f"{facts['macs'] / 1e6:.2f} M",
            f"{np.mean([run[name].get('seconds', np.nan) for run in runs]):,.0f}",
        ])  # fmt: skip
    return text.aligned(lines)


def spread(values: list[float], digits: int) -> str:
    """Returns the mean, and with several values the standard deviation."""
    mean, std, count = mean_std(values)
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if count > 1 else "")


def missed(runs: list[dict[str, dict]], part: str) -> list[str]:
    """Returns the bars that the means do not meet, as sentences."""
    means = {name: np.mean([run[name][part] for run in runs]) for name in runs[0]}
    found = []
    if means["float"] < LEAST:
        found.append(f"the float network's object IoU is {means['float']:.4f}, not {LEAST}")
    if (parameters := runs[0]["float"]["parameters"]) > LARGEST:
        found.append(f"the float network has {parameters:,} parameters, more than {LARGEST:,}")
    for name, bar in BARS.items():
        if (loss := 100 * (means["float"] - means[name])) > bar:
            found.append(f"{name} loses {loss:.2f} points, more than {bar}")
    return found


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--folder", type=Path, default=Path("runs/emoji"), help="for everything")
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    parser.add_argument("--scenes", action="store_true", help="make the scenes, and no more")
    parser.add_argument("--quick", action="store_true", help="a minute's trial, without a network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) if options.quick else options.folder
        make_scenes(folder, quick=options.quick)
        if options.scenes:
            return 0
        data = hcjax.data.load("masks", path=folder / "scenes")
        print(data)
        seeds = range(options.seeds)
        runs = [Trial(folder, data, seed, quick=options.quick).run(options.part) for seed in seeds]
    versions = ", ".join(f"{k} {v}" for k, v in environment.versions().items())
    print(f"\n{environment.device()}; {versions}; seeds 0 to {options.seeds - 1}")
    print(f"{runs[0]['float']['parameters']:,} parameters in training\n")
    print(table(runs, options.part))
    if options.quick:
        return 0
    for sentence in (bars := missed(runs, options.part)):
        print(f"MISSED: {sentence}")
    return int(bool(bars))


if __name__ == "__main__":
    sys.exit(main())
