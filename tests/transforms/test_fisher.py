"""Fisher pruning against NumPy's moving average of squared gradients, and exact zeros."""

import jax
import numpy as np
import optax
import pytest

from hcjax.errors import ConfigError
from hcjax.transforms import prune
from tests.transforms.stepping import SHAPES, draw, run


def pruning(**changes):
    options = {"begin": 2, "end": 6, "every": 2, "decay": 0.5} | changes
    return prune.fisher(optax.adam(0.1), 0.75, **options)


def test_squares_are_averaged_whatever_the_optimiser_makes_of_the_gradients():
    _, state, seen = run(pruning(), 8, draw(0))
    for name in SHAPES:
        expected = np.zeros(SHAPES[name])
        for _, grads in seen:
            expected = 0.5 * expected + 0.5 * np.square(np.asarray(grads[name], np.float64))
        np.testing.assert_allclose(state.scores[name], expected, rtol=1e-5)


def test_what_costs_least_goes_and_is_exactly_zero():
    params, state, seen = run(pruning(), 7, draw(0))  # the last one takes the final masks
    assert int(state.masks["conv"].sum() + state.masks["dense"].sum()) == 10
    assert bool(state.masks["bias"]) and (params["bias"] != 0).all()
    before = seen[-1][0]
    scores = {n: np.asarray(state.scores[n] * before[n] ** 2) for n in ("conv", "dense")}
    stay = min(np.where(state.masks[n], s, np.inf).min() for n, s in scores.items())
    gone = max(np.where(state.masks[n], -np.inf, s).max() for n, s in scores.items())
    assert gone <= stay
    for name in scores:
        mask = np.asarray(state.masks[name])
        assert not np.asarray(params[name])[~mask].any() and np.asarray(params[name])[mask].all()
    magnitude = prune.masks(before, sparsity=0.75)
    assert any((magnitude[n] != state.masks[n]).any() for n in scores)


def test_it_goes_on_from_its_state_bit_for_bit():
    whole, _, _ = run(pruning(), 9, draw(0))
    half, state, _ = run(pruning(), 4, draw(0))
    rest, _, _ = run(pruning(), 5, half, state, first=4)
    jax.tree.map(np.testing.assert_array_equal, whole, rest)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_named(decay):
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\)"):
        pruning(decay=decay)
