"""What was pruned stays exactly zero: through training, averages, resume, distillation, folding,
equalization, quantization and what makes it better, and the packed file, in every order, 1x1
convolutions and biases included."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hcjax
from hcjax import prune
from hcjax.train import parallel
from hcjax.train.step import init_state, make_train_step
from tests.tiny import images as tiny_images

SLOW = pytest.mark.slow

PRUNED = [f"{layer}/{kind}" for layer in ("wide", "point", "dense") for kind in ("kernel", "bias")]


def apply(params, x):
    for layer in ("wide", "point"):
        p = params[layer]
        x = lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x * params["scale"] + p["bias"])
    return x.mean((1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"]


@functools.cache
def images():
    return np.random.default_rng(1).standard_normal((16, 4, 4, 3)).astype(np.float32)


@functools.cache
def dense_model():
    rng = np.random.default_rng(0)
    shapes = {"wide": (3, 3, 3, 4), "point": (1, 1, 4, 4), "dense": (4, 5)}  # point: a 1x1 one
    params = {
        name: {"kernel": jnp.asarray(rng.standard_normal(shape), jnp.float32),
               "bias": jnp.asarray(rng.standard_normal(shape[-1]), jnp.float32)}
        for name, shape in shapes.items()
    }  # fmt: skip
    params["scale"] = jnp.asarray(rng.uniform(0.5, 2, 4), jnp.float32)
    return hcjax.trace(apply, params, images()[:1])


def train(model, masks, teacher, plain):
    """Returns the model with averages of 6 steps of distillation, stopped and resumed once."""

    def loss_fn(params, state, batch, key):
        each = hcjax.distill.kl(model.apply(params, batch), teacher)
        return each.sum(), (state, {"count": jnp.float32(len(each))})

    tx = optax.chain(optax.adamw(0.02), prune.masked(masks))
    step = jax.jit(make_train_step(loss_fn, tx, ema_decay=0.99))
    state = init_state(model.params, {}, tx, ema=True)
    for i in range(6):
        state = step(state, images(), jax.random.key(0))[0]
        state = parallel.to_host(state) if i == 2 else state
    moved = [np.abs(a - b).max() for a, b in zip(
        *map(jax.tree.leaves, (state.averaged[0], model.params)), strict=True)]  # fmt: skip
    assert max(moved) > 0  # little at 0.9, where hardly a path through the network is left
    return model.replace(params=state.averaged[0])


def masks_of(params, zero):
    """Returns masks like the parameters: `zero` says where those that are pruned are False."""
    return {path: ~zero[path] if path in zero else jnp.array(True) for path in params}


def quantize(model, masks, teacher, plain):
    return hcjax.fake_quantize(model, hcjax.calibrate(model, images(), method="minmax"), bits=4)


def adaround(model, masks, teacher, plain):
    return hcjax.adaround(plain, model, images(), key=jax.random.key(0), steps=5)


def correct_bias(model, masks, teacher, plain):
    return hcjax.correct_bias(plain, model, images(), masks=masks)


# (model, masks of its parameters, teacher's logits, what was quantized or None) -> model
STAGES = {
    "fold": lambda model, masks, teacher, plain: hcjax.fold(model),
    "equalize": lambda model, masks, teacher, plain: hcjax.equalize(model),
    "train": train,
    "quantize": quantize,
    "adaround": adaround,
    "correct_bias": correct_bias,
}
ORDERS = [  # folding comes before quantization: it makes new kernels of old ones
    order for order in itertools.permutations(("prune", "fold", "train", "quantize"))
    if order.index("fold") < order.index("quantize")
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.sampled_from(ORDERS), st.sampled_from([0.3, 0.6, 0.9]))
def test_zeros_stay_zero_in_every_order(order, sparsity):
    check(order, sparsity)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    ["prune fold equalize quantize adaround correct_bias",
     "fold equalize quantize prune correct_bias adaround"],
)  # fmt: skip
def test_zeros_stay_zero_in_what_makes_quantization_better(order):
    check(order.split(), 0.6)


def check(order, sparsity):
    model, zero, plain = dense_model(), {}, None
    teacher = model.apply(model.params, images())
    for stage in order:
        if stage == "prune":
            masks = prune.masks(model.params, sparsity=sparsity, select=PRUNED)
            model = model.replace(params=prune.apply(masks, model.params))
            zero = {path: ~np.asarray(masks[path]) for path in PRUNED}
            assert sum(int(z.sum()) for z in zero.values()) == int(sparsity * 157 + 0.5)
        else:
            plain = model if stage == "quantize" else plain
            model = STAGES[stage](model, masks_of(model.params, zero), teacher, plain)
        for path, gone in zero.items():
            assert not np.asarray(model.params[path])[gone].any(), (stage, path)
    int8 = hcjax.int8(model)
    for found in (int8, hcjax.unpack(hcjax.pack(int8))):
        for layer in ("wide", "point", "dense"):
            values = np.asarray(found.params[f"{layer}/kernel"].values)
            assert not values[zero[f"{layer}/kernel"]].any() and (sparsity > 0.8 or values.any())


@pytest.mark.parametrize(
    "how", ["gradual", *(pytest.param(name, marks=SLOW) for name in ("rigl", "movement"))]
)
def test_fit_keeps_zeros_in_averages_and_checkpoints_and_resumes_bit_for_bit(how, tmp_path):
    tx = {
        "gradual": optax.chain(optax.adam(1e-2), prune.gradual(0.8, begin=2, end=7, every=2)),
        "rigl": prune.rigl(optax.adam(1e-2), sparsity=0.8, key=jax.random.key(3), every=3),
        "movement": prune.movement(optax.adam(1e-2), 0.8, begin=2, end=7, every=2),
    }[how]
    split = hcjax.data.Split(*tiny_images(48))
    data = hcjax.data.Dataset(
        name="tiny", train=split, validation=split, test=split, class_names=("a", "b", "c"),
        mean=np.array([0.2], np.float32), std=np.array([0.2], np.float32), statistics_examples=48,
    )  # fmt: skip
    init, network = hcjax.models.create("mlp_tiny", num_classes=3, input_shape=(8, 8, 1))
    params, state = init(jax.random.key(0))

    def fit(steps, workdir=None):
        return hcjax.fit(
            network, params, data, state=state, loss=hcjax.losses.cross_entropy, tx=tx, steps=steps,
            batch_size=16, key=jax.random.key(1), ema_decay=0.99, quiet=True, workdir=workdir,
            accelerate=False,
        )  # fmt: skip

    straight = fit(9)
    fit(5, tmp_path)
    resumed = fit(9, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    masks = optax.tree.get(resumed.train_state.opt_state, "masks")
    loaded = hcjax.load(tmp_path, apply=network).params
    for found in (resumed.params, resumed.train_state.params, loaded):
        for mask, weight in zip(*map(jax.tree.leaves, (masks, found)), strict=True):
            assert not np.asarray(weight)[~np.broadcast_to(mask, weight.shape)].any()
    kernels = [m for m in jax.tree.leaves(masks) if m.ndim]
    share = 1 - sum(int(m.sum()) for m in kernels) / sum(m.size for m in kernels)
    assert share == pytest.approx(0.8, abs=2e-3)
