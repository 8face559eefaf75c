# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---


# %% [markdown]
# # Speech: vowels, from the waveform to integers
#
# **What you will have at the end:** a network that hears which of five vowels is spoken, by voices
# that it has never heard, in a file of a few kilobytes that takes the plain waveform: the
# spectrogram is part of the network.
#
# The voices are made here, the way speech was first synthesized: a buzz, the vocal cords, goes
# through three resonances, the mouth. Where these resonances (formants) lie makes the vowel.

# %%
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy import signal
from scipy.io import wavfile

import hcjax

FULL = False  # True: ten times the voices and longer trainings, some ten minutes
STEPS = 1500 if FULL else 100
RATE, SECONDS = 8000, 0.5

# %% [markdown]
# ## Voices
#
# The formants are those of Peterson and Barney's men (1952), in Hz. Each voice has a throat of its
# own length, which moves all of them together, a pitch that falls or rises, a place in time, and
# some noise.

# %%
FORMANTS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010),
    "o": (570, 840, 2410), "u": (300, 870, 2240),
}  # fmt: skip


def speak(vowel, rng):
    """Returns half a second of one voice, float32 in -1..1."""
    length = int(RATE * rng.uniform(0.2, 0.4))
    glide = np.linspace(0, rng.normal(0, 0.15), length)
    pitch = rng.uniform(90, 260) * np.exp(glide)
    phase = np.cumsum(pitch) / RATE
    sound = np.diff(np.floor(phase), prepend=0) - 1 / 60  # a pulse for each opening of the cords
    sound = signal.lfilter([1], [1, -0.9], sound) + 0.01 * rng.normal(size=length)
    throat = rng.uniform(0.85, 1.25)
    for formant in FORMANTS[vowel]:
        angle = 2 * np.pi * min(formant * throat * rng.normal(1, 0.04), 3800) / RATE
        radius = np.exp(-np.pi * rng.uniform(60, 140) / RATE)
        sound = signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
    sound *= np.hanning(length) ** 0.3 / np.abs(sound).max()
    whole = rng.normal(0, 10 ** rng.uniform(-3, -1.5), int(RATE * SECONDS))
    start = rng.integers(0, len(whole) - length)
    whole[start : start + length] += rng.uniform(0.2, 0.8) * sound
    return np.clip(whole, -1, 1).astype(np.float32)


folder = Path(tempfile.mkdtemp())
counts = {"train": 2000 if FULL else 200, "validation": 60, "test": 120}
for number, (part, count) in enumerate(counts.items()):
    for k, vowel in enumerate(FORMANTS):
        (folder / part / vowel).mkdir(parents=True)
        for n in range(count):
            sound = speak(vowel, np.random.default_rng((number, k, n)))
            wavfile.write(folder / part / vowel / f"{n}.wav", RATE, np.int16(32767 * sound))

# %% [markdown]
# These are files now, as recordings would be: a sub-folder for each class.

# %%
data = hcjax.data.load("wav", path=folder, rate=RATE, seconds=SECONDS)
data

# %% [markdown]
# ## What the network sees
#
# `log_mel` turns the waveform into a picture: time runs to the right, pitch upward in steps as the
# ear hears them. It is a layer like any other, so that what ships takes sounds.


# %%
def spectra(index):
    """Returns pictures of some test sounds, float[n, pitch, time] in 0..1, low pitch below."""
    x = hcjax.data.log_mel(data.test.inputs[index], rate=RATE, bands=32, floor=1e-4)
    x = np.asarray((x - x.min()) / (x.max() - x.min()))
    return x.transpose(0, 2, 1)[:, ::-1]


first_of_each = np.array([np.flatnonzero(data.test.labels == k)[0] for k in range(5)])
figure, axes = plt.subplots(1, 5, figsize=(10, 2.4), layout="constrained", sharey=True)
for k, picture in enumerate(spectra(first_of_each)):
    axes[k].imshow(picture, cmap="magma", extent=(0, SECONDS, 0, 32), aspect="auto")
    axes[k].set(title=data.class_names[k], xlabel="seconds")
_ = axes[0].set_ylabel("pitch (band)")

# %%
network = hcjax.models.create(
    "sound_cnn", num_classes=5, input_shape=(int(RATE * SECONDS),), rate=RATE, filters=(8, 12, 16)
)
params, state = network.init(jax.random.key(0))


def train(apply, params, steps, rate, **fields):
    return hcjax.fit(
        apply, params, data, tx=optax.adam(optax.cosine_decay_schedule(rate, steps)), steps=steps,
        batch_size=50, eval_every=max(steps // 10, 1), key=jax.random.key(1), quiet=True, **fields,
    )  # fmt: skip


done = train(network.apply, params, 2 * STEPS, 1e-2, state=state)
hcjax.pictures.learning_curves(done.history)

# %%
scores = hcjax.evaluate(network.apply, done.params, data, state=done.state)
hcjax.pictures.confusion_matrix(
    scores.sums["confusion"], class_names=data.class_names, title="vowels of unheard voices"
)

# %% [markdown]
# The vowels that it takes for others, as it sees them:

# %%
each = scores.each
wrong = np.flatnonzero(each["prediction"] != each["label"])
worst = wrong[np.argsort(-each["loss"][wrong])][:16]
hcjax.pictures.worst_mistakes(
    spectra(each["index"][worst])[..., None], each["label"][worst], each["prediction"][worst],
    each["confidence"][worst], class_names=data.class_names,
)  # fmt: skip

# %% [markdown]
# ## Whole numbers
#
# Powers of sounds span many orders of magnitude, which eight bits do not hold. So the spectrogram
# stays in float: that is what `.floats` lists. It takes no room in the file, because its waves are
# computed. All else becomes integers, here kernels of five bits, the first and the last layer of
# eight, trained on with the first network as the teacher.

# %%
some = data.train.inputs[:256]
predict = hcjax.inference(network.apply, done.state)
model = hcjax.fold(hcjax.trace(predict, done.params, some[:1]))
ranges = hcjax.calibrate(model, some)
bits = {"conv1": 8, "dense1": 8, ".*": 5}
fake = hcjax.fake_quantize(model, ranges, bits=bits, activation_bits=8)
tuned = train(
    fake.apply, fake.params, STEPS, 1e-3,
    loss=hcjax.distill.taught(hcjax.losses.cross_entropy),
    teacher=lambda sounds: model.apply(model.params, sounds),
)  # fmt: skip
small = hcjax.int8(fake.replace(params=tuned.params))
print("left in float:", *small.floats)

# %%
first = hcjax.cards.scorecard(model, data, name="float", timed=False)
cards = [first]
for name, each in (("integers", hcjax.int8(fake)), ("integers, trained", small)):
    cards.append(hcjax.cards.scorecard(each, data, name=name, timed=False, baseline=first))
print(hcjax.cards.table(cards))

# %% [markdown]
# ## One file that hears

# %%
path = folder / "vowels.hcz"
path.write_bytes(hcjax.pack(small, about={"class_names": data.class_names, "inputs": data.about}))
network, known = hcjax.load_any(path)
print(f"{path.stat().st_size:,} bytes")
rng = np.random.default_rng(99)
for vowel in FORMANTS:
    sounds = np.stack([speak(vowel, rng) for _ in range(8)])
    heard = network.apply(network.params, sounds).argmax(1)
    print(f"eight new voices say {vowel}; heard:", *(known["class_names"][k] for k in heard))

# %% [markdown]
# ## What to try next
#
# - Say a vowel yourself: record half a second at 8 kHz as a .wav file. What does a network make of
#   it that has only heard synthetic voices?
# - Words in place of vowels: `python benchmarks/digits.py` learns spoken digits in five languages
#   from synthesizers, and is tested on real people. [Results](../results.md) says how well that
#   goes.
# - From a shell: `hcjax train --config=configs/digits.py --config.data.path=FOLDER`, a sub-folder
#   for each class.
# - Begin again with [LeNet](1_lenet.py), or go on to [Which transform when](../which.md).
