"""Speech from end to end: spoken digits in five languages, learned from synthetic voices alone.

    python benchmarks/digits.py                everything, seed 0
    python benchmarks/digits.py --seeds 5      seeds 0 to 4, mean and standard deviation
    python benchmarks/digits.py --sounds       only the sounds, for configs/digits.py
    python benchmarks/digits.py --quick        made-up tones and a tiny network: that it runs

Fetches Debian's espeak-ng and flite (apt-get; nothing is installed), which say 10,000 digits in
English, Spanish, French, Italian and Russian, each disturbed in three ways, see `voices.py`. What
is to be chosen is chosen on 1,000 more, by variants of voices that training does not hear. The test
is what five people have recorded for telephones, of Debian's asterisk-core-sounds-*-wav: fifty
clips. Then trains `configs/digits_compress.py`: the network of `configs/digits.py`, and the same in
integers, as files of the seed's folder.

What is there already is not made again: a run that was cut goes on. Prints the errors of each
language and seed and whether each bar is met; the exit code is 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

import jax  # noqa: E402
import numpy as np  # noqa: E402

import hcjax  # noqa: E402
from benchmarks import voices  # noqa: E402
from configs import digits_compress  # noqa: E402
from hcjax.app import studies  # noqa: E402
from hcjax.core import text  # noqa: E402
from hcjax.data.sources import wav  # noqa: E402
from hcjax.devices import environment  # noqa: E402
from hcjax.report.tables import mean_std  # noqa: E402

ERRORS, BYTES = 5, 20_000  # at most: the mean of the seeds, and of each file in integers
LOSS = 1  # errors, at most, that integers may add, in the mean
SPOKEN = {"train": 10_000, "validation": 1_000}


def tones(folder: Path) -> None:
    """Writes made-up sounds in the form of `voices.make`: each digit is two tones."""
    rng, t = np.random.default_rng(0), np.arange(voices.RATE * 0.4) / voices.RATE
    for part in ("train", "validation", "test"):
        for n in range(50):
            digit, language = n % 10, list(voices.WORDS)[n // 10]
            low, high = rng.normal(500 + 100 * digit, 5), rng.normal(3000 - 150 * digit, 5)
            sound = np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)
            sound = voices.placed(voices.cut(sound))
            voices.write(folder / part / str(digit) / f"{language}.wav", sound)


def errors(model: hcjax.Model, folder: Path) -> dict[str, int]:
    """Returns language -> errors of a network on the test clips of a folder."""
    wrong = {}
    length = round(voices.RATE * voices.SECONDS)
    for language in voices.WORDS:
        files = [folder / "test" / str(digit) / f"{language}.wav" for digit in range(10)]
        sounds = np.stack([wav.read(file, voices.RATE, length) for file in files])
        found = np.asarray(jax.jit(model.apply)(model.params, sounds)).argmax(1)
        wrong[language] = int((found != np.arange(10)).sum())
    return wrong


def config_for(sounds: Path, *, quick: bool) -> Any:
    """Returns the config of training and compression."""
    config = digits_compress.get_config()
    config.data.path = str(sounds)
    if quick:
        config.model.name = "sound_cnn_tiny"
        config.train.batch_size = 25
        config.train.epochs = config.quantize.epochs = 1.0
        config.quantize.bits = 8
    return config


def rows_of(seed: int, place: Path, sounds: Path, stages: list[dict]) -> list[dict]:
    """Returns a row of the table for each network of a seed."""
    rows = []
    for stage in stages:
        model, _ = hcjax.load_any(place / stage["file"])
        wrong = errors(model, sounds)
        row = {"network": stage["name"], "seed": seed, **wrong, "errors": sum(wrong.values())}
        row |= {"validation": f"{100 * stage['validation_accuracy']:.2f} %"}
        rows.append(row | {"bytes": stage["file_bytes"]})
    return rows


def verdict(rows: list[dict], bars: dict[str, bool]) -> str:
    """Returns mean ± standard deviation of each network's errors, and the bars."""
    lines = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        counts = {k: mean_std([row[k] for row in own]) for k in ("errors", *voices.WORDS)}
        told = ", ".join(f"{k} {counts[k][0]:.1f}" for k in voices.WORDS)
        mean, std, _ = counts["errors"]
        lines.append(f"{name}: {mean:.1f} ± {std or 0:.1f} errors of 50 (n = {len(own)}); {told}")
    return "\n".join(lines + [f"{'met' if met else 'MISSED'}: {bar}" for bar, met in bars.items()])


def bars_of(rows: list[dict]) -> dict[str, bool]:
    """Returns bar -> whether it is met, by the last network of each seed."""
    first, last = rows[0]["network"], rows[-1]["network"]
    mean = {
        name: float(np.mean([row["errors"] for row in rows if row["network"] == name]))
        for name in (first, last)
    }
    largest = max(row["bytes"] for row in rows if row["network"] == last)
    return {
        f"float: {mean[first]:.1f} errors, at most {ERRORS}": mean[first] <= ERRORS,
        f"integers: {mean[last]:.1f} errors, at most {ERRORS}": mean[last] <= ERRORS,
        f"integers: at most {LOSS} more than float": mean[last] <= mean[first] + LOSS,
        f"largest file in integers: {largest:,} bytes, at most {BYTES:,}": largest <= BYTES,
    }


def main() -> int:
    """Runs what the module's docstring says and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="so many, from 0 on")
    parser.add_argument("--folder", default="runs/digits", help="for sounds and networks")
    parser.add_argument("--packages", default="~/.cache/hcjax/debian", help="unpacked here")
    parser.add_argument("--sounds", action="store_true", help="make the sounds and stop")
    parser.add_argument("--quick", action="store_true", help="made-up tones; no network needed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if options.quick else options.folder).expanduser().absolute()
        sounds = folder / "sounds"
        if options.quick:
            tones(sounds)
        else:
            place = Path(options.packages).expanduser()
            voices.make(sounds, place=place, seed=0, **SPOKEN)
        print(f"sounds: {sounds}", flush=True)
        if options.sounds:
            return 0
        config = config_for(sounds, quick=options.quick)
        done = studies.seeds(config, folder / "networks", options.seeds)
        if not done:
            return 0  # preempted, and saved
        rows, reports = [], []
        for seed in range(options.seeds):
            place = folder / f"networks/seed-{seed}"
            reports.append(json.loads((place / "report.json").read_text()))
            rows += rows_of(seed, place, sounds, reports[-1]["stages"])
    print(text.table([list(row.values()) for row in rows], list(rows[0])))
    bars = bars_of(rows)
    print(verdict(rows, bars))
    seconds = mean_std([run["seconds"] for run in reports])[0]
    print(f"{seconds:,.0f} s a seed; {environment.device()}; {environment.versions()}")
    return 0 if options.quick or all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
