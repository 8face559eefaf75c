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
# # The whole compression story
#
# **What you will have at the end:** one picture with a network and nine smaller forms of it, error
# against bytes of the file, and the line that joins the best: the Pareto front. You will have made
# every point of it yourself, in a few lines each.
#
# Each transform takes a Model and returns a Model, so that they can be chained in any order that
# makes sense. One function, `train`, serves them all: nothing has a trainer of its own.

# %%
import warnings

import jax
import optax

import hcjax

FULL = False  # True: all 55,000 images and longer trainings, a quarter of an hour
STEPS = 2000 if FULL else 80

data = hcjax.data.load("mnist", limit=None if FULL else 3000, validation=0)
some = hcjax.data.normalise(data.train.images[:512], data.mean, data.std)
warnings.simplefilter("ignore")  # few bits warn of the values that they hold badly; the cards tell


def train(apply, params, steps, rate, *extra, **fields):
    schedule = optax.cosine_decay_schedule(rate, steps)
    return hcjax.fit(
        apply, params, data, tx=optax.chain(optax.adam(schedule), *extra), steps=steps,
        batch_size=64, key=jax.random.key(1), quiet=True, **fields,
    )  # fmt: skip


init, apply = hcjax.models.create("lenet5", filters=(8, 24), hidden=96, activation="relu")
params, state = init(jax.random.key(0))
done = train(apply, params, 2 * STEPS, 3e-3, state=state)
model = hcjax.trace(hcjax.inference(apply, done.state), done.params, some[:1])
cards = [hcjax.cards.scorecard(model, data, name="float", timed=False)]


def keep(name, model):
    """Adds the scorecard of a network, and prints what it came to."""
    card = hcjax.cards.scorecard(model, data, name=name, timed=False, baseline=cards[0])
    cards.append(card)
    print(f"{name}: {100 * card.accuracy:.2f} %, {card.file_bytes:,} bytes")


print(f"float: {100 * cards[0].accuracy:.2f} %, {cards[0].file_bytes:,} bytes")

# %% [markdown]
# From here on this network is the teacher: whatever trains learns its logits as well as the
# labels.

# %%
taught = {
    "loss": hcjax.distill.taught(hcjax.losses.cross_entropy),
    "teacher": lambda images: model.apply(model.params, images),
}


def tuned(model, rate=1e-3, *extra):
    return model.replace(
        params=train(model.apply, model.params, STEPS, rate, *extra, **taught).params
    )


# %% [markdown]
# ## Fewer bits
#
# Eight bits need a few images and no training. Four bits are trained.

# %%
ranges = hcjax.calibrate(model, some)
keep("8 bits", hcjax.int8(model, ranges))
fake = hcjax.fake_quantize(model, ranges, bits=4, activation_bits=8)
keep("4 bits, trained", hcjax.int8(tuned(fake)))

# %% [markdown]
# ## Fewer channels
#
# A third of the products, refitted, trained; and then in integers.

# %%
small = hcjax.prune.refit(hcjax.shrink(model, macs=0.33, images=some), model, some)
small = tuned(small)
keep("shrunk", small)
keep("shrunk, 8 bits", hcjax.int8(small, hcjax.calibrate(small, some)))

# %% [markdown]
# ## Fewer weights
#
# Nine of ten weights become zero, a few more at every step. `trim` takes out the channels that are
# empty now. Then few bits on top: `nonzero` holds the zeros where they are while the integers are
# trained.

# %%
rise = hcjax.prune.gradual(0.9, begin=0, end=max(STEPS // 2, 1), every=5)
sparse = hcjax.trim(tuned(model, 4e-3, rise))
keep("pruned", sparse)
sparse_ranges = hcjax.calibrate(sparse, some)
fake = hcjax.fake_quantize(sparse, sparse_ranges, bits=4, activation_bits=8)
fake = tuned(fake, 1e-3, hcjax.prune.masked(hcjax.prune.nonzero(fake.params)))
keep("pruned, 4 bits", hcjax.int8(fake))

# %% [markdown]
# ## Few different weights
#
# Each kernel keeps sixteen values, and an index for each weight. Not trained.

# %%
keep("pruned, shared", hcjax.share(sparse, clusters=16))

# %% [markdown]
# ## Another network
#
# A student of the same kind with far fewer weights, once in float, once in integers.

# %%
init, apply = hcjax.models.create("lenet5_tiny", activation="relu")
params, state = init(jax.random.key(2))
done = train(apply, params, 2 * STEPS, 1e-2, state=state, **taught)
student = hcjax.trace(hcjax.inference(apply, done.state), done.params, some[:1])
keep("student", student)
keep("student, 8 bits", hcjax.int8(student, hcjax.calibrate(student, some)))

# %% [markdown]
# ## All of it
#
# Points on the line are the best for their size: whatever is not on it, another one beats in both.
# The axis of the bytes is logarithmic.

# %%
hcjax.pictures.pareto(cards)

# %%
print(hcjax.cards.table(cards))

# %% [markdown]
# One run of a small training decides little: differences below twice their standard error are
# chance. Seeds are repeated for a result, see [Results](../results.md), and the choice between
# forms is made on validation images. Here the test images only draw the picture.
#
# ## What to try next
#
# - `FULL = True` gives each training what it needs.
# - The same as a recipe: `hcjax train --config=configs/lenet_compress.py` writes the files, the
#   table and the picture.
# - A budget in place of a guess: `hcjax.sensitivity` and `hcjax.pick`, see [QAT](4_qat.py).
# - [Which transform when](../which.md) has what each costs and does not give.
