"""`hcjax predict NETWORK FILES`: what a trained or packed network says of files.

In: a workdir or a `.hcz` file; image, sound and table files, and folders of them. Out: a table of
classes and probabilities, or what else the network's task predicts, and the same as JSON; exit code
2 if a file cannot be read, after the others are done.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from hcjax.accelerate import compiler
from hcjax.app import answer, command, reading, score
from hcjax.app.setup import start_platform
from hcjax.config.recipe import platform_of
from hcjax.core import files
from hcjax.errors import ConfigError, DataError
from hcjax.runs import saved
from hcjax.runs.workdir import CONFIG, read_json

BATCH = 256  # examples at a time
_USAGE = """Labels image files, sounds or rows with a trained, compressed or packed network.

  PROGRAM runs/lenet-1a2b3c4d a.png b.png        a training's workdir
  PROGRAM runs/lenet_int8-5e6f7a8b folder        a pipeline's last network
  PROGRAM model.hcz 'scans/*.png' --top_k=3      the three likeliest classes of each
  PROGRAM model.hcz folder --json=labels.json    the same as JSON
  PROGRAM digits.hcz one.wav two.wav             sounds, for a network of sounds
  PROGRAM prices.hcz houses.csv                  rows, for a network of text, numbers or both
  PROGRAM unet.hcz photos --masks=found          masks as PNG files, for one of pixels

A folder stands for all such files in it and below, sorted by path. Images are turned upright,
fitted to the network's size and normalised as in its training; sounds and rows are read as in it.
Of the config, platform, deterministic and cache_dir may be changed, e.g. --config.platform=cpu.

Flags:"""


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line: 0, or 2 if an image cannot be read.

    Args:
      argv: program name and arguments.
    """
    return command.run(argv, _USAGE, define, _act)


def define(values: flags.FlagValues) -> None:
    """Adds the flags that say how predictions are shown."""
    flags.DEFINE_integer("top_k", 1, "Classes shown of each image.", flag_values=values)
    text = "Folder that masks are written to, of a network that gives a class for every pixel."
    flags.DEFINE_string("masks", None, text, flag_values=values)
    flags.DEFINE_string("json", None, "File the predictions are written to.", flag_values=values)


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    if not arguments:
        raise ConfigError("name a workdir or a .hcz file, and files for it (see --help)")
    network, *given = arguments
    shown = {"top_k": values.top_k, "json": values.json, "masks": values.masks}
    return predict(network, given, **shown, changes=changes)


def predict(
    network: str,
    images: Sequence[str],
    *,
    top_k: int = 1,
    json: str | None = None,
    masks: str | None = None,
    changes: score.Changes = (),
) -> int:
    """Prints what a network says of files, of classes the likeliest, and returns an exit code.

    Args:
      network: workdir of a training, or of a pipeline, whose last network is taken; or a `.hcz`
        file.
      images: files, folders that hold some, and patterns; of sounds, or of tables with rows, where
        the network takes these.
      top_k: classes of each image, from 1 to K.
      json: file that is written: a list of {"file", "predictions": [{"class", "probability"}]},
        the likeliest first, or {"file", "problem"}; of another task than classification
        {"file", "prediction"}, as `Task.predict` has it, or {"file", "shares": {class: share of
        the pixels}}.
      masks: folder for the masks of a network that gives a class for every pixel.
      changes: (key, value as text): `platform`, `deterministic` and `cache_dir`.

    Raises:
      CheckpointError, ArtifactError: if the network cannot be loaded.
      ConfigError: if top_k or masks has no use for it.
      DataError: if it does not say how its inputs were made, or if there are no files.
    """
    if not images:
        raise ConfigError(f"name image files, or a folder of them, after {network}")
    given = Path(network).expanduser()
    path = saved.alone(given)
    if json:
        files.check_writable(json)
    _start(given, changes)
    if path != given:
        print(f"the network of {network} is its last, {path.name}")
    model, about = saved.load_any(path)
    reader = reading.reader_of(path, model)
    answers = answer.answers_of(path, model, about, top_k=top_k, masks=masks)
    apply, rows = compiler.jit(model.apply), []
    for batch in reading.batches(reader, _found(images, reader), BATCH):
        sound = [x for _, x in batch if not isinstance(x, str)]
        said: Iterator[dict] = iter(())
        if sound:
            padding = BATCH - len(sound) if rows else 0  # the program of the first batch serves
            inputs = jax.tree.map(lambda *x: np.stack(x), *sound, *[sound[0]] * padding)
            outputs = jax.device_get(apply(model.params, reader.ready(inputs)))
            names = [name for name, x in batch if not isinstance(x, str)]
            said = iter(answers(names, outputs))
        for name, x in batch:
            rows.append({"file": name, **({"problem": x} if isinstance(x, str) else next(said))})
    if any("problem" not in row for row in rows):
        print(answer.table(rows))
    code = command.named_problems(rows)
    if json:
        print(f"in {files.write_json(json, rows)}")
    return code


def _start(network: Path, changes: score.Changes) -> None:
    """Chooses where to compute: as the run of a workdir did, unless that is changed."""
    own = read_json(network / CONFIG) if (network / CONFIG).is_file() else {}
    usual = {"platform": "", "deterministic": False, "cache_dir": ""}
    values = ConfigDict({key: own.get(key, usual[key]) for key in usual})
    score.change(values, changes, f"predicting with {network}", score.RUN_KEYS)
    start_platform(platform_of(values))


def _found(given: Sequence[str], reader: reading.Reader) -> list[Path]:
    """Returns the files that some paths name, in order, each once.

    Raises:
      DataError: if a folder holds none.
    """
    found: dict[Path, Path] = {}
    for name in given:
        path = Path(name).expanduser()
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]
        for one in matches or [path]:
            for file in _below(one, reader) if one.is_dir() else [one]:
                found.setdefault(file.resolve(), file)
    return list(found.values())


def _below(folder: Path, reader: reading.Reader) -> list[Path]:
    """Returns the files in a folder and below it, sorted; hidden ones are left out."""

    def hidden(file):
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    every = sorted(file for file in folder.rglob("*") if file.is_file() and not hidden(file))
    found = [file for file in every if file.suffix.lower() in reader.suffixes]
    if not found:
        what = f"{reader.what} ({', '.join(reader.suffixes)})"
        raise DataError(f"{folder}: expected {what}, found none")
    if len(found) < len(every):
        left = len(every) - len(found)
        print(f"{folder}: {left} files are no {reader.what} by name, and left out")
    return found
