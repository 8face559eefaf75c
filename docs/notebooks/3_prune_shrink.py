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
# # Prune and shrink, with curves
#
# **What you will have at the end:** three curves. How much each layer of a network can lose; how
# far you get if weights are taken out one by one, at once or while training; and how far if whole
# channels go, which makes the network faster too. And you will know which of the two you need.
#
# Pruning sets single weights to zero: the file gets smaller, the speed stays. Shrinking takes
# whole channels out: the arrays get smaller, and so does the work.

# %%
import jax
import optax

import hcjax

FULL = False  # True: all 55,000 images and longer trainings, some ten minutes
STEPS = 2000 if FULL else 100

data = hcjax.data.load("mnist", limit=None if FULL else 3000)
held_out = hcjax.data.normalise(data.validation.images[:1000], data.mean, data.std)
labels = data.validation.labels[:1000]
some = held_out[:256]


def train(apply, params, tx, steps, **fields):
    return hcjax.fit(
        apply,
        params,
        data,
        tx=tx,
        steps=steps,
        batch_size=64,
        key=jax.random.key(1),
        quiet=True,
        **fields,
    )


def accuracy(model, params=None):
    params = model.params if params is None else params
    return hcjax.evaluate(model.apply, params, data, part="validation").summary["accuracy"]


init, apply = hcjax.models.create("lenet5", filters=(8, 24), hidden=96, activation="relu")
params, state = init(jax.random.key(0))
done = train(apply, params, optax.adam(2e-3), 2 * STEPS, state=state)
model = hcjax.trace(hcjax.inference(apply, done.state), done.params, some[:1])
base = accuracy(model)
print(f"{100 * base:.2f} % of the validation images")

# %% [markdown]
# Everything here is chosen by validation images. The test images are for the end.
#
# ## What each layer can lose
#
# `sensitivity` prunes one layer at a time, the smallest weights first, and measures the network.

# %%
found = hcjax.sensitivity(model, held_out, labels, levels=(0.0, 0.5, 0.8, 0.9, 0.95))
hcjax.pictures.layer_curves(found)

# %% [markdown]
# The layers differ: at one sparsity some have lost much more than others, and they have more or
# fewer weights to give. `pick` weighs both, and gives each layer its own share, for a size that
# you name. The shares are what `hcjax.prune.masks(scope=...)` takes.

# %%
hcjax.pick(found, size=0.1)

# %% [markdown]
# ## Single weights
#
# Two ways to the same number of zeros. *At once*: a mask, and no training. *Gradual*: the zeros
# come while the network trains on, a few more at every step, and a weight that went too early may
# come back. Training on helps the network anyway: with few zeros it may end above where it began.

# %%
levels = (0.8, 0.95)
curves = {"at once": [], "gradual": []}
for sparsity in levels:
    masks = hcjax.prune.masks(model.params, sparsity=sparsity)
    curves["at once"].append(accuracy(model, hcjax.prune.apply(masks, model.params)))

    rise = hcjax.prune.gradual(sparsity, begin=0, end=max(STEPS // 2, 1), every=5)
    last = train(model.apply, model.params, optax.chain(optax.adam(2e-3), rise), STEPS)
    curves["gradual"].append(accuracy(model, last.params))

hcjax.pictures.layer_curves(
    levels, curves, baseline=base, title="single weights: accuracy against sparsity"
)

# %% [markdown]
# The zeros pay in the file, where they cost almost nothing:

# %%
sparse = model.replace(params=last.params)
left = sum(int((kernel != 0).sum()) for kernel in jax.tree.leaves(sparse.params) if kernel.ndim > 1)
print(f"{left:,} weights are left")
print(f"{len(hcjax.pack(model)):,} bytes before, {len(hcjax.pack(sparse)):,} after")

# %% [markdown]
# ## Whole channels
#
# `shrink` takes out the channels that matter least to the logits, and with each all that hangs on
# it: its filter, its bias, and its rows in the next layer. `refit` then solves for the weights
# that are left, so that each layer computes what it did before: seconds in place of a training.
# Training on helps most, here with the first network as the teacher.

# %%
levels = (0.5, 0.2)
curves = {"at once": [], "refitted": [], "trained after": []}
loss = hcjax.distill.taught(hcjax.losses.cross_entropy)
for macs in levels:
    small = hcjax.shrink(model, macs=macs, images=some)
    curves["at once"].append(accuracy(small))
    small = hcjax.prune.refit(small, model, some)
    curves["refitted"].append(accuracy(small))
    done = train(
        small.apply, small.params, optax.adam(1e-3), STEPS,
        loss=loss, teacher=lambda images: model.apply(model.params, images),
    )  # fmt: skip
    small = small.replace(params=done.params)
    curves["trained after"].append(accuracy(small))

hcjax.pictures.layer_curves(
    levels, curves, baseline=base, against="share of products",
    title="whole channels: accuracy against the share of products that is left",
)  # fmt: skip

# %% [markdown]
# ## Side by side, on the test set
#
# The pruned network multiplies as often as before (MACs), though mostly by zero. The shrunk one
# does not.

# %%
first = hcjax.cards.scorecard(model, data, name="float", timed=False)
others = {"gradually pruned": sparse, "shrunk, trained": small}
cards = [
    hcjax.cards.scorecard(each, data, name=name, timed=False, baseline=first)
    for name, each in others.items()
]
print(hcjax.cards.table([first, *cards]))

# %% [markdown]
# ## What to try next
#
# - A mask that is held while you train on: `hcjax.prune.masked(masks)`, last in the optimiser's
#   chain.
# - Both: `hcjax.trim(sparse)` takes out the channels that a mask has emptied, without a change of
#   the function.
# - Another score than the size of a weight: `hcjax.prune.SCORES`, or [one of your
#   own](../extending.md#a-pruning-score).
# - Patterns: `hcjax.prune.masks(params, structure=(2, 4))` keeps two of every four.
# - Fewer bits on top: [QAT, zero points and mixed precision](4_qat.py).
# - [Prune](../prune.md) and [Shrink](../shrink.md) say all of it.
