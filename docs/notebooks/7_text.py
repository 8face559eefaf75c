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
# # Text: which library is a sentence about?
#
# **What you will have at the end:** a network that reads a sentence and says which library's
# documentation it is from, in a file of whole numbers that holds the words too, and answers
# sentences that you type.
#
# The texts are on your machine already: the docstrings of NumPy, Matplotlib, JAX and of Python
# itself. So the numbers below change a little with the versions that are installed.

# %%
import csv
import importlib
import inspect
import random
import re
import tempfile
import warnings
from pathlib import Path

import jax
import optax

import hcjax

FULL = False  # True: five times the steps, some minutes
STEPS = 1500 if FULL else 300
LIBRARIES = {
    "numpy": "numpy numpy.linalg numpy.random numpy.fft numpy.polynomial numpy.ma numpy.testing",
    "matplotlib": "matplotlib.axes matplotlib.figure matplotlib.colors matplotlib.ticker "
    "matplotlib.artist matplotlib.patches matplotlib.text matplotlib.collections",
    "jax": "jax jax.lax jax.nn jax.random jax.tree_util jax.sharding jax.export optax flax.nnx",
    "python": "os pathlib asyncio email logging json re socket subprocess threading unittest http "
    "tarfile zipfile datetime decimal argparse inspect urllib.request collections functools",
}

# %% [markdown]
# ## A table of sentences
#
# Each row is the first sentence of a docstring and the library that it is from. What occurs twice
# is dropped, and so is the name of the library itself.


# %%
def sentences(modules):
    """Yields the first sentences of all docstrings of some modules."""
    for name in modules.split():
        module = importlib.import_module(name)
        things = [getattr(module, each, None) for each in sorted(dir(module)) if each[0] != "_"]
        methods = [
            getattr(thing, each, None)
            for thing in things if inspect.isclass(thing)
            for each in sorted(vars(thing)) if each[0] != "_"
        ]  # fmt: skip
        for thing in [*things, *methods]:
            text = inspect.getdoc(thing) if callable(thing) or isinstance(thing, property) else None
            first = re.split(r"\n\s*\n|(?<=\.)\s", text or "")[0]
            first = re.sub(r"numpy|jax|matplotlib|python|optax|flax", "it", first, flags=re.I)
            if 4 <= len(first.split()) <= 40:
                yield " ".join(first.split())


rows = {}
for library, modules in LIBRARIES.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to look at a thing that is deprecated warns
        for sentence in sentences(modules):
            rows.setdefault(sentence, library)
rows = sorted(rows.items())
random.Random(0).shuffle(rows)
folder = Path(tempfile.mkdtemp())
with open(folder / "sentences.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("sentence", "library"), *rows])
for sentence, library in rows[:6]:
    print(f"{library:11}{sentence[:80]}")

# %% [markdown]
# `load` reads the table, makes a vocabulary of its training part, and turns each sentence into
# numbers of words.

# %%
data = hcjax.data.load(
    "csv", path=folder / "sentences.csv", target="library", text="sentence",
    units="words", length=24, most=3000, validation=0.1, test=0.15,
)  # fmt: skip
data

# %% [markdown]
# ## The network
#
# A vector for each word, a convolution over three words at a time, and the largest value of each
# channel. Written as a plain function. `params["words"][tokens]` looks words up in a table.


# %%
def init(key, words, width=24, channels=32):
    keys = jax.random.split(key, 3)
    return {
        "words": 0.3 * jax.random.normal(keys[0], (words, width)),
        "conv": {"kernel": jax.random.normal(keys[1], (3, width, channels)) / (3 * width) ** 0.5},
        "out": {"kernel": jax.random.normal(keys[2], (channels, 4)) / channels**0.5},
    }


def apply(params, tokens):
    x = params["words"][tokens]
    numbers = ("NWC", "WIO", "NWC")
    x = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1,), "SAME", dimension_numbers=numbers
    )
    return jax.nn.relu(x).max(1) @ params["out"]["kernel"]


def train(apply, params, steps, rate, **fields):
    return hcjax.fit(
        apply, params, data, tx=optax.adam(optax.cosine_decay_schedule(rate, steps)), steps=steps,
        batch_size=64, eval_every=max(steps // 10, 1), key=jax.random.key(1), quiet=True, **fields,
    )  # fmt: skip


vocabulary = data.about["text"]["vocabulary"]
params = init(jax.random.key(0), len(vocabulary) + 2)  # and two: the end, and unknown words
done = train(apply, params, STEPS, 5e-3, augment=[("forget", {"rate": 0.2})])
hcjax.pictures.learning_curves(done.history)

# %% [markdown]
# The training sentences are known by heart soon; the validation sentences say what was understood.
# `forget` hides a fifth of the words at every step, so that the network does not lean on single
# ones.

# %%
scores = hcjax.evaluate(apply, done.params, data)
hcjax.pictures.confusion_matrix(
    scores.sums["confusion"], class_names=data.class_names, title="true and predicted libraries"
)

# %% [markdown]
# ## Whole numbers
#
# Nearly all weights are in the table of words. It is a kernel like others: it gets a scale, and
# its rows are looked up as integers. Four bits for the table, eight for the rest, trained on with
# the first network as the teacher. The penalty is the size of the integers in a file, so that
# words that say little come to zeros.

# %%
model = hcjax.trace(apply, done.params, data.train.inputs[:1])
ranges = hcjax.calibrate(model, data.train.inputs[:512])
bits = {"words.*": 4, ".*": 8}
fake = hcjax.fake_quantize(model, ranges, bits=bits, activation_bits=8)
size = hcjax.entropy(fake)
tuned = train(
    fake.apply, fake.params, max(STEPS // 2, 1), 2e-3,
    loss=hcjax.distill.taught(hcjax.losses.cross_entropy),
    teacher=lambda tokens: model.apply(model.params, tokens),
    penalty=lambda params: 1e-6 * size(params),
)  # fmt: skip
small = hcjax.int8(fake.replace(params=tuned.params))

first = hcjax.cards.scorecard(model, data, name="float", timed=False)
cards = [first]
for name, each in (("integers", hcjax.int8(fake)), ("integers, trained", small)):
    cards.append(hcjax.cards.scorecard(each, data, name=name, timed=False, baseline=first))
print(hcjax.cards.table(cards))

# %% [markdown]
# ## One file, with the words
#
# `about` takes along how sentences become numbers. Whoever has the file needs nothing else.

# %%
about = {"class_names": data.class_names, "inputs": data.about}
path = folder / "library.hcz"
path.write_bytes(hcjax.pack(small, about=about))
print(f"{path.stat().st_size:,} bytes, of which the words take "
      f"{path.stat().st_size - len(hcjax.pack(small)):,}")  # fmt: skip

network, known = hcjax.load_any(path)
yours = [
    "Draw a line of this color between two points of the figure.",
    "Return the eigenvalues of a symmetric matrix.",
    "Compute the gradient of a function with respect to a pytree of parameters.",
    "Open the file and return its contents as a string.",
]
tokens = hcjax.data.encode([{"sentence": sentence} for sentence in yours], known["inputs"])
chances = jax.nn.softmax(network.apply(network.params, tokens))
for sentence, row in zip(yours, chances, strict=True):
    print(f"{known['class_names'][row.argmax()]:11}{100 * row.max():3.0f} %  {sentence}")

# %% [markdown]
# ## What to try next
#
# - Sentences of your own, in `yours`. Whom does it take your commit messages for?
# - Your own table: a csv with a column of text and one of classes. From a shell: `hcjax train`,
#   with `--config.data.source=csv`, see [Tasks and other data](../networks.md).
# - A real one: `python benchmarks/glosses.py` sorts WordNet's glosses into 45 classes;
#   [Results](../results.md) has its numbers.
# - Sounds: [the last tutorial](8_speech.py).
