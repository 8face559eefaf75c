"""Networks of other libraries: split, trained, read, and put back."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import hcjax
from hcjax.errors import ConfigError
from tests.draws import normal

X = np.random.default_rng(0).random((32, 8, 8, 1), np.float32)
Y = (X.mean((1, 2, 3)) > 0.5).astype(int)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(2)(x.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.dense = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = self.drop(nnx.relu(self.norm(self.conv(x))))
        return self.dense(x.mean((1, 2)))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    drop: eqx.nn.Dropout
    dense: eqx.nn.Linear

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(1, 4, 3, key=key)
        self.drop = eqx.nn.Dropout(0.1)
        self.dense = eqx.nn.Linear(4, 2, key=key)

    def __call__(self, x, key=None):
        x = jax.nn.relu(self.conv(jnp.moveaxis(x, -1, 0)))
        return self.dense(self.drop(x.mean((1, 2)), key=key))


class WithStatistics(eqx.Module):
    norm: eqx.nn.BatchNorm
    dense: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.dense = eqx.nn.Linear(8, 2, key=key)

    def __call__(self, x, state):
        y, state = self.norm(x.mean((0, 1)), state)
        return self.dense(y), state


def haiku_network(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3)(x), is_training)
    return hk.Linear(2)(jax.nn.relu(x).mean((1, 2)))


def plain(params, x):
    return x.mean((1, 2)) @ params["w"] + params["b"]


def statistics():
    return eqx.nn.make_with_state(WithStatistics)(jax.random.key(0))


# name -> (object, whether it has running statistics)
OBJECTS = {
    "Flax Linen": lambda: (Linen(), True),
    "Flax NNX": lambda: (Nnx(nnx.Rngs(0)), True),
    "Equinox": lambda: (Equinox(jax.random.key(0)), False),
    "Haiku": lambda: (hk.transform_with_state(haiku_network), True),
    "a function": lambda: (plain, False),
}


def split(name, x=X[:1]):
    params = {"w": jnp.ones((1, 2)), "b": jnp.zeros(2)} if name == "a function" else None
    return hcjax.network(OBJECTS[name]()[0], x, params=params)


@pytest.mark.parametrize("name", OBJECTS)
def test_any_library_s_network_is_trained_read_and_put_back(name):
    net = split(name)
    assert net.library == name and bool(jax.tree.leaves(net.state)) == OBJECTS[name]()[1]
    done = hcjax.fit(net.apply, net.params, (X, Y), state=net.state, tx=optax.adam(1e-2),
                     epochs=2, batch_size=16, key=jax.random.key(0), quiet=True)  # fmt: skip
    if net.state:
        before, after = map(jax.tree.leaves, (net.state, done.state))
        assert any((a != b).any() for a, b in zip(before, after, strict=True))
    predict = net.inference(done.state)
    model = hcjax.trace(predict, done.params, X[:1])
    true = predict(done.params, X)
    np.testing.assert_allclose(model.apply(model.params, X), true, atol=1e-5)
    folded = hcjax.fold(model)
    assert not any(op.kind in ("rsqrt", "sub") for op in folded.graph.ops)
    mine = net.put(done.params, done.state)
    if name == "Flax Linen":
        again = Linen().apply(mine, X)
    elif name == "Flax NNX":
        again = mine(X)
    elif name == "Equinox":
        again = jax.vmap(eqx.nn.inference_mode(mine))(X)
    elif name == "Haiku":
        again, _ = OBJECTS[name]()[0].apply(*mine, None, X, is_training=False)
    else:
        again = plain(mine, X)
    np.testing.assert_allclose(again, true, atol=1e-5)


def test_equinox_with_statistics_is_a_pair():
    x = np.asarray(normal(16, 4, 4, 8))
    net = hcjax.network(statistics(), x[:1])
    outputs, state = net.apply(net.params, net.state, x, train=True, key=None)
    assert outputs.shape == (16, 2)
    before, after = map(jax.tree.leaves, (net.state, state))
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    model = hcjax.trace(net.inference(state), net.params, x[:1])
    module, own = net.put(net.params, state)
    module = eqx.nn.inference_mode(module)
    true = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, own)[0]
    np.testing.assert_allclose(model.apply(model.params, x), true, atol=1e-5)


def test_equinox_statistics_are_equinox_s_own_after_several_steps():
    x = np.asarray(normal(16, 4, 4, 8))
    net, (module, own) = hcjax.network(statistics(), x[:1]), statistics()
    state = net.state
    mapped = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    for i in range(3):
        _, state = net.apply(net.params, state, x + i, train=True, key=jax.random.key(0))
        _, own = mapped(x + i, own)
    still = jax.vmap(eqx.nn.inference_mode(module), axis_name="batch", in_axes=(0, None),
                     out_axes=(0, None))  # fmt: skip
    np.testing.assert_allclose(net.inference(state)(net.params, x), still(x, own)[0], atol=1e-5)


class Plain(eqx.Module):
    dense: eqx.nn.Linear

    def __call__(self, x):
        return self.dense(x.ravel())


class FlaggedNnx(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs

    def __call__(self, x, train=False):
        return nnx.Dropout(0.5, deterministic=not train, rngs=self.rngs)(x)


def flagged_haiku(x, training=False):
    return hk.dropout(hk.next_rng_key(), 0.5, x) if training else x + hk.get_parameter("w", ()) * 0


def test_modules_without_key_or_flag_and_with_flags_of_any_name_are_trained():
    plain_net = hcjax.network(Plain(eqx.nn.Linear(64, 2, key=jax.random.key(0))), X[:1])
    outputs, _ = plain_net.apply(plain_net.params, {}, X, train=True, key=jax.random.key(1))
    assert outputs.shape == (32, 2)
    variables = {"~": {"w": jnp.zeros(())}}
    nets = [
        hcjax.network(FlaggedNnx(nnx.Rngs(0)), X[:1]),
        hcjax.network(hk.transform(flagged_haiku), X[:1], params=variables),
    ]
    for net in nets:
        random = [net.apply(net.params, net.state, X + 1, train=True, key=jax.random.key(k))
                  for k in (0, 1)]  # fmt: skip
        masks = [np.asarray(outputs) for outputs, _ in random]
        assert (masks[0] == 0).any() and (masks[0] != masks[1]).any()
        still, _ = net.apply(net.params, net.state, X + 1, train=False, key=None)
        assert (np.asarray(still) != 0).all()


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        count = self.variable("counter", "n", lambda: jnp.zeros((), jnp.int32))
        if train:
            count.value += 1
        return nn.Dense(2)(x.mean((1, 2)))


def test_counters_stay_integers_and_resume(tmp_path):
    net = hcjax.network(Counting(), X[:1])
    options = {"state": net.state, "tx": optax.sgd(0.1), "batch_size": 16, "quiet": True,
               "key": jax.random.key(0), "workdir": tmp_path}  # fmt: skip
    hcjax.fit(net.apply, net.params, (X, Y), steps=2, **options)
    done = hcjax.fit(net.apply, net.params, (X, Y), steps=4, **options)
    (count,) = jax.tree.leaves(done.state)
    assert count.dtype == np.int32 and int(count) == 4


def test_several_inputs_are_a_tuple_in_training():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            return nn.Dense(2)(x.mean((1, 2))) + nn.Dense(2)(y)

    net = hcjax.network(Two(), X[:1], X[:1, :, 0, 0])
    data = hcjax.data.from_arrays((X, X[:, :, 0, 0]), Y)
    done = hcjax.fit(net.apply, net.params, data, state=net.state, tx=optax.adam(1e-2), steps=2,
                     batch_size=16, key=jax.random.key(0), quiet=True)  # fmt: skip
    model = hcjax.trace(net.inference(), done.params, X[:1], X[:1, :, 0, 0])
    assert model.apply(model.params, X, X[:, :, 0, 0]).shape == (32, 2)


@pytest.mark.parametrize(
    "module, inputs, message",
    [
        (Linen(), (), "give example inputs"),
        (plain, (X,), "of a function give its parameters"),
        (3, (X,), r"expected a network of Flax Linen, .* got builtins.int"),
    ],
)
def test_what_is_no_network_is_refused(module, inputs, message):
    with pytest.raises(ConfigError, match=message):
        hcjax.network(module, *inputs)
