"""Text: which of WordNet's 45 lexicographer files a gloss is of, by a network of some 100 kB.

    python benchmarks/glosses.py                     fetches, trains, compresses; three seeds
    python benchmarks/glosses.py --seeds=1           one seed
    python benchmarks/glosses.py --data              makes the tables of glosses, and trains nothing
    python benchmarks/glosses.py --quick             a moment, with made-up glosses and no network

In: the Debian package wordnet-base, fetched by its name: 117,659 glosses, of which 10,000 are held
out. Out: a table of test accuracies and sizes, of the network in float and in integers. What is
finished is not done again: remove the folder to begin anew. The settings are those of
`configs/glosses.py` and `configs/glosses_compress.py`. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hcjax
from benchmarks.packages import fetch
from configs import glosses, glosses_compress
from hcjax import distill, losses, optim
from hcjax.core import files, system

# of lexnames(5WN), by number
_NAMES = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location
noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process
noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change
verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation
verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather
adj.ppl
"""
CLASSES = tuple(_NAMES.split())
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
TEST = 10_000
QUICK = {
    "data.validation": 80, "data.length": 8, "model.name": "text_cnn_tiny", "train.batch_size": 32,
    "train.epochs": 6.0, "train.ema_decay": None, "schedule.warmup_steps": 0,
    "optim.learning_rate": 0.03, "quantize.epochs": 1.0, "quantize.entropy": 1e-5,
}  # fmt: skip
BARS = {"float": "test >= 78 %", "int8": "within 0.3 points, <= 100,000 bytes"}


def read(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Returns (gloss, class) of the lines of a file `data.*` of WordNet, wndb(5WN).

    The gloss is all that stands behind the bar, definition and examples; words and pointers, which
    stand before it, are not used.

    Example:
      >>> read(["  1 a licence", "00001740 03 n 01 entity 0 000 | that which is; \\"a thing\\"  "])
      [('that which is; "a thing"', 'noun.Tops')]
    """
    found = []
    for line in lines:
        if line.startswith("  "):  # the licence
            continue
        facts, _, gloss = line.partition(" | ")
        found.append((gloss.strip(), CLASSES[int(facts.split()[1])]))
    return found


def made_up(count: int) -> list[tuple[str, str]]:
    """Returns so many glosses of four classes, each with a few words of its own."""
    rng = np.random.default_rng(0)
    own = {"noun.plant": "leaf stem tree", "verb.motion": "go run move", "adj.all": "large old bad",
           "noun.time": "day year hour"}  # fmt: skip
    rows = []
    for _ in range(count):
        name = str(rng.choice(list(own)))
        words = [
            *rng.choice(own[name].split(), 2),
            *rng.choice(["the", "of", "a", "with", "and"], 3),
        ]
        rows.append((" ".join(rng.permutation(words)), name))
    return rows


def write(rows: Sequence[tuple[str, str]], folder: Path, test: int) -> None:
    """Writes train.csv and test.csv, columns gloss and class; the same rows give the same bytes.

    Args:
      rows: (gloss, class).
      folder: of the tables.
      test: rows held out, drawn without regard to anything.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("test", order[:test]), ("train", order[test:])):
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerows([("gloss", "class"), *(rows[i] for i in chosen)])


def tables(folder: Path) -> Path:
    """Returns the folder of both tables, made if it is not there."""
    made = folder / "data"
    if not (made / "train.csv").exists():
        dictionary = fetch(["wordnet-base"], folder / "debian") / "usr/share/wordnet"
        rows = []
        for part in PARTS_OF_SPEECH:
            rows += read((dictionary / f"data.{part}").read_text("utf-8").splitlines())
        write(rows, made, TEST)
    return made


def train(config: Any, data: hcjax.data.Dataset, workdir: Path) -> hcjax.graph.Model:
    """Trains the network in float by the settings of the config; returns it folded."""
    tokens = len(data.about["text"]["vocabulary"]) + 2
    options = {k: v for k, v in config.model.items() if v is not None}
    name, dtype = options.pop("name"), options.pop("dtype")
    del options["sync_batchnorm"]
    shape = data.train.inputs.shape[1:]
    sizes = {"num_classes": len(data.class_names), "input_shape": shape, "tokens": tokens}
    network = hcjax.models.MODELS[name](dtype=dtype, **sizes, **options)
    key, fit_key = jax.random.split(jax.random.key(config.seed))
    params, state = network.init(key)
    loss = losses.create("cross_entropy", smoothing=config.loss.smoothing)
    common = {"key": fit_key, "workdir": workdir, "state": state}
    done = fit(network.apply, params, data, config, config.train.epochs,
               config.optim.learning_rate, loss=loss, **common)  # fmt: skip
    text = data.train.inputs[:1]
    return hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), done.params, text))


def fit(apply, params, data, config, epochs, rate, **fields) -> Any:
    """Trains with the optimiser and the schedule of the config; goes on where it was."""
    batch, plan = config.train.batch_size, config.schedule
    steps = max(round(epochs * data.train.size / batch), 1)
    plan = {"warmup_steps": plan.warmup_steps, "final_fraction": plan.final_fraction}
    schedule = optim.schedule("cosine", learning_rate=rate, steps=steps, **plan)
    augment = [(name, config.augment[name].to_dict()) for name in config.augment.use]
    return hcjax.fit(
        apply, params, data, tx=optim.create(config.optim.name, learning_rate=schedule),
        steps=steps, batch_size=batch, ema_decay=config.train.ema_decay, augment=augment, **fields,
    )  # fmt: skip


def compress(config: Any, model: Any, data: hcjax.data.Dataset, workdir: Path) -> Any:
    """Returns the network in integers, trained with the code of its kernels in the loss."""
    wanted, teaching = config.quantize, config.distill
    bits = dict(each.rsplit("=", 1) for each in wanted.bits)
    ranges = hcjax.calibrate(model, data.train.inputs[:512])
    fake = hcjax.fake_quantize(
        model, ranges, bits={k: int(n) for k, n in bits.items()},
        activation_bits=wanted.activation_bits, zero_points=wanted.zero_points,
    )  # fmt: skip
    own = losses.create("cross_entropy", smoothing=config.loss.smoothing)
    size = hcjax.entropy(fake)
    done = fit(
        fake.apply, fake.params, data, config, wanted.epochs, wanted.learning_rate,
        loss=distill.taught(own, weight=teaching.weight, temperature=teaching.temperature),
        teacher=partial(model.apply, model.params),
        penalty=lambda params: wanted.entropy * size(params),
        key=jax.random.fold_in(jax.random.key(config.seed), 1), workdir=workdir,
    )  # fmt: skip
    return hcjax.int8(fake.replace(params=done.params))


def packed(model: Any, data: hcjax.data.Dataset) -> bytes:
    """Returns the file of a network, with the vocabulary, so that it needs nothing beside it."""
    about = {"class_names": list(data.class_names), "inputs": data.about}
    return hcjax.pack(model, about=about)


def scores(model: Any, data: hcjax.data.Dataset) -> dict:
    """Returns the accuracies of a network, its size and what it leaves in float."""
    found = {"bytes": len(packed(model, data))}
    found["without words"] = len(hcjax.pack(model, about={"class_names": data.class_names}))
    for part in ("validation", "test"):
        scored = hcjax.evaluate(model.apply, model.params, data, part=part)
        found[part] = scored.summary["accuracy"]
    return found | {"floats": list(model.floats)}


def one(seed: int, data: Path, workdir: Path, **changes: Any) -> dict:
    """Returns the scores of both networks of a seed, and how long they took; made if not there."""
    done = workdir / "scores.json"
    if done.exists():
        return json.loads(done.read_text())
    config, stages = glosses.get_config(), glosses_compress.get_config()
    for each in (config, stages):
        with each.unlocked():
            each.update_from_flattened_dict({"seed": seed, "data.path": str(data)} | changes)
    begun = time.perf_counter()
    keys = ("path", "target", "text", "units", "length", "most", "validation")
    dataset = hcjax.data.load("csv", **{k: config.data[k] for k in keys}, seed=seed)
    model = train(config, dataset, workdir / "float")
    trained = time.perf_counter()
    small = compress(stages, model, dataset, workdir / "int8")
    ended = time.perf_counter()
    found = {
        "float": scores(model, dataset) | {"seconds": trained - begun},
        "int8": scores(small, dataset) | {"seconds": ended - trained},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        "words": len(dataset.about["text"]["vocabulary"]),
    }
    files.write_bytes(workdir / "int8.hcz", packed(small, dataset))
    files.write_json(done, found)
    return found


def shown(found: Sequence[dict]) -> str:
    """Returns the table of some seeds' scores."""
    lines = ["network  test accuracy, %          bytes               seconds  bar"]
    for name, bar in BARS.items():
        test = 100 * np.array([each[name]["test"] for each in found])
        size = np.array([each[name]["bytes"] for each in found])
        spread = f" ± {test.std(ddof=1):.2f}" if len(test) > 1 else ""
        values = f"{test.mean():.2f}{spread} ({', '.join(f'{t:.2f}' for t in test)})"
        seconds = np.mean([each[name]["seconds"] for each in found])
        sizes = ", ".join(f"{n:,}" for n in size)
        lines.append(f"{name:7}  {values:24}  {sizes:18}  {seconds:7.0f}  {bar}")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = Path("~/.cache/hcjax/glosses").expanduser()
    parser.add_argument("--folder", type=Path, default=usual, help="of data and of runs")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--data", action="store_true", help="make the tables, and train nothing")
    parser.add_argument("--quick", action="store_true", help="that it runs, not how well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, seeds, changes = args.folder, args.seeds, {}
        if args.quick:
            folder, seeds = Path(place), 1
            write(made_up(400), folder / "data", 80)
            changes = QUICK
        data = tables(folder)
        print(f"tables of glosses in {data}", flush=True)
        if args.data:
            return
        found = []
        for seed in range(seeds):
            found.append(one(seed, data, folder / f"seed{seed}", **changes))
            print(f"\n{shown(found)}", flush=True)
    first = found[0]
    floats, without = first["int8"]["floats"] or "nothing", first["int8"]["without words"]
    print(f"{first['parameters']:,} parameters; left in float: {floats}")
    print(f"the files hold {first['words']:,} words; without them {without:,} bytes are left")
    versions = f"Python {sys.version.split()[0]}, jax {jax.__version__}"
    print(f"{versions}, {jax.devices()[0].platform}, {system.threads()} threads")


if __name__ == "__main__":
    main()
