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
# # LeNet in pure functions
#
# **What you will have at the end:** a digit classifier that you wrote as two plain functions, its
# learning curves, the digits it gets wrong, the same training once more as a loop of your own, and
# one file with the network inside that needs none of your code to run.
#
# No class is needed for a network here. Parameters are a dict of arrays, and the network is a
# function of them.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import hcjax

FULL = False  # True: all 55,000 images, some minutes
STEPS = 1300 if FULL else 180

data = hcjax.data.load("mnist", limit=None if FULL else 6000)
data

# %% [markdown]
# ## The network
#
# LeNet-5 as it is usually drawn today: two convolutions, each followed by a pool of 2×2, then two
# dense layers. The first function draws the parameters, the second computes ten numbers (logits)
# for each image. The largest says which digit it is.


# %%
def init(key):
    shapes = {
        "conv1": (5, 5, 1, 12),
        "conv2": (5, 5, 12, 24),
        "dense1": (384, 96),
        "dense2": (96, 10),
    }
    params = {}
    for name, shape in shapes.items():
        key, own = jax.random.split(key)
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        kernel = scale * jax.random.normal(own, shape)
        params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[-1])}
    return params


def conv(layer, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, layer["kernel"], (1, 1), "VALID", dimension_numbers=numbers)
    x = jax.nn.relu(x + layer["bias"])
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def apply(params, images):
    x = conv(params["conv2"], conv(params["conv1"], images))
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"])
    return x @ params["dense2"]["kernel"] + params["dense2"]["bias"]


params = init(jax.random.key(0))
apply(params, jnp.zeros((1, 28, 28, 1))).shape

# %% [markdown]
# ## Training
#
# `fit` is the whole loop. It never changes `params`: it returns new ones. Every `eval_every` steps
# it looks at the validation images, which are never trained on.

# %%
done = hcjax.fit(
    apply, params, data, tx=optax.adam(2e-3), steps=STEPS, batch_size=64,
    eval_every=20, key=jax.random.key(1), quiet=True,
)  # fmt: skip
hcjax.pictures.learning_curves(done.history)

# %% [markdown]
# The test images were not used so far. They say how good the network is on digits that it has not
# seen.

# %%
scores = hcjax.evaluate(apply, done.params, data)
print(f"{100 * scores.summary['accuracy']:.2f} % of {data.test.size:,} test images are right")

# %% [markdown]
# ## What it has learned, and where it is wrong
#
# Each filter of the first layer looks for a small pattern of ink.

# %%
hcjax.pictures.filters(done.params["conv1"]["kernel"])

# %% [markdown]
# Rows are the true digits, columns what the network said. A perfect network has numbers on the
# diagonal only.

# %%
hcjax.pictures.confusion_matrix(scores.sums["confusion"], class_names=data.class_names)

# %% [markdown]
# The mistakes themselves, worst first: those where it gave the true digit the least chance.

# %%
each = scores.each
wrong = np.flatnonzero(each["prediction"] != each["label"])
worst = wrong[np.argsort(-each["loss"][wrong])][:16]
hcjax.pictures.worst_mistakes(
    data.test.images[each["index"][worst]], each["label"][worst], each["prediction"][worst],
    each["confidence"][worst],
)  # fmt: skip

# %% [markdown]
# ## The same by hand
#
# `fit` is made of pure functions that you can call yourself. A step takes a state and a batch, and
# returns the next state. Jitted, in a bare loop, it is the same training.

# %%
tx = optax.adam(2e-3)
prepare = hcjax.data.make_prepare(mean=data.mean, std=data.std, num_classes=10)


def four(params, state, images, *, train, key):  # as networks with statistics or dropout are called
    return apply(params, images), state


loss_fn = hcjax.make_loss_fn(four, hcjax.losses.cross_entropy)
step = jax.jit(hcjax.make_train_step(loss_fn, tx, prepare=prepare), donate_argnums=0)

state = hcjax.init_state(init(jax.random.key(0)), {}, tx)
for batch in hcjax.data.train_batches(data.train, seed=0, batch_size=64, stop=STEPS):
    state, sums = step(state, batch, jax.random.key(1))
by_hand = hcjax.evaluate(apply, state.params, data).summary["accuracy"]
print(f"{100 * by_hand:.2f} % by hand; it saw the images in another order")

# %% [markdown]
# ## One file
#
# `trace` reads the function once and keeps it as a graph with its parameters, a Model. From here
# on nothing needs the Python code above. `cost` counts what the network needs for one image,
# `pack` writes it to bytes.

# %%
images = hcjax.data.normalise(data.test.images[:8], data.mean, data.std)
model = hcjax.trace(apply, done.params, images)
hcjax.cost(model)

# %%
blob = hcjax.pack(model, about={"class_names": data.class_names})
again = hcjax.unpack(blob)
same = (again.apply(again.params, images) == model.apply(model.params, images)).all()
print(f"{len(blob):,} bytes; the same logits: {same}")

# %% [markdown]
# ## What to try next
#
# - Set `FULL = True`: how far does the same network get with all images?
# - Replace a pool by a stride, or `relu` by `jnp.tanh`: `trace`, `cost` and `pack` need no word
#   from you.
# - Your own images: [Your own data](../data.md).
# - Make the file smaller without a new training: [the next tutorial](2_own_network.py).
