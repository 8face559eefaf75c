"""Every optimiser and wrapper of optax, with pruning in it and with channels taken out of it."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import hcjax
from hcjax import prune
from hcjax.errors import ConfigError
from hcjax.graph.model import Cut
from hcjax.train import step
from tests.prune.stepping import run

SLOW = pytest.mark.slow
SHAPES = {"conv": (1, 1, 4, 4), "dense": (6, 4), "bias": (4,)}
KERNELS = {"conv": True, "dense": True, "bias": False}
PARAMS = {
    k: jnp.asarray(np.random.default_rng(0).standard_normal(s), jnp.float32)
    for k, s in SHAPES.items()
}
MASKS = prune.masks(PARAMS, sparsity=0.5)
PRUNED = {
    "masked": lambda tx: optax.chain(tx, prune.masked(MASKS)),
    "gradual": lambda tx: optax.chain(tx, prune.gradual(0.5, begin=0, end=4, every=2, initial=0.2)),
    "scored": lambda tx: prune.taylor(tx, 0.5, begin=0, end=4, every=2, initial=0.2),
    "rigl": lambda tx: prune.rigl(tx, sparsity=0.5, key=jax.random.key(0), every=2, end=6),
}
WRAPPERS = {
    "sam": lambda tx: contrib.sam(tx, optax.chain(contrib.normalize(), optax.sgd(0.1))),
    "schedule_free": lambda tx: contrib.schedule_free(tx, 0.01),
    "mechanize": contrib.mechanize,
    "partition": lambda tx: optax.partition({True: tx, False: optax.set_to_zero()}, KERNELS),
    "masked": lambda tx: optax.masked(tx, KERNELS),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "named_chain": lambda tx: optax.named_chain(("inner", tx), ("after", optax.scale(0.5))),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step % 2 == 0),
    "conditionally_transform": lambda tx: optax.conditionally_transform(
        tx, lambda step: step % 2 == 0
    ),
    "ema": lambda tx: optax.chain(tx, optax.ema(0.9)),
    "decay": lambda tx: optax.chain(tx, optax.add_decayed_weights(0.1)),
    "inject": lambda tx: optax.inject_hyperparams(lambda rate: optax.chain(tx, optax.scale(rate)))(
        rate=0.5
    ),
}
QUICK = {("schedule_free", "masked"), ("partition", "masked")}


def masks_in(opt_state):
    """Returns the masks in a state, True for what another part of a partition trains."""

    def out(node):
        return isinstance(node, optax.MaskedNode)

    masks = optax.tree.get(opt_state, "masks")
    return jax.tree.map(lambda m, p: True if out(m) else m, masks, PARAMS, is_leaf=out)


def loss_fn(params, state, batch, key):
    total = sum(jnp.square(x - 1).sum() for x in jax.tree.leaves(params))
    return total, (state, {"count": jnp.ones(())})


@pytest.mark.parametrize(
    "wrapper, kind",
    [pytest.param(w, k, marks=() if (w, k) in QUICK else SLOW) for w in WRAPPERS for k in PRUNED],
)
def test_what_masks_call_zero_is_zero_whatever_wraps_the_pruning(wrapper, kind):
    tx = WRAPPERS[wrapper](PRUNED[kind](optax.sgd(0.1, momentum=0.9)))
    train_step = jax.jit(step.make_train_step(loss_fn, tx), donate_argnums=0)
    state = step.init_state(PARAMS, {}, tx)
    pruned = 0
    for _ in range(6):
        state, _ = train_step(state, {}, jax.random.key(0))
        masks = masks_in(state.opt_state)
        for mask, param in zip(*map(jax.tree.leaves, (masks, state.params)), strict=True):
            np.testing.assert_array_equal(np.where(mask, 0, param), 0)
            pruned += int((np.broadcast_to(mask, param.shape) == 0).sum())
            assert np.isfinite(param).all() and param.any()
    assert pruned > 6


@pytest.mark.slow
def test_a_loop_of_ones_own_is_held_by_hold():
    tx = WRAPPERS["schedule_free"](PRUNED["gradual"](optax.sgd(0.1)))

    def left(tx):
        params, state, _ = run(tx, 4, PARAMS)
        pairs = zip(*map(jax.tree.leaves, (masks_in(state), params)), strict=True)
        return sum(int(jnp.where(m, 0, p != 0).sum()) for m, p in pairs)

    assert left(tx) and not left(prune.hold(tx))


def test_wrappers_that_change_the_tree_are_named():
    pair = optax.LookaheadParams.init_synced(PARAMS)
    tx = prune.hold(optax.lookahead(PRUNED["gradual"](optax.sgd(0.1)), 2, 0.5))
    with pytest.raises(ConfigError, match=r"GradualState are of another tree .* optax.lookahead"):
        jax.eval_shape(tx.update, PARAMS, jax.eval_shape(tx.init, pair), pair)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda i: i(prune.gradual)(0.5, begin=0, end=4), "begin must be a plain .*static_"),
        (lambda i: i(prune.rigl)(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0)), "alpha"),
        (lambda i: i(prune.taylor)(optax.sgd(0.1), 0.5, begin=0, end=4), "inject prune.scored"),
        (lambda i: i(prune.scored)(optax.sgd(0.1), 0.5, score="taylor", begin=0, end=4), "begin"),
    ],
)  # fmt: skip
def test_hyperparameters_that_were_made_arrays_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make(optax.inject_hyperparams).init(PARAMS)


def test_a_sparsity_may_be_injected_and_follow_a_schedule():
    inject = optax.inject_hyperparams(
        prune.gradual, static_args=("begin", "end", "every", "initial")
    )
    tx = optax.chain(
        optax.sgd(0.0), inject(lambda step: 0.25 + 0.25 * step, begin=0, end=4, every=1)
    )
    state, kept = tx.init(PARAMS), []
    for _ in range(2):
        _, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
        kept.append(sum(int(m.sum()) for m in jax.tree.leaves(masks_in(state)) if m.ndim))
    assert kept[1] < kept[0] <= 40


NAMES = """
adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs
lion nadam nadamw noisy_sgd novograd optimistic_adam optimistic_gradient_descent polyak_sgd radam
rmsprop rprop sgd sign_sgd sm3 yogi acprop ademamix adopt cocob dadapt_adamw dog dowg galore madgrad
momo momo_adam muon prodigy simplified_ademamix sophia schedule_free_adamw schedule_free_sgd
"""
REFUSED = {
    "lbfgs": "ScaleByLBFGSState has rank",
    "sm3": "mu/bias/0 of ScaleBySM3State is one of several arrays",
    "galore": "has shape|has rank",
}


def optimiser(name):
    make = getattr(optax, name, None) or getattr(contrib, name, None)
    if make is None:
        pytest.skip(f"this optax has no {name}")
    arguments = inspect.signature(make).parameters
    needed = {"learning_rate": 0.01} if "learning_rate" in arguments else {}
    own = {"galore": {"rank": 2}, "noisy_sgd": {"key": jax.random.key(0)}}
    return make(**needed, **own.get(name, {}))


CUTS = [
    Cut("conv", 3, (0, 2), 4),
    Cut("bias", 0, (0, 2), 4),
    Cut("dense", 0, (1, 2, 3, 5), 6),
]


def drawn(tree, seed=0):
    """Returns a tree of other numbers: a state as after many steps."""
    rng = np.random.default_rng(seed)

    def draw(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.asarray(rng.uniform(1, 2, x.shape), x.dtype)

    return jax.tree.map(draw, tree)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in {"adam", "sgd", *REFUSED} else SLOW) for n in NAMES.split()],
)
def test_channels_are_taken_out_of_every_optimisers_state_or_it_is_named(name):
    tx = optimiser(name)
    state, small = drawn(tx.init(PARAMS)), hcjax.cut(PARAMS, CUTS)
    if name in REFUSED:
        with pytest.raises(ConfigError, match=f"({REFUSED[name]}).*begin .*anew"):
            hcjax.cut(state, CUTS)
        return
    found = hcjax.cut(state, CUTS)
    expected = jax.eval_shape(tx.init, small)
    for new, fresh, old in zip(*map(jax.tree.leaves, (found, expected, state)), strict=True):
        assert new.shape == fresh.shape and new.dtype == fresh.dtype
        if jax.dtypes.issubdtype(new.dtype, jax.dtypes.prng_key):
            continue
        if new.ndim == 4:
            np.testing.assert_array_equal(new, old[..., [0, 2]])
        elif new.shape == (4, 4):
            np.testing.assert_array_equal(new, old[np.array([1, 2, 3, 5])])
        elif new.shape == (2,) and old.shape == (4,):
            np.testing.assert_array_equal(new, old[np.array([0, 2])])
        else:
            np.testing.assert_array_equal(new, old)


def test_factored_second_moments_are_named_and_unfactored_ones_cut():
    large = {**PARAMS, "wide": jnp.ones((130, 130))}
    with pytest.raises(ConfigError, match="v_row/wide of FactoredState is a mean"):
        hcjax.cut(optax.adafactor(0.1).init(large), CUTS)
    assert hcjax.cut(optax.adafactor(0.1).init(PARAMS), CUTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adabelief", "madgrad", "schedule_free_sgd"])
@pytest.mark.parametrize(
    "kind", [None, "gradual", "scored", "MultiSteps", "partition", "mechanize"]
)
def test_a_state_that_was_cut_goes_on_where_it_was(name, kind):
    tx = optimiser(name)
    tx = {**PRUNED, **WRAPPERS}[kind](tx) if kind else tx
    tx = optax.with_extra_args_support(tx)
    state, params = tx.init(PARAMS), PARAMS
    for i in range(2):
        _, state = tx.update(drawn(PARAMS, i), state, params)
    small = hcjax.cut(params, CUTS)
    updates, _ = tx.update(drawn(PARAMS, 7), state, params)
    grads = hcjax.cut(drawn(PARAMS, 7), CUTS)
    found, _ = tx.update(grads, hcjax.cut(state, CUTS), small)
    alike = kind not in ("gradual", "scored")  # these renew the masks of what is left
    for a, b in zip(*map(jax.tree.leaves, (found, hcjax.cut(updates, CUTS))), strict=True):
        assert a.shape == b.shape and np.isfinite(a).all()
        if alike:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
