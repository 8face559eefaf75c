"""The sounds of benchmarks/digits.py, from tones instead of voices."""

import numpy as np
import pytest
from scipy.io import wavfile

import hcjax
from benchmarks import voices


def tone(seconds, pitch=700.0, loudness=1.0):
    return loudness * np.sin(
        2 * np.pi * pitch * np.arange(round(seconds * voices.RATE)) / voices.RATE
    )


@pytest.mark.parametrize("loudness", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("before", [0.0, 0.3])
def test_cut_takes_silence_and_loudness_away(loudness, before):
    hush = 1e-3 * loudness * np.random.default_rng(0).normal(size=8000)
    found = voices.cut(
        np.concatenate([hush[: round(8000 * before)], tone(0.4, 700, loudness), hush])
    )
    assert 0.4 <= len(found) / voices.RATE <= 0.47
    assert 0.9 < (found**2).max() / 2 < 1.1


def test_placed_is_a_second_whatever_there_is():
    assert len(voices.placed(tone(1.7))) == voices.RATE == len(voices.placed(tone(0.2)))
    middle = np.flatnonzero(voices.placed(tone(0.5)))
    assert abs(middle[0] - 2000) < 20 and abs(middle[-1] - 6000) < 20
    assert np.flatnonzero(voices.placed(tone(0.5), offset=0.0))[0] < 3


def test_resample_moves_pitch_and_length():
    found = voices.resample(tone(0.5, 1000), 1.25)
    assert len(found) == 5000
    peak = np.abs(np.fft.rfft(found)).argmax() * voices.RATE / len(found)
    assert abs(peak - 800) < 10


def test_disturb_and_noise_follow_the_seed():
    for make in (lambda rng: voices.disturb(tone(0.3), rng), lambda rng: voices.noise(500, rng)):
        one, same, other = (make(np.random.default_rng(n)) for n in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert np.isfinite(one).all() and not (len(one) == len(other) and (one == other).all())


def test_a_written_sound_is_read_by_the_source(tmp_path):
    for part in ("train", "test"):
        for digit in "01":
            sound = voices.placed(voices.cut(tone(0.4, 500 + 500 * int(digit))))
            voices.write(tmp_path / part / digit / "en.wav", sound)
    rate, raw = wavfile.read(tmp_path / "train/0/en.wav")
    assert rate == voices.RATE and raw.dtype == np.int16 and abs(raw).max() < 8192
    data = hcjax.data.load("wav", path=str(tmp_path), rate=rate, seconds=1.0, validation=0)
    assert data.train.inputs.shape == (2, 8000) and data.class_names == ("0", "1")


def test_every_language_has_ten_words_and_a_speaker():
    assert all(len(set(words.split())) == 10 for words in voices.WORDS.values())
    assert set(voices.WORDS) == set(voices.ACCENTS) == set(voices.REAL)
