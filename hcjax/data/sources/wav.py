"""Source `wav`: sound files, with one sub-folder per class; one rate, one channel, one length.

In: a path. Out: `Parts` of the files' names, whose sounds are read, as float32 in -1..1, once it is
known which of them are kept.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from hcjax.data.dataset import Parts, Split
from hcjax.data.sources.folder import classes_of, parts_of, visible
from hcjax.errors import DataError


def load(path: str | Path, *, rate: int = 16_000, seconds: float = 1.0) -> Parts:
    """Reads the splits in a folder of .wav files, laid out like a folder of images.

    Args:
      path: `path/<class>/<file>.wav`, or the same under train, validation and test.
      rate: samples a second that all are brought to (polyphase filtering, scipy).
      seconds: of each sound; longer ones are cut, shorter ones filled with silence.

    Returns:
      Parts with inputs float32[N, rate · seconds], the mean of a file's channels, and labels. Only
      the sounds that are kept, e.g. by a limit, are read.

    Raises:
      DataError: if a folder is empty or holds other files, or a file cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of sounds, found no such folder")
    folders = parts_of(root)
    names = tuple(classes_of(folders["train"]))
    if len(names) < 2:
        raise DataError(f"{folders['train']}: expected a sub-folder for each of 2 classes or more")
    length = round(rate * seconds)
    splits = {}
    for part, folder in folders.items():
        if folder is None:
            continue
        files: list[Path] = []
        labels: list[int] = []
        for name, entry in classes_of(folder).items():
            if name not in names:
                raise DataError(f"{entry}: expected a class of training, {', '.join(names)}")
            own = visible(entry)
            if not own:
                raise DataError(f"{entry}: expected sounds of class '{name}', found none")
            files += own
            labels += [names.index(name)] * len(own)
        splits[part] = Split(np.array(files, object), np.array(labels, np.int32))

    def convert(split: Split) -> Split:
        """Reads the sounds that are kept."""
        sounds = [read(file, rate, length) for file in split.inputs]
        return split._replace(inputs=np.array(sounds, np.float32).reshape(-1, length))

    about = {"rate": rate, "seconds": seconds}
    return Parts(names, form="arrays", finish=lambda train, known: (convert, about), **splits)


def read(file: str | Path, rate: int, length: int) -> np.ndarray:
    """Reads one .wav file as float32[length] in -1..1, at a rate.

    Raises:
      DataError: if it is no readable .wav file.
    """
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        own, samples = wavfile.read(file)
    except (OSError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{file}: expected a readable .wav file, found: {error}") from error
    kind = samples.dtype
    if kind == np.uint8:
        samples = (samples.astype(np.float64) - 128) / 128
    elif kind.kind == "i":
        samples = samples.astype(np.float64) / -float(np.iinfo(kind).min)
    samples = samples.astype(np.float64)
    if samples.ndim == 2:
        samples = samples.mean(1)
    if not samples.size or not np.isfinite(samples).all():
        raise DataError(f"{file}: expected samples that are finite numbers, found none, or others")
    if own != rate:
        common = math.gcd(own, rate)
        samples = resample_poly(samples, rate // common, own // common)
    found = np.zeros(length, np.float32)
    found[: min(length, len(samples))] = samples[:length]
    return found
