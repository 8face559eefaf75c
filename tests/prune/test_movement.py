"""Movement pruning against NumPy's sums of raw gradients, and weights that are held at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcjax import prune
from hcjax.errors import ConfigError
from tests.prune.stepping import SHAPES, draw, run

pytestmark = pytest.mark.slow


def test_scores_add_up_raw_gradients_whatever_the_optimiser_makes_of_them():
    tx = prune.movement(optax.adam(0.1), 0.75, begin=2, end=6, every=2)
    _, state, seen = run(tx, 8, draw(0))
    for name in SHAPES:
        expected = -sum(np.asarray(w[name], np.float64) * np.asarray(g[name]) for w, g in seen)
        np.testing.assert_allclose(state.scores[name], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(state.scores["dense"], 0)


def test_what_moved_towards_zero_goes_and_is_exactly_zero():
    tx = prune.movement(optax.adam(0.1), 0.75, begin=2, end=6, every=2)
    params, state, seen = run(tx, 7, draw(0))  # the last one takes the final masks
    assert int(state.masks["conv"].sum() + state.masks["dense"].sum()) == 10
    assert bool(state.masks["bias"]) and (params["bias"] != 0).all()
    kernels = ("conv", "dense")
    stay = min(np.where(state.masks[n], state.scores[n], np.inf).min() for n in kernels)
    gone = max(np.where(state.masks[n], -np.inf, state.scores[n]).max() for n in kernels)
    assert gone <= stay
    for name in kernels:
        mask = np.asarray(state.masks[name])
        assert not np.asarray(params[name])[~mask].any() and np.asarray(params[name])[mask].all()
    magnitude = prune.masks(seen[-1][0], sparsity=0.75)
    assert any((magnitude[n] != state.masks[n]).any() for n in kernels)


def test_movement_goes_on_from_its_state_bit_for_bit_and_passes_extra_arguments():
    seen = []

    def update(updates, state, params=None, *, value):
        seen.append(value)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = prune.movement(
        optax.chain(optax.sgd(0.1, momentum=0.9), spy), 0.5, begin=0, end=6, every=2
    )
    value = {"value": 3.0}
    whole = optax.GradientTransformation(
        tx.init, lambda grads, state, params: tx.update(grads, state, params, **value)
    )
    params, state, _ = run(whole, 8, draw(0))
    half = jax.tree.map(np.array, run(whole, 3, draw(0))[:2])
    again = run(whole, 5, *half, first=3)[:2]
    jax.tree.map(np.testing.assert_array_equal, again, (params, state))
    assert seen and all(v is not None for v in seen)


@pytest.mark.parametrize(
    "how",
    [
        {"sparsity": 0.5, "scope": "erk"},
        {"sparsity": None, "structure": (1, 2)},
        {"sparsity": 0.5, "structure": prune.Block((2, 2))},
        {"sparsity": None, "scope": {"dense": 0.25, "bias": 0.5}, "select": "dense|bias"},
    ],
)
def test_scope_structure_and_selection_are_those_of_masks(how):
    tx = prune.movement(optax.sgd(0.1), begin=0, end=4, every=2, **how)
    _, state, _ = run(tx, 5, draw(0))
    expected = prune.masks(draw(0), scores=state.scores, **how)
    jax.tree.map(np.testing.assert_array_equal, state.masks, expected)


def test_masked_weights_stay_at_zero_and_the_others_train_as_ever():
    params = draw(0)
    masks = prune.masks(params, sparsity=0.6, select=lambda path, leaf: True)  # biases too
    tx = optax.chain(optax.adamw(0.1), prune.masked(masks))
    pruned, state, _ = run(tx, 3, prune.apply(masks, params))
    plain, _, _ = run(optax.adamw(0.1), 3, prune.apply(masks, params))
    for name, mask in masks.items():
        assert not np.asarray(pruned[name])[~np.asarray(mask)].any()
        np.testing.assert_array_equal(pruned[name][mask], plain[name][mask])
    jax.tree.map(np.testing.assert_array_equal, optax.tree.get(state, "masks"), masks)


def test_donating_the_state_does_not_take_the_callers_masks():
    params = {"w": jnp.ones((2, 2))}
    masks = {"w": jnp.array([[True, False], [False, True]])}
    tx = prune.masked(masks)
    step = jax.jit(tx.update, donate_argnums=1)
    step(params, tx.init(params), params)
    assert masks["w"].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    "masks, message",
    [({"a": True}, "like the parameters"), ({"w": jnp.ones(2, bool)}, r"shape \(2,\), its weight")],
)
def test_masks_that_are_not_like_the_parameters_are_named(masks, message):
    with pytest.raises(ConfigError, match=message):
        prune.masked(masks).init({"w": jnp.ones((2, 2))})


def test_illegal_arguments_are_named():
    with pytest.raises(ConfigError, match="begin < end"):
        prune.movement(optax.sgd(0.1), 0.5, begin=3, end=3)
    tx = prune.movement(optax.sgd(0.1), 1.5, begin=0, end=3)
    with pytest.raises(ConfigError, match=r"1\.5"):
        tx.init({"w": jnp.ones((2, 2))})
