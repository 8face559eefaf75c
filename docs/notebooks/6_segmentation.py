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
# # Segmentation: int8 where classifiers' habits fail
#
# **What you will have at the end:** a small U-Net that says of every pixel which shape it belongs
# to, the same in integers of few bits, and pictures of both. And you will have seen three habits
# fail that are harmless for classifiers: to count right answers, to give every layer the same
# bits, and to round the first and the last layer like the others.
#
# A classifier adds up everything it sees to ten numbers, and noise averages out. Here every pixel
# is an answer.

# %%
import warnings

import jax
import numpy as np
import optax

import hcjax

FULL = False  # True: ten times the scenes and the steps, some ten minutes
STEPS = 2500 if FULL else 100
CLASSES = ("background", "disc", "square", "triangle")
TINTS = {1: (0.75, 0.4, 0.3), 2: (0.35, 0.7, 0.35), 3: (0.35, 0.4, 0.75)}
warnings.simplefilter("ignore")  # few bits warn of the values that they hold badly; the curves tell

# %% [markdown]
# ## Scenes
#
# Made here: up to three shapes over a texture. Discs tend to red, squares to green, triangles to
# blue, but not always. A mask holds the class of each pixel.


# %%
def scene(rng, side=32):
    y, x = np.mgrid[:side, :side]
    image, mask = np.zeros((side, side, 3)) + rng.uniform(0.3, 0.7, 3), np.zeros_like(x, np.int32)
    for _ in range(3):  # waves of any direction
        wave = np.sin(rng.normal(0, 0.5) * x + rng.normal(0, 0.5) * y + rng.uniform(0, 6))
        image += rng.uniform(0.02, 0.1, 3) * wave[..., None]
    for _ in range(rng.integers(1, 4)):
        kind, size = int(rng.integers(1, 4)), rng.uniform(4, 8)
        turn, middle = rng.uniform(0, 2 * np.pi), rng.uniform(5, side - 5, 2)
        u = (np.cos(turn) * (x - middle[0]) + np.sin(turn) * (y - middle[1])) / size
        v = (np.cos(turn) * (y - middle[1]) - np.sin(turn) * (x - middle[0])) / size
        inside = {
            1: u**2 + v**2 < 0.8,
            2: np.maximum(abs(u), abs(v)) < 0.8,
            3: (v > -0.6) & (v + 1.8 * abs(u) < 1.0),
        }[kind]
        shade = TINTS[kind] + rng.normal(0, 0.15, 3) + 0.08 * rng.normal() * (u + v)[..., None]
        image, mask = np.where(inside[..., None], shade, image), np.where(inside, kind, mask)
    image = np.clip(image + rng.normal(0, 0.03, image.shape), 0, 1)
    return image.astype(np.float32), mask


def scenes(count, seed):
    pairs = [scene(np.random.default_rng((seed, n))) for n in range(count)]
    return tuple(map(np.stack, zip(*pairs, strict=True)))


images, masks = scenes(20_000 if FULL else 1000, seed=0)
data = hcjax.data.from_arrays(
    images, masks, validation=scenes(200, 1), test=scenes(200, 2), class_names=CLASSES
)
data

# %% [markdown]
# ## Training
#
# A U-Net sees the scene at two sizes. `task="segmentation"` brings the loss (cross-entropy and
# Dice), the scores and what is better.

# %%
network = hcjax.models.create("unet", num_classes=4, input_shape=(32, 32, 3), filters=(8, 16))
params, state = network.init(jax.random.key(0))


def train(apply, params, steps, rate, **fields):
    schedule = optax.cosine_decay_schedule(rate, steps)
    return hcjax.fit(
        apply, params, data, task="segmentation", tx=optax.adam(schedule), steps=steps,
        batch_size=32, eval_every=max(steps // 8, 1), key=jax.random.key(1), quiet=True, **fields,
    )  # fmt: skip


done = train(network.apply, params, 2 * STEPS, 1e-2, state=state)
hcjax.pictures.learning_curves(done.history, score="object_iou")

# %%
model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, done.state), done.params, images[:1]))
hcjax.cost(model)

# %% [markdown]
# ## The first habit: counting right answers
#
# Most pixels are background, so a network that sees nothing at all is right about most of them.
# The intersection over union (IoU) of a class divides the pixels that are found by those that are
# of the class or said to be. Its mean over the shapes, without the background, is `object_iou`.


# %%
def score(model, part="validation"):
    scores = hcjax.evaluate(model.apply, model.params, data, part=part, task="segmentation")
    return scores.summary


found = score(model)
nothing = float((data.validation.targets == 0).mean())
right, iou = 100 * found["accuracy"], found["object_iou"]
print(f"pixels right: the network {right:.1f} %, nothing at all {100 * nothing:.1f} %")
print(f"object IoU:   the network {iou:.3f}, nothing at all 0")
for name, iou in zip(CLASSES, found["per_class"], strict=True):
    print(f"  {name:10} {iou:.3f}")


# %%
def draw(model, title):
    """Draws the worst of the validation scenes, by the float network's errors."""
    said = np.asarray(jax.jit(model.apply)(model.params, data.validation.inputs)).argmax(-1)
    return hcjax.pictures.masks(
        data.validation.inputs[worst], data.validation.targets[worst], said[worst],
        class_names=CLASSES, title=title,
    )  # fmt: skip


said = np.asarray(jax.jit(model.apply)(model.params, data.validation.inputs)).argmax(-1)
worst = np.argsort(-(said != data.validation.targets).mean((1, 2)))[5:30:3]
draw(model, "float")

# %% [markdown]
# ## The second habit: all layers alike
#
# *Naively* is one scale for each kernel, ranges by the extremes, no zero points. *By channel* is
# what hcjax does by itself: a scale for each channel, ranges that lose least, zero points where
# they pay.

# %%
ranges = hcjax.calibrate(model, images[:256])
extremes = hcjax.calibrate(model, images[:256], method="minmax")
levels = (6, 4)
curves = {"naively": [], "by channel": []}
for bits in levels:
    naive = hcjax.fake_quantize(model, extremes, bits=bits, granularity="tensor", zero_points=False)
    curves["naively"].append(score(naive)["object_iou"])
    curves["by channel"].append(score(hcjax.fake_quantize(model, ranges, bits=bits))["object_iou"])

hcjax.pictures.layer_curves(
    levels, curves, baseline=found["object_iou"], against="bits", score="object_iou",
    title="not trained in integers",
)  # fmt: skip

# %% [markdown]
# ## The third habit: the first and the last layer like the others
#
# The image has fine shades, and each pixel's answer is the difference of a few logits: both need
# more bits than what lies between. They are small, so that costs nearly nothing. Four bits in
# between, then trained in integers:

# %%
first, last = "down1/.*", "classes"
kernels = {first: 8, last: 8, ".*": 4}
values = {"images": 8, last: 8, ".*": 4}
four = hcjax.fake_quantize(model, ranges, bits=4)
mixed = hcjax.fake_quantize(model, ranges, bits=kernels, activation_bits=values)


def trained(fake):
    return fake.replace(params=train(fake.apply, fake.params, STEPS, 2e-3).params)


mixed_trained = trained(mixed)
naive = hcjax.fake_quantize(model, extremes, bits=4, granularity="tensor", zero_points=False)
networks = {
    "4 bits, naively": naive,
    "4 bits everywhere": four,
    "8 at both ends, 4 between": mixed,
    "8 at both ends, 4 between, trained": mixed_trained,
}
cards = [hcjax.cards.scorecard(model, data, name="float", timed=False, task="segmentation")]
for name, fake in networks.items():
    card = hcjax.cards.scorecard(
        hcjax.int8(fake), data, name=name, timed=False, baseline=cards[0], task="segmentation"
    )
    cards.append(card)
print(hcjax.cards.table(cards))

# %% [markdown]
# The same scenes as above, by the naive network and by the trained one:

# %%
draw(naive, "4 bits, naively")

# %%
draw(mixed_trained, "8 bits at both ends, 4 between, trained in integers")

# %% [markdown]
# ## What to try next
#
# - Your own masks: `hcjax.data.load("masks", path=...)` reads a folder of images and one of masks.
# - The same with real pictures: `python benchmarks/emoji.py` finds emoji over textures;
#   [Results](../results.md) has its numbers.
# - Boxes in place of masks: `task="detection"`, see [Tasks and other data](../networks.md).
# - Another kind of data: [text](7_text.py), [speech](8_speech.py).
