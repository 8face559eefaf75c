"""Fisher and Taylor pruning against NumPy's moving averages of gradients, and exact zeros."""

import jax
import numpy as np
import optax
import pytest

from hcjax import prune
from hcjax.errors import ConfigError
from tests.prune.stepping import SHAPES, draw, run

# optimiser -> what of a gradient is averaged, and what a weight then costs
COSTS = {
    prune.fisher: (np.square, lambda mean, weight: mean * weight**2),
    prune.taylor: (lambda gradient: gradient, lambda mean, weight: abs(mean * weight)),
}
every_one = pytest.mark.parametrize("by", COSTS)


def pruning(by, **changes):
    options = {"begin": 2, "end": 6, "every": 2, "decay": 0.5} | changes
    return by(optax.adam(0.1), 0.75, **options)


@every_one
def test_gradients_are_averaged_whatever_the_optimiser_makes_of_them(by):
    _, state, seen = run(pruning(by), 8, draw(0))
    for name in SHAPES:
        expected = np.zeros(SHAPES[name])
        for _, grads in seen:
            expected = 0.5 * expected + 0.5 * COSTS[by][0](np.asarray(grads[name], np.float64))
        np.testing.assert_allclose(state.scores[name], expected, rtol=1e-5, atol=1e-6)


@every_one
def test_what_costs_least_goes_and_is_exactly_zero(by):
    params, state, seen = run(pruning(by), 7, draw(0))  # the last one takes the final masks
    assert int(state.masks["conv"].sum() + state.masks["dense"].sum()) == 10
    assert bool(state.masks["bias"]) and (params["bias"] != 0).all()
    before = seen[-1][0]
    costs = COSTS[by][1]
    scores = {n: np.asarray(costs(state.scores[n], before[n])) for n in ("conv", "dense")}
    stay = min(np.where(state.masks[n], s, np.inf).min() for n, s in scores.items())
    gone = max(np.where(state.masks[n], -np.inf, s).max() for n, s in scores.items())
    assert gone <= stay
    for name in scores:
        mask = np.asarray(state.masks[name])
        assert not np.asarray(params[name])[~mask].any() and np.asarray(params[name])[mask].all()
    magnitude = prune.masks(before, sparsity=0.75)
    assert any((magnitude[n] != state.masks[n]).any() for n in scores)


@every_one
def test_it_goes_on_from_its_state_bit_for_bit(by):
    whole, _, _ = run(pruning(by), 9, draw(0))
    half, state, _ = run(pruning(by), 4, draw(0))
    rest, _, _ = run(pruning(by), 5, half, state, first=4)
    jax.tree.map(np.testing.assert_array_equal, whole, rest)


@every_one
@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_named(by, decay):
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\)"):
        pruning(by, decay=decay)
