"""Tests of hcjax.optim: every optimiser, schedules, clipping, accumulation, freezing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcjax import optim
from hcjax.errors import ConfigError
from hcjax.optim.schedules import cosine, one_cycle

PARAMS = {
    "conv1": {"kernel": jnp.full((2, 2, 1, 3), 0.5), "bias": jnp.full(3, 0.25)},
    "dense1": {"kernel": jnp.full((3, 2), -0.5), "bias": jnp.zeros(2)},
}
GRADS = jax.tree.map(lambda x: jnp.arange(1.0, 1 + x.size).reshape(x.shape) / 10, PARAMS)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def run(tx, grads, params=PARAMS, value=1.0):
    """Returns the parameters after one jitted update per gradient, and the last state."""
    update = jax.jit(tx.update)
    state = tx.init(params)
    for each in grads:
        updates, state = update(each, state, params, value=value)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimiser_goes_downhill_and_keeps_the_structure_of_its_state(name):
    tx = optim.create(name, learning_rate=0.01)
    params, state = run(tx, [GRADS, GRADS])
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    moved = jax.tree.map(lambda new, old, g: jnp.vdot(new - old, g), params, PARAMS, GRADS)
    assert all(float(leaf) < 0 for leaf in jax.tree.leaves(moved))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lion", "muon"])
def test_weight_decay_is_decoupled_and_spares_biases(name):
    # with zero gradients only the decay moves a weight: w - rate · decay · w (LAMB rescales it)
    tx = optim.create(name, learning_rate=0.1, weight_decay=0.2)
    params, _ = run(tx, [ZEROS])
    if name == "lamb":
        assert float(params["conv1"]["kernel"].max()) < 0.5
    else:
        np.testing.assert_allclose(params["conv1"]["kernel"], 0.5 * 0.98, rtol=1e-6)
        np.testing.assert_allclose(params["dense1"]["kernel"], -0.5 * 0.98, rtol=1e-6)
    np.testing.assert_array_equal(params["conv1"]["bias"], PARAMS["conv1"]["bias"])


def test_weight_decay_takes_what_a_predicate_selects():
    options = {"weight_decay": 1.0, "decay_select": lambda path, _: path == "conv1/bias"}
    tx = optim.create("sgd", learning_rate=0.1, **options)
    params, _ = run(tx, [ZEROS])
    np.testing.assert_allclose(params["conv1"]["bias"], 0.225)
    np.testing.assert_array_equal(params["conv1"]["kernel"], PARAMS["conv1"]["kernel"])


@pytest.mark.parametrize("nesterov, factor", [(False, 1 + 1.9), (True, 1.9 + 0.9 * 1.9 + 1)])
def test_sgd_momentum_by_hand(nesterov, factor):
    # v: g, then 1.9 g; plain moves by v, Nesterov by g + 0.9 v: 1.9 g, then 2.71 g
    tx = optim.create("sgd", learning_rate=0.1, momentum=0.9, nesterov=nesterov)
    params, _ = run(tx, [GRADS, GRADS])
    moved = PARAMS["dense1"]["kernel"] - params["dense1"]["kernel"]
    np.testing.assert_allclose(moved, 0.1 * factor * GRADS["dense1"]["kernel"], rtol=1e-5)


def test_clipping_scales_to_the_global_norm():
    tx = optim.create("sgd", learning_rate=1.0, momentum=0.0, clip_norm=0.5)
    params, _ = run(tx, [GRADS])
    moved = jax.tree.map(lambda new, old: new - old, params, PARAMS)
    assert float(optax.tree.norm(moved)) == pytest.approx(0.5, rel=1e-5)


def test_accumulation_averages_gradients_and_moves_only_then():
    tx = optim.create("adam", learning_rate=0.1, accumulate_steps=3)
    grads = [jax.tree.map(lambda g, k=k: k * g, GRADS) for k in (1.0, 2.0, 6.0)]
    before, _ = run(tx, grads[:2])
    jax.tree.map(np.testing.assert_array_equal, before, PARAMS)
    after, _ = run(tx, grads)
    mean = jax.tree.map(lambda g: 3 * g, GRADS)
    expected, _ = run(optim.create("adam", learning_rate=0.1), [mean])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after, expected)


def test_schedules_count_updates_not_micro_batches():
    rate = optim.schedule("step", learning_rate=1.0, steps=2, milestones=(0.5,), factor=0.5)
    tx = optim.create("sgd", learning_rate=rate, momentum=0.0, accumulate_steps=2)
    params, _ = run(tx, [GRADS] * 4)
    moved = PARAMS["dense1"]["bias"] - params["dense1"]["bias"]
    np.testing.assert_allclose(moved, 1.5 * GRADS["dense1"]["bias"], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_frozen_parameters_do_not_move_and_hold_no_moments(name):
    decay = {} if name == "adam" else {"weight_decay": 0.1}
    options = {"learning_rate": 0.1, "accumulate_steps": 2, "clip_norm": 1.0, **decay}
    tx = optim.create(name, freeze=["conv1/.*", "dense1/bias"], **options)
    params, state = run(tx, [GRADS] * 2)
    jax.tree.map(np.testing.assert_array_equal, params["conv1"], PARAMS["conv1"])
    np.testing.assert_array_equal(params["dense1"]["bias"], PARAMS["dense1"]["bias"])
    assert not np.array_equal(params["dense1"]["kernel"], PARAMS["dense1"]["kernel"])
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert (3, 2) in shapes and not shapes & {(2, 2, 1, 3), (2,)}


def test_freezing_nothing_or_everything_is_refused_at_init():
    with pytest.raises(ConfigError, match=r"'conv9/\.\*' matches no parameter"):
        optim.create("sgd", learning_rate=0.1, freeze="conv9/.*").init(PARAMS)
    with pytest.raises(ConfigError, match="freezes every parameter"):
        optim.create("sgd", learning_rate=0.1, freeze=".*").init(PARAMS)


def test_muon_orthogonalises_flattened_convolution_kernels():
    tx = optim.create("muon", learning_rate=1.0)
    key = jax.random.key(0)
    grads = GRADS | {"conv1": {"kernel": jax.random.normal(key, (2, 2, 1, 3)), "bias": jnp.ones(3)}}
    params, _ = run(tx, [grads])
    update = np.asarray(params["conv1"]["kernel"] - PARAMS["conv1"]["kernel"]).reshape(4, 3)
    # scaled by 0.2 · sqrt(max(4, 3)), so every singular value is 0.4, to Muon's coarse 0.7 to 1.2
    singular = np.linalg.svd(update / 0.4, compute_uv=False)
    assert (singular > 0.6).all() and (singular < 1.3).all()


def test_a_plateau_reduces_the_rate_and_the_log_sees_it():
    rate = optim.schedule(
        "reduce_on_plateau", learning_rate=0.4, steps=9, every_steps=2, patience=2, factor=0.5
    )
    tx = optim.create("sgd", learning_rate=rate, freeze="conv1/.*", accumulate_steps=1)
    seen = []
    for steps in (5, 6):  # the first average is the best one; two more of the same size follow
        _, state = run(tx, [GRADS] * steps, value=jnp.float32(3.0))
        seen.append(float(optim.learning_rate_at(rate, state, steps)))
    np.testing.assert_allclose(seen, [0.4, 0.2], rtol=1e-6)


def test_a_plateau_works_with_accumulation():
    rate = optim.schedule("reduce_on_plateau", learning_rate=0.4, steps=9, every_steps=1)
    tx = optim.create("sgd", learning_rate=rate, accumulate_steps=2)
    _, state = run(tx, [GRADS] * 2, value=jnp.float32(3.0))
    assert float(optim.learning_rate_at(rate, state, 1)) == pytest.approx(0.4)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_every_schedule_is_a_positive_rate_up_to_its_peak_and_traceable(name):
    rate = optim.schedule(name, learning_rate=0.3, steps=50)
    rates = jax.vmap(rate)(jnp.arange(50))
    assert rates.dtype == jnp.float32
    assert float(rates.min()) > 0
    assert float(rates.max()) == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "reduce_on_plateau"])
def test_warm_up_is_linear_and_ends_at_the_peak(name):
    rate = optim.schedule(name, learning_rate=0.8, steps=1000, warmup_steps=4)
    rates = [float(rate(step)) for step in range(5)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-4)


def test_cosine_ends_at_its_fraction_and_stays_there():
    rate = cosine(learning_rate=2.0, steps=110, warmup_steps=10, final_fraction=0.1)
    rates = [float(rate(step)) for step in (10, 60, 110, 500)]
    np.testing.assert_allclose(rates, [2.0, 1.1, 0.2, 0.2], rtol=1e-5)


def test_one_cycle_agrees_with_optax():
    rate = one_cycle(learning_rate=2.0, steps=100, warmup_fraction=0.3)
    expected = optax.cosine_onecycle_schedule(100, 2.0, 0.3, 25.0, 1e4)
    for step in (0, 10, 29, 30, 31, 70, 99, 100, 200):
        np.testing.assert_allclose(rate(step), expected(step), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sdg", {}, "unknown optimizer 'sdg'; did you mean 'sgd'"),
        ("sgd", {"momentun": 0.9}, "option of optimizer 'sgd' 'momentun'; did you mean 'momentum'"),
        ("adam", {"weight_decay": 0.1}, "option of optimizer 'adam' 'weight_decay'"),
        ("sgd", {"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ("sgd", {"learning_rate": float("nan")}, "learning_rate must be > 0, got nan"),
        ("sgd", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ("adamw", {"b2": 2}, r"b2 must be in \[0, 1\), got 2"),
        ("adamw", {"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        ("sgd", {"clip_norm": -1.0}, "clip_norm must be > 0"),
        ("sgd", {"accumulate_steps": 0}, "accumulate_steps must be >= 1, got 0"),
    ],
)
def test_wrong_optimiser_arguments_are_refused_at_construction(name, options, message):
    with pytest.raises(ConfigError, match=message):
        optim.create(name, **{"learning_rate": 0.1, **options})


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cosin", {}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ("cosine", {"final": 0.1}, "option of schedule 'cosine' 'final'; did you mean 'final_fr"),
        ("cosine", {"warmup_steps": 10}, r"warmup_steps must be in \[0, steps = 10\), got 10"),
        ("constant", {"warmup_steps": -1}, "warmup_steps must be >= 0, got -1"),
        ("step", {"milestones": (0.5, 0.2)}, "milestones must be increasing fractions"),
        ("step", {"milestones": (30, 60)}, "milestones must be increasing fractions"),
        ("one_cycle", {"warmup_fraction": 1}, r"warmup_fraction must be in \(0, 1\), got 1"),
        ("reduce_on_plateau", {"factor": 1.0}, r"factor must be in \(0, 1\), got 1.0"),
        ("reduce_on_plateau", {"learning_rate": -1}, "learning_rate must be > 0, got -1"),
    ],
)
def test_wrong_schedule_arguments_are_refused_at_construction(name, options, message):
    with pytest.raises(ConfigError, match=message):
        optim.schedule(name, **{"learning_rate": 0.1, "steps": 10, **options})


def test_ema_decay_grows_from_a_tenth_to_its_limit():
    values = [float(optim.ema_decay(step, 0.9)) for step in (0, 10, 80, 81, 1000)]
    np.testing.assert_allclose(values, [0.1, 0.55, 0.9, 0.9, 0.9], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\), got 1.0"):
        optim.ema_decay(0, 1.0)
