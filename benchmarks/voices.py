"""Sounds for `digits.py`: spoken digits by synthetic voices, and recordings of real ones.

In: Debian packages of speech synthesizers and of telephone prompts. Out: .wav files of 8 kHz in the
folders that the source `wav` reads, all cut to what is said and brought to one level by the same
function. The same packages and seed make the same bytes.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import signal
from scipy.io import wavfile

from benchmarks import packages

RATE, SECONDS = 8_000, 1.0
WORDS = {
    "en": "zero one two three four five six seven eight nine",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять",
}
ACCENTS = {
    "en": "en-us en-us-nyc en-gb en-gb-x-rp en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-029",
    "es": "es es-419 es-419",
    "fr": "fr-fr fr-be fr-ch",
    "it": "it",
    "ru": "ru ru-lv",
}
FLITE = ("kal", "kal16", "awb", "slt", "rms")  # American and Scottish English
HELD_OUT = 7  # every seventh variant of a voice, and flite's last, speak in validation only
SYNTHESIZERS = (
    "espeak-ng", "libespeak-ng1", "espeak-ng-data", "libsonic0", "flite", "libflite1",
)  # fmt: skip
# the test: a recorded speaker of each language
REAL = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
RECORDED = tuple(f"asterisk-core-sounds-{language}-wav" for language in REAL)
# espeak-ng links with a player of sounds that writing files does not need, and that takes twenty
# more packages: a library with its names and nothing behind them stands for it
_SILENT = """void *create_audio_device_object(void) { return 0; }
int audio_object_open(void) { return -1; }
void audio_object_close(void) {}
void audio_object_destroy(void) {}
int audio_object_write(void) { return -1; }
int audio_object_drain(void) { return -1; }
int audio_object_flush(void) { return -1; }
const char *audio_object_strerror(void) { return ""; }
"""


class Voices(NamedTuple):
    """Where the synthesizers and their libraries are, and the variants of espeak-ng's voices."""

    bin: Path
    lib: Path
    silent: Path
    variants: tuple[str, ...]

    def run(self, *command: str) -> None:
        """Runs a program of the packages; raises OSError with what it said."""
        program = [str(self.bin / command[0]), *command[1:]]
        places = {"LD_LIBRARY_PATH": f"{self.silent}:{self.lib}", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(program, env=os.environ | places, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{' '.join(program)} failed: {done.stderr}")


def synthesizers(folder: Path) -> Voices:
    """Returns the synthesizers, fetched into a folder."""
    folder = packages.fetch(SYNTHESIZERS, folder).resolve()
    lib, silent = folder / f"usr/lib/{platform.machine()}-linux-gnu", folder / "silent"
    if not (silent / "libpcaudio.so.0").exists():
        compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
        if compiler is None:
            sys.exit("espeak-ng needs a C compiler, for a library of ten lines: install gcc")
        silent.mkdir(exist_ok=True)
        (silent / "silent.c").write_text(_SILENT)
        options = ["-w", "-shared", "-fPIC", "-o", silent / "libpcaudio.so.0"]
        subprocess.run([compiler, *options, silent / "silent.c"], check=True)
    variants = sorted(p.name for p in (lib / "espeak-ng-data/voices/!v").iterdir())
    return Voices(folder / "usr/bin", lib, silent, tuple(variants))


def say(
    voices: Voices, language: str, digit: int, rng: np.random.Generator, held_out: bool
) -> np.ndarray:
    """Returns float64[n] at 8 kHz: a digit by a voice, at a speed and a pitch that are drawn.

    held_out: whether by one of the voices that no training sound is made by.
    """
    word = WORDS[language].split()[digit] + rng.choice(["", "", ".", "?", "!", ","])
    speed, pitch = int(80 * 2 ** rng.uniform(0, 1.1)), int(rng.integers(10, 95))
    with tempfile.TemporaryDirectory() as place:
        file = f"{place}/said.wav"
        if language == "en" and rng.random() < 0.35:
            voice = FLITE[-1] if held_out else rng.choice(FLITE[:-1])
            stretch = f"duration_stretch={rng.uniform(0.9, 2.0):.2f}"
            voices.run("flite", "-voice", voice, "--setf", stretch, "-t", word, "-o", file)
        else:
            legal = [v for n, v in enumerate(voices.variants) if (n % HELD_OUT == 3) == held_out]
            accent = rng.choice(ACCENTS[language].split())
            options = ["-v", f"{accent}+{rng.choice(legal)}", "-s", str(speed), "-p", str(pitch)]
            voices.run("espeak-ng", f"--path={voices.lib}", *options, "-w", file, word)
        rate, sound = wavfile.read(file)
    return resample(sound / 32768.0, RATE / rate)


def resample(sound: np.ndarray, factor: float) -> np.ndarray:
    """Returns a sound with `factor` times as many samples, to the nearest 1/160."""
    up = round(160 * factor)
    common = np.gcd(up, 160)
    return signal.resample_poly(sound, up // common, 160 // common)


def disturb(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a sound from another throat, in another room, over another line.

    Resampled, which moves formants, pitch and tempo together; an echo that dies away; a smooth
    response of some dB and a telephone's band; a soft limit.
    """
    sound = resample(sound, rng.uniform(0.8, 1.25))
    if rng.random() < 0.5:
        decay = rng.uniform(0.02, 0.12)
        t = np.arange(int(4 * decay * RATE)) / RATE
        tail = rng.normal(size=len(t)) * np.exp(-t / decay) * rng.uniform(0.02, 0.12)
        tail[0] = 1
        sound = signal.fftconvolve(sound, tail)
    f = np.fft.rfftfreq(len(sound), 1 / RATE)
    points = rng.normal(0, rng.uniform(0, 6), 7)
    decibel = np.interp(f, np.linspace(0, RATE / 2, 7), points) + rng.normal(0, 4) * f / 2000
    if rng.random() < 0.5:
        decibel -= 25 * ((f < rng.uniform(100, 350)) | (f > rng.uniform(3200, 3900)))
    sound = np.fft.irfft(np.fft.rfft(sound) * 10 ** (decibel / 20), len(sound))
    if rng.random() < 0.3:
        sound = np.tanh(sound / np.abs(sound).max() * rng.uniform(1, 4))
    return sound


def noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns noise float64[count], white to pink, of a standard deviation of 1."""
    f = np.fft.rfftfreq(count, 1 / RATE)
    slope = np.maximum(f, 50) ** -rng.uniform(0, 1)
    sound = np.fft.irfft(np.fft.rfft(rng.normal(size=count)) * slope, count)
    return sound / sound.std()


def cut(sound: np.ndarray, *, below: float = 35.0) -> np.ndarray:
    """Returns what is said, without silence around it, of a mean square of 1 where it is loud.

    Args:
      sound: float64[n]. below: decibels below the loudest 20 ms that silence begins at.
    """
    size = RATE // 50
    sound = np.pad(sound - sound.mean(), (0, -len(sound) % size))
    power = (sound.reshape(-1, size) ** 2).mean(1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-below / 10))
    start, stop = max(0, loud[0] - 1) * size, (loud[-1] + 2) * size
    return sound[start:stop] / np.sqrt(np.sort(power)[-8:].mean())


def placed(sound: np.ndarray, offset: float = 0.5) -> np.ndarray:
    """Returns float64[8000], a cut sound amid a second, or after a share of what is free."""
    length = round(RATE * SECONDS)
    start = int(offset * max(0, length - len(sound)))
    return np.pad(sound, (start, length))[:length]


def write(file: Path, sound: np.ndarray) -> None:
    """Writes a placed sound as 16 bits; 1 is an eighth of what they hold."""
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, RATE, np.int16(np.clip(np.round(sound * 4096), -32768, 32767)))


def make_synthetic(task: tuple[int, bool], voices: Voices, folder: Path, seed: int) -> None:
    """Writes one spoken digit: three disturbed copies to train on, or one that is held out."""
    n, held_out = task
    rng = np.random.default_rng([seed, held_out, n])
    digit, language = n % 10, list(WORDS)[n // 10 % len(WORDS)]
    said = cut(say(voices, language, digit, rng, held_out))
    for copy in range(1 if held_out else 3):
        sound = cut(disturb(said, rng)) * 10 ** (rng.uniform(-3, 3) / 20)
        sound = placed(sound, rng.uniform(0.2, 0.8))
        sound += 10 ** (-rng.uniform(15, 60) / 20) * noise(len(sound), rng)
        part = "validation" if held_out else "train"
        write(folder / part / str(digit) / f"{language}-{n:05}-{copy}.wav", sound)


def make(folder: Path, *, place: Path, seed: int, train: int, validation: int) -> None:
    """Writes train, validation and test into a folder; what is whole there is left as it is.

    Args:
      folder: of the sounds. place: to unpack packages into. seed: of the synthetic ones.
      train: spoken digits, each disturbed in three ways. validation: spoken digits.
    """
    made = folder / ".made"
    facts = f"seed {seed}, train {train}, validation {validation}"
    if made.exists() and made.read_text() == facts:
        return
    shutil.rmtree(folder, ignore_errors=True)
    voices = synthesizers(place)
    tasks = [(n, False) for n in range(train)] + [(n, True) for n in range(validation)]
    work = functools.partial(make_synthetic, voices=voices, folder=folder, seed=seed)
    with Pool(os.cpu_count()) as pool:
        for n, _ in enumerate(pool.imap_unordered(work, tasks, chunksize=25)):
            if n % 1000 == 0:
                print(f"spoken: {n:,} of {len(tasks):,}", flush=True)
    sounds = packages.fetch(RECORDED, place) / "usr/share/asterisk/sounds"
    for language, speaker in REAL.items():
        for digit in range(10):
            rate, sound = wavfile.read(sounds / speaker / f"digits/{digit}.wav")
            sound = placed(cut(resample(sound / 32768.0, RATE / rate)))
            write(folder / "test" / str(digit) / f"{language}.wav", sound)
    made.write_text(facts)
