"""`hcjax export NETWORK --to=... --out=DIR`: a saved network as files that other programs run.

In: a workdir or a `.hcz` file. Out: a folder with an artifact for each target, what they promise,
examples, and a model card; one table of its files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from hcjax import data, export
from hcjax.app import command, score, scoring
from hcjax.core import text
from hcjax.errors import ConfigError, HcjaxError
from hcjax.export import examples, manifest
from hcjax.export.c.source import WEIGHTS
from hcjax.export.folder import check_place
from hcjax.graph.model import Model
from hcjax.runs import saved

_USAGE = """Writes a trained or packed network as files that other programs run.

  PROGRAM runs/lenet-1a2b3c4d --to=stablehlo,safetensors --out=lenet
  PROGRAM runs/lenet_int8-5e6f7a8b --to=c,onnx,hcz --out=int8    a pipeline's last network
  PROGRAM model.hcz --to=stablehlo --batch=64 --out=model --nodata
  PROGRAM runs/lenet_compress-9c0d1e2f --to=c --weights=coded --out=small

The folder has a model card, README.md, all facts as manifest.json, and 16 test inputs with their
outputs. `hcjax verify DIR` runs every file in it and compares it with the original. The accuracy
and the inputs are of the data that `hcjax verify NETWORK` would score; --config or
--config.data.KEY=VALUE names other data, --nodata does without: then the inputs are drawn.
DIR is replaced if an export has made it, and refused if it holds anything else.
Targets: TARGETS.

Flags:"""


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line.

    Args:
      argv: program name and arguments.
    """
    usage = _USAGE.replace("TARGETS", ", ".join(export.TARGETS))
    return command.run(argv, usage, _define, _act)


def _define(values: flags.FlagValues) -> None:
    def string(name, words):
        flags.DEFINE_string(name, None, words, flag_values=values)

    flags.DEFINE_list("to", [], "Targets, with commas between them.", flag_values=values)
    string("out", "Folder that is written.")
    string("name", "Name of the network in the card; by default that of its file or folder.")
    words = "Examples of a call of the programs that are for one number of them."
    flags.DEFINE_integer("batch", 1, words, flag_values=values)
    words = "How C holds weights: plain, or coded, which is small and skips zeros."
    flags.DEFINE_enum("weights", "plain", WEIGHTS, words, flag_values=values)
    words = "Score it on its test data, which also gives the inputs; --nodata reads none."
    flags.DEFINE_bool("data", True, words, flag_values=values)
    string("config", "Config file whose section `data` is scored on.")


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    if len(arguments) != 1:
        raise ConfigError(f"name one workdir or .hcz file, got {len(arguments)} (see --help)")
    if not values.to or not values.out:
        raise ConfigError(
            f"--to=TARGET,... and --out=DIR are needed; targets: {', '.join(export.TARGETS)}"
        )
    if values.batch < 1:
        raise ConfigError(f"--batch must be at least 1, got {values.batch}")
    to = [target.strip() for target in values.to]
    check_place(values.out, to)
    path = saved.alone(arguments[0])
    config = scoring.start(values, arguments, changes)
    model, _ = saved.load_any(path)
    scores, inputs = None, None
    if values.data:
        scores, inputs = _on_data(path, model, config, changes)
    print(f"exporting {path} to {values.out}")
    facts = export.write(
        model,
        values.out,
        to=to,
        inputs=inputs,
        batch=values.batch,
        weights=values.weights,
        name=values.name or path.resolve().stem,
        scores=scores,
        said=lambda line: print(f"  {line}"),
    )
    print(_table(facts))
    print(f"in {values.out}; `hcjax verify {values.out}` runs all of it")
    return 0


def _on_data(path: Path, model: Model, config: Any, changes: score.Changes) -> tuple[Any, Any]:
    """Returns (scores, some test inputs) of a network, or (None, None) and a line why not."""
    try:
        dataset = scoring.dataset_of(path, model, config, changes)
        card = scoring.card_of(path, model, dataset, name=path.stem, timed=False)
    except HcjaxError as error:
        if config is not None or any(key.startswith("data.") for key, _ in changes):
            raise  # the data that was asked for
        print(f"no test data: {error}. The inputs are drawn, the accuracy is not known")
        return None, None
    where = {"score": card.score, "value": card.accuracy, "examples": card.examples}
    inputs, _ = test_of(dataset, model.about, count=examples.COUNT)
    return where | {"data": dataset.name}, inputs


def test_of(dataset: data.Dataset, about: dict, *, count: int | None = None) -> tuple[Any, Any]:
    """Returns (inputs as a network takes them, targets) of a test set, or of its beginning.

    Args:
      dataset: of `scoring.dataset_of`.
      about: of the network, whose normalisation is taken.
      count: of examples; None for all.
    """
    own = {key: about.get(key, getattr(dataset, key)) for key in ("mean", "std")}
    own = {key: None if x is None else np.asarray(x, np.float32) for key, x in own.items()}
    prepare = jax.jit(data.make_prepare(**own, num_classes=dataset.num_classes), static_argnums=1)
    size = dataset.test.size if count is None else min(count, dataset.test.size)
    parts = []
    for start in range(0, size, score.BATCH):
        chosen = np.arange(start, min(start + score.BATCH, size))
        inputs, targets = (
            jax.tree.map(lambda x, i=chosen: np.asarray(x[i]), tree) for tree in dataset.test
        )
        batch = prepare({"inputs": inputs, "labels": targets}, None)
        parts.append((jax.device_get(batch["inputs"]), targets))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _table(facts: dict) -> str:
    runs = {each["file"]: each for each in facts["artifacts"]}
    rows = [
        (
            name,
            f"{sums['bytes']:,}",
            runs[name]["runtime"] if name in runs else "",
            manifest.promised(runs[name]["promise"]) if name in runs else "",
        )
        for name, sums in facts["files"].items()
    ]
    return text.table(rows, ("file", "bytes", "run by", "promises"))
