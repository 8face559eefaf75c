"""What cannot be pruned is refused with a message, not misread or pruned in silence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax import prune
from hcjax.errors import ConfigError
from tests.draws import normal


class Declared(eqx.Module):
    """Leaves in another order than a dict's."""

    stem: jax.Array
    body: jax.Array

    def __call__(self, x):
        return jax.nn.relu(x @ self.stem) @ self.body


def declared():
    rng = np.random.default_rng(0)
    return Declared(*(jnp.asarray(rng.standard_normal((6, 6)), jnp.float32) for _ in range(2)))


def test_scores_of_another_tree_are_refused_although_all_shapes_agree():
    module = declared()
    model = hcjax.trace(lambda m, x: m(x), module, jnp.ones((1, 6)))
    only = eqx.tree_at(lambda m: m.stem, jax.tree.map(jnp.zeros_like, module), jnp.ones((6, 6)))
    assert prune.masks(module, sparsity=0.5, scores=only).stem.all()
    message = r"structure of params, dict of .*\[body, stem\], got Declared of .*\[stem, body\]"
    with pytest.raises(ConfigError, match=message):
        prune.masks(model.params, sparsity=0.5, scores=only)


def test_integers_of_a_quantized_or_shared_network_are_refused():
    images = normal(8, 6)
    model = hcjax.trace(lambda m, x: m(x), declared(), images)
    int8 = hcjax.int8(model, hcjax.calibrate(model, images))
    for params in (int8.params, hcjax.share({"w": jnp.ones((4, 4))}, clusters=1)):
        with pytest.raises(ConfigError, match="holds int8, and only floats are pruned"):
            prune.masks(params, sparsity=0.5)


def network(**more):
    return {"a": jnp.arange(1.0, 17.0).reshape(4, 4), "b": jnp.ones(3), **more}


NAN = {"a": jnp.full((4, 4), 1.0).at[0, 0].set(jnp.nan), "b": jnp.ones(3)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"structure": [2, 4]}, r"structure must be .*got \[2, 4\]"),
        ({"structure": "2:4"}, "structure must be .*got '2:4'"),
        ({"sparsity": 0.5, "structure": 4}, "structure must be .*got 4"),
        ({"structure": (2, 4, 1)}, "structure must be .*2, 4, 1"),
        ({"structure": (2.0, 4.0)}, "structure must be .*whole numbers"),
        ({"sparsity": 0.5, "structure": prune.Block(2)}, "structure must be .*size=2"),
        ({"sparsity": 0.5, "structure": prune.Block((2.0, 2))}, "structure must be .*2.0"),
        ({"sparsity": 0.5, "select": None}, "regular expression .*needed.*got None"),
        ({"sparsity": 0.5, "select": ["a", 3]}, "regular expression .*needed.*3"),
        ({"sparsity": "0.9"}, r"in \[0, 1\).*'0.9'"),
        ({"sparsity": "0.9", "scope": "erk"}, r"in \[0, 1\).*'0.9'"),
        ({"sparsity": 1.0}, r"in \[0, 1\).*1.0"),
        ({"scope": {"a": 1.0}}, r"in \[0, 1\).*1.0"),
        ({"scope": {"a(": 0.5}}, r"scope: 'a\(' is not a regular expression"),
        ({"scope": {3: 0.5}}, "scope: 3 is not a regular expression"),
        ({"sparsity": 0.5, "scores": {"a": 1.0, "b": 1.0}}, r"scores of a must be \(4, 4\)"),
        ({"sparsity": 0.5, "scores": NAN}, "scores of a must be numbers, and some are NaN"),
        ({"structure": (2, 4), "scores": NAN}, "scores of a must be numbers, and some are NaN"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        prune.masks(network(), **arguments)


def test_a_leaf_that_is_no_array_is_named():
    with pytest.raises(ConfigError, match="c is a float: make it an array"):
        prune.masks(network(c=1.0), sparsity=0.5)


def test_leaves_that_are_not_selected_may_hold_anything():
    params = network(key=jax.random.key(0), steps=jnp.arange(3))
    masks = prune.masks(params, sparsity=0.5)
    found = prune.apply(masks, params)
    assert int((found["a"] == 0).sum()) == 8 and found["key"] == params["key"]
    with pytest.raises(ConfigError, match="key holds key<fry>, and only floats are pruned"):
        prune.masks(params, sparsity=0.5, select="a|key")


def test_an_empty_leaf_loses_nothing_whatever_the_scope():
    params = network(z=jnp.ones((0, 4)))
    for scope in ("global", "lamp", "uniform", "erk"):
        masks = prune.masks(params, sparsity=0.5, scope=scope)
        assert int(masks["a"].sum()) == 8 and masks["z"].shape == (0, 4)


def test_nan_is_refused_where_it_is_known_and_not_before_a_schedule_prunes():
    with pytest.raises(ConfigError, match="some are NaN"):
        prune.masks(NAN, sparsity=0.5)
    with pytest.raises(ConfigError, match="some are NaN"):
        jax.jit(lambda: prune.masks(NAN, sparsity=0.5))()
    jax.jit(lambda p: prune.masks(p, sparsity=0.5))(NAN)
    tx = prune.gradual(0.5, begin=2, end=4)
    tx.update(NAN, tx.init(network()), NAN)


def test_a_schedule_to_no_weights_at_all_is_refused():
    for tx in (
        prune.gradual(1.0, begin=0, end=1),
        prune.fisher(optax.sgd(1.0), 1.0, begin=0, end=1),
    ):
        with pytest.raises(ConfigError, match=r"in \[0, 1\).*1.0"):
            tx.init(network())
    with pytest.raises(ConfigError, match="structure must be"):
        prune.gradual(0.5, begin=0, end=1, structure=[2, 4])
    with pytest.raises(ConfigError, match="leave some weights"):
        prune.lottery(lambda params, masks, step: params, network(), rounds=99, rate=0.9)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_training_that_gives_back_no_parameters_is_found_out(rounds):
    with pytest.raises(
        ConfigError, match=r"what train gives back must be .*\[a, b\], got NoneType"
    ):
        prune.lottery(lambda params, masks, step: None, network(), rounds=rounds)


@pytest.mark.parametrize("name", ["begin", "end", "every"])
def test_steps_are_whole_numbers(name):
    steps = {"begin": 0, "end": 8, "every": 2, name: 7.5}
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of steps, got 7.5"):
        prune.gradual(0.9, **steps)
    if name != "begin":
        with pytest.raises(ConfigError, match=f"whole numbers of steps .*{name} is 7.5"):
            prune.rigl(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0), **{name: 7.5})


@pytest.mark.parametrize("sparsity", [1.5, 1.0, -0.1, np.nan])
def test_a_sparsity_of_jax_is_in_range(sparsity):
    for scope in ("global", "uniform"):
        with pytest.raises(ConfigError, match=r"sparsity must be in \[0, 1\)"):
            prune.masks(network(), sparsity=jnp.float32(sparsity), scope=scope)
        made = jax.jit(lambda s, scope=scope: prune.masks(network(), sparsity=s, scope=scope)["a"])
        assert int(made(0.5).sum()) == 8


def test_biases_that_broadcast_over_an_image_are_not_pruned():
    module = eqx.nn.Conv2d(2, 8, 3, key=jax.random.key(0))
    params = {"conv": eqx.filter(module, eqx.is_array), "dense": jnp.ones((8, 1))}
    found = prune.masks(params, sparsity=0.5, scope="uniform")
    assert found["conv"].weight.shape == (8, 2, 3, 3) and found["conv"].bias.shape == ()
    assert found["dense"].shape == (8, 1)
