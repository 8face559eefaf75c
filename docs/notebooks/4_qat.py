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
# # QAT, zero points and mixed precision
#
# **What you will have at the end:** a network in 2 to 4 bits that keeps its accuracy, and the
# three tools that did it: training in integers (QAT), zero points for values that are not centred
# at zero, and bits that each layer gets by what it can stand.
#
# Eight bits are easy: see [the second tutorial](2_own_network.py). Below four it takes more than
# rounding.

# %%
import warnings

import jax
import optax
from flax import nnx

import hcjax

FULL = False  # True: all 55,000 images and longer trainings, some ten minutes
STEPS = 1500 if FULL else 80

data = hcjax.data.load("mnist", limit=None if FULL else 3000)
some = hcjax.data.normalise(data.train.images[:512], data.mean, data.std)
warnings.simplefilter("ignore")  # few bits hold some values badly: here they are meant to


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 16, (5, 5), strides=4, rngs=rngs)
        self.dense1 = nnx.Linear(7 * 7 * 16, 48, rngs=rngs)
        self.dense2 = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.conv(x))
        return self.dense2(nnx.silu(self.dense1(x.reshape(x.shape[0], -1))))


def train(apply, params, steps, rate, **fields):
    return hcjax.fit(
        apply, params, data, tx=optax.adam(optax.cosine_decay_schedule(rate, steps)), steps=steps,
        batch_size=64, key=jax.random.key(1), quiet=True, **fields,
    )  # fmt: skip


def accuracy(model):
    return hcjax.evaluate(model.apply, model.params, data, part="validation").summary["accuracy"]


net = hcjax.network(Net(nnx.Rngs(0)), some[:1])
done = train(net.apply, net.params, 2 * STEPS, 3e-3, state=net.state)
model = hcjax.fold(hcjax.trace(net.inference(done.state), done.params, some[:1]))
base = accuracy(model)
print(f"{100 * base:.2f} % of the validation images, in float")

# %% [markdown]
# ## Training in integers
#
# `fake_quantize` gives a network that rounds exactly where its integer form will, but in float, so
# that it can be trained. Its scales (how much one integer step is worth) are parameters too.
# Afterwards `int8` makes the integers, whose logits are the same, bit for bit. The network in
# float is the teacher.

# %%
ranges = hcjax.calibrate(model, some)
loss = hcjax.distill.taught(hcjax.losses.cross_entropy)


def teacher(images):
    return model.apply(model.params, images)


def trained(fake):
    done = train(fake.apply, fake.params, STEPS, 1e-3, loss=loss, teacher=teacher)
    return fake.replace(params=done.params)


levels = (4, 2)
curves = {"rounded": [], "trained in integers": []}
networks = {}
for bits in levels:
    fake = hcjax.fake_quantize(model, ranges, bits=bits, activation_bits=4)
    curves["rounded"].append(accuracy(fake))
    fake = networks[f"{bits} bits everywhere"] = trained(fake)
    curves["trained in integers"].append(accuracy(fake))

hcjax.pictures.layer_curves(
    levels, curves, baseline=base, against="bits", title="weights in few bits, activations in 4"
)

# %% [markdown]
# What was trained is what runs:

# %%
integers = hcjax.int8(fake)
one = jax.jit(fake.apply)(fake.params, some)
two = jax.jit(integers.apply)(integers.params, some)
print(f"the same logits, bit for bit: {bool((one == two).all())}")

# %% [markdown]
# ## Zero points
#
# This network's activation is `silu`, which is never below -0.28 and has no upper end. Integers
# that lie evenly around zero waste nearly half of their values on numbers that never occur. A zero
# point moves them: the integer 0 no longer means 0.0. hcjax gives an activation a zero point
# wherever it makes its steps a fifth finer. Without and with, not trained:

# %%
levels = (5, 3)
curves = {"around zero": [], "with zero points": []}
for bits in levels:
    options = {"bits": 8, "activation_bits": bits}
    for name, points in (("around zero", False), ("with zero points", True)):
        fake = hcjax.fake_quantize(model, ranges, zero_points=points, **options)
        curves[name].append(accuracy(fake))

hcjax.pictures.layer_curves(
    levels, curves, baseline=base, against="activation bits",
    title="weights in 8 bits, activations in fewer",
)  # fmt: skip

# %% [markdown]
# ## Mixed precision
#
# Not all layers are alike. `sensitivity` rounds one kernel at a time, `pick` gives each layer as
# many bits as a size allows: here 0.08 of float32, which is about two and a half bits in the mean.

# %%
held_out = hcjax.data.normalise(data.validation.images[:2000], data.mean, data.std)
labels = data.validation.labels[:2000]
found = hcjax.sensitivity(model, held_out, labels, against="bits", levels=(6, 4, 3, 2))
hcjax.pictures.layer_curves(found)

# %%
bits = hcjax.pick(found, size=0.08)
bits

# %% [markdown]
# Now the same bits everywhere against bits by layer, all trained in integers, on the test set:

# %%
mixed = hcjax.fake_quantize(model, ranges, bits=bits, activation_bits=4)
networks["bits by layer"] = trained(mixed)
first = hcjax.cards.scorecard(model, data, name="float", timed=False)
cards = [first]
for name, fake in networks.items():
    small = hcjax.int8(fake)
    cards.append(hcjax.cards.scorecard(small, data, name=name, timed=False, baseline=first))
print(hcjax.cards.table(cards))

# %% [markdown]
# ## What to try next
#
# - `hcjax.entropy(fake)` as `penalty=` of `fit`: zeros become frequent, and the file smaller at
#   the same bits.
# - No data to train with? `hcjax.equalize`, `hcjax.adaround` and `hcjax.correct_bias` need none of
#   the labels.
# - `hcjax.share(model, clusters=16)`: a few different weights in place of evenly spaced ones.
# - All of it in one chain: [the whole compression story](5_whole_story.py).
# - [Quantize](../quantize.md) has the rest.
