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
# # Your own network, as a packed int8 file
#
# **What you will have at the end:** a network of your own in Flax NNX, trained, and the same
# network in whole numbers, about four times smaller, in one file that answers without Flax and
# without your class. You will also know on which digits the two differ, and which layer is to
# blame.
#
# Equinox, Haiku, Keras on jax, and Flax Linen go the same way: only the class is written
# differently.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import hcjax

FULL = False  # True: all 55,000 images, some minutes
STEPS = 1300 if FULL else 120

data = hcjax.data.load("mnist", limit=None if FULL else 4000)

# %% [markdown]
# ## The network
#
# A small residual network with BatchNorm: nothing in it knows of hcjax.


# %%
class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.conv1 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(x + self.norm2(self.conv2(y)))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 16, (5, 5), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.block = Block(16, rngs)
        self.last = nnx.Linear(7 * 7 * 16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.block(nnx.relu(self.norm(self.first(x))))
        return self.last(nnx.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1))


some = hcjax.data.normalise(data.train.images[:512], data.mean, data.std)
net = hcjax.network(Net(nnx.Rngs(0)), some[:1])
schedule = optax.cosine_decay_schedule(8e-3, STEPS)
done = hcjax.fit(
    net.apply, net.params, data, state=net.state, tx=optax.adam(schedule), steps=STEPS,
    batch_size=64, eval_every=25, key=jax.random.key(1), quiet=True,
)  # fmt: skip
hcjax.pictures.learning_curves(done.history)

# %% [markdown]
# `hcjax.network` has split your object into parameters, running statistics and a pure function,
# which `fit` trains. `net.put` gives you your own object back, with what was learned.

# %%
mine = net.put(done.params, done.state)
type(mine).__name__

# %% [markdown]
# ## A graph, without BatchNorm
#
# In use BatchNorm only multiplies and adds constants. `trace` reads the network as a graph, and
# `fold` moves these constants into the convolution before them. The answers stay the same up to
# rounding.

# %%
traced = hcjax.trace(net.inference(done.state), done.params, some[:1])
model = hcjax.fold(traced)
before, after = (jax.jit(each.apply)(each.params, some[:64]) for each in (traced, model))
print(f"{len(traced.graph.ops)} operations became {len(model.graph.ops)}")
print(f"the largest difference of a logit is {jnp.abs(before - after).max():.1e}")

# %% [markdown]
# ## Whole numbers
#
# `calibrate` runs some images through the network, and notes how large every value gets. With
# these ranges `int8` makes a network that multiplies and adds integers. No training is needed.

# %%
ranges = hcjax.calibrate(model, some)
int8 = hcjax.int8(model, ranges)
print("left in float:", int8.floats or "nothing")

# %% [markdown]
# A scorecard is made on the whole test set. The difference comes with its standard error: a
# difference that is not larger than twice its error says nothing.

# %%
first = hcjax.cards.scorecard(model, data, name="float", timed=False)
second = hcjax.cards.scorecard(int8, data, name="int8", timed=False, baseline=first)
print(hcjax.cards.table([first, second]))

# %% [markdown]
# Two networks of equal accuracy can still answer differently. These are the digits on which they
# do:

# %%
print(hcjax.changes(first, second, data))

# %% [markdown]
# ## Which layer is to blame
#
# `error_analysis` measures how much noise rounding adds to each layer's output (a higher SQNR is
# less noise), and how much accuracy it costs to round this layer alone. At 8 bits there is little
# to see. At 4 bits there is. A drop below zero is a gain, by chance.

# %%
held_out = hcjax.data.normalise(data.validation.images[:2000], data.mean, data.std)
found = hcjax.error_analysis(model, ranges, held_out, data.validation.labels[:2000], bits=4)
hcjax.pictures.layer_errors(found, title="the network in 4 bits")

# %% [markdown]
# ## One file
#
# The file holds the integers, their scales and the graph. `about` is a dict of your own, here what
# a program needs to know of the images.

# %%
path = Path(tempfile.mkdtemp()) / "digits.hcz"
about = {"class_names": data.class_names, "mean": data.mean, "std": data.std}
path.write_bytes(hcjax.pack(int8, about=about))

network, known = hcjax.load_any(path)
images = hcjax.data.normalise(data.test.images[:8], known["mean"], known["std"])
said = network.apply(network.params, images).argmax(1)
print(f"{path.stat().st_size:,} bytes")
print("said:", [known["class_names"][k] for k in said])
print("true:", [known["class_names"][k] for k in data.test.labels[:8]])

# %% [markdown]
# ## What to try next
#
# - Put your own class in place of `Net`. What the graph does not know stays in float, and
#   `.floats` names it.
# - `hcjax.int8(model, ranges, bits=4)`: how much does it lose? [QAT](4_qat.py) gets most of it
#   back.
# - From a shell: `hcjax predict digits.hcz a.png`, `hcjax verify digits.hcz`. See [Command
#   line](../cli.md).
# - Every library, any inputs and outputs: [Tasks and other data](../networks.md).
