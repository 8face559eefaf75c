"""Networks with any inputs and outputs through the whole chain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from tests.draws import normal
from tests.graph import reference
from tests.graph.open_networks import OPEN

# the others are long
KEPT = ("transformer", "unet transposed", "detector", "text cnn", "lstm, a loop")
NAMES = [n if n in KEPT else pytest.param(n, marks=pytest.mark.long) for n in OPEN]
# what is known to stay in float, by kind of op
FLOATS = {"transformer": 10, "vit": 4, "lstm, a loop": 1}


def applied(model, inputs):
    return jax.tree.map(np.asarray, jax.jit(model.apply)(model.params, *inputs))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def near(found, true, part):
    assert jax.tree.structure(found) == jax.tree.structure(true)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        assert np.abs(a - b).max() <= part * np.abs(b).max()


def test_the_results_of_one_loop_are_computed_once():
    """XLA does not join two loops that are the same."""

    def apply(p, x):
        step = lambda c, y: (jnp.tanh(c @ p["w"] + y), c)
        end, every = lax.scan(step, x[:, 0] * 0, x.swapaxes(0, 1))
        return end + every.mean(0), every.swapaxes(0, 1)

    params, x = {"w": normal(3, 3)}, normal(4, 600, 3)
    model = hcjax.trace(apply, params, x)
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    for each in (model, small, hcjax.unpack(hcjax.pack(small))):
        assert sum(op.kind == "scan" for op in each.graph.ops) == 2
        compiled = jax.jit(each.apply).lower(each.params, x).compile().as_text()
        assert compiled.count(" while(") == 1
    near(applied(model, (x,)), jax.jit(apply)(params, x), 1e-5)
    equal(applied(small, (x,)), applied(hcjax.unpack(hcjax.pack(small)), (x,)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_the_chain_gives_the_same_outputs(name):
    apply, params, inputs = OPEN[name]()
    true = jax.tree.map(np.asarray, jax.jit(apply)(params, *inputs))
    model = hcjax.fold(hcjax.trace(apply, params, *inputs))
    near(applied(model, inputs), true, 1e-5)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, *inputs, method="minmax"))
    small = hcjax.int8(fake)
    found = applied(small, inputs)
    near(found, true, 0.05)
    equal(found, applied(fake, inputs))
    equal(found, applied(hcjax.unpack(hcjax.pack(small)), inputs))
    if small.floats:
        assert len(small.floats) == FLOATS[name], small.floats
        near(reference.outputs(small, *inputs), found, 1e-5)
    else:
        equal(reference.outputs(small, *inputs), found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_channels_of_any_network_are_cut(name):
    apply, params, inputs = OPEN[name]()
    model = hcjax.fold(hcjax.trace(apply, params, *inputs))
    given = inputs if len(inputs) > 1 else inputs[0]
    if name.startswith("lstm"):
        with pytest.raises(hcjax.errors.ConfigError, match="nothing that may be cut"):
            hcjax.shrink(model, keep=0.5, images=given)
        return
    small = hcjax.shrink(model, keep=0.5, images=given)
    assert hcjax.cost(small).macs < hcjax.cost(model).macs
    small = hcjax.prune.refit(small, model, given)
    found = applied(small, inputs)
    assert jax.tree.structure(found) == jax.tree.structure(applied(model, inputs))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def heads(params, inputs, scale):
    x = inputs["image"].mean((1, 2)) @ params["w"] + params["t"][inputs["token"]]
    box, score = x[:, :3] * scale * 500, jax.nn.sigmoid(x[:, 3:])
    return {"both": jnp.concatenate([box, score], -1), "index": (inputs["token"], score)}


def test_trees_of_arrays_go_through_the_chain_and_a_file():
    params = {"w": normal(2, 5), "t": normal(7, 5, seed=1)}
    inputs = {"image": normal(6, 3, 3, 2, seed=2), "token": jnp.arange(6) % 7}
    true = heads(params, inputs, 2.0)
    model = hcjax.fold(hcjax.trace(heads, params, inputs, 2.0))
    small = hcjax.int8(model, hcjax.calibrate(model, inputs, 2.0, method="minmax"))
    found = applied(small, (inputs, 2.0))
    near(found, jax.tree.map(np.asarray, true), 0.02)
    # boxes in hundreds do not cost scores in 0..1 their levels
    assert np.abs(found["both"][:, 3:] - true["both"][:, 3:]).max() < 0.01
    for each in (model, small):
        back = hcjax.unpack(hcjax.pack(each))
        assert (back.inputs, back.outputs) == (each.inputs, each.outputs)
        equal(applied(back, (inputs, 2.0)), applied(each, (inputs, 2.0)))


class Pair(NamedTuple):
    tokens: jax.Array
    mask: jax.Array


def test_containers_of_any_order_come_back_as_dicts_with_their_fields():
    example = Pair(normal(2, 3), normal(2, 3, seed=1))
    model = hcjax.trace(lambda p, x: Pair(x.tokens * 3 - x.mask, x.mask @ p), normal(3, 2), example)
    back = hcjax.unpack(hcjax.pack(model))
    true = model.apply(model.params, example)
    found = back.apply(back.params, {"tokens": example.tokens, "mask": example.mask})
    np.testing.assert_array_equal(found["tokens"], true.tokens)
    np.testing.assert_array_equal(found["mask"], true.mask)
    with pytest.raises(TypeError, match="dicts with text as keys, not 2"):
        hcjax.pack(hcjax.trace(lambda p, x: x[2] @ p, normal(3, 2), {2: normal(2, 3)}))


def odd(p, x, t):
    y = x @ p["w"]
    same = jnp.broadcast_to(p["t"] * 2.0, (x.shape[0], 2))
    fixed = jnp.broadcast_to(jnp.arange(2.0), (x.shape[0], 2))
    return {"y": y, "again": y, "x": x, "t": t, "scale": p["t"], "same": same, "fixed": fixed,
            "which": y.argmax(-1), "more": y > 0.5, "number": p["t"] + 1}  # fmt: skip


def test_outputs_may_be_inputs_constants_or_the_same():
    params, x = {"w": normal(3, 4), "t": jnp.float32(2.0)}, normal(5, 3, seed=1)
    true = jax.tree.map(np.asarray, odd(params, x, jnp.float32(3.0)))
    model = hcjax.trace(odd, params, x[:1], 3.0)
    folded = hcjax.fold(model)
    fake = hcjax.fake_quantize(folded, hcjax.calibrate(folded, x, 3.0))
    small = hcjax.int8(fake)
    for each in (model, folded, hcjax.unpack(hcjax.pack(folded))):
        near(applied(each, (x, 3.0)), true, 1e-6)
    found = applied(small, (x, 3.0))
    equal(found, applied(fake, (x, 3.0)))
    equal(found, applied(hcjax.unpack(hcjax.pack(small)), (x, 3.0)))
    for key in ("x", "t", "scale", "same", "fixed", "number"):
        np.testing.assert_allclose(found[key], true[key], rtol=1e-6)
    near(found["y"], true["y"], 0.03)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "takes 2 inputs"),
        (({"image": normal(2, 3, 3, 2)}, 2.0), r"takes 2 inputs, \(\{'image': float32\[N, 3, 3, 2"),
        (
            ({"image": normal(2, 3, 2), "token": jnp.arange(2)}, 2.0),
            "0/image must be",
        ),
        (({"image": normal(2, 3, 3, 2), "token": jnp.arange(3)}, 2.0), "0/token is a batch of 3"),
        (({"image": normal(2, 3, 3, 2), "token": normal(2)}, 2.0), r"0/token must be int32\[N\]"),
        (({"image": normal(2, 3, 3, 2), "token": jnp.arange(2)}, normal(2)), r"1 must be \[\]"),
    ],
)
def test_other_inputs_are_refused_by_name(arguments, message):
    params = {"w": normal(2, 5), "t": normal(7, 5)}
    example = {"image": normal(1, 3, 3, 2), "token": jnp.arange(1)}
    model = hcjax.trace(heads, params, example, 2.0)
    with pytest.raises(ValueError, match=message):
        model.apply(model.params, *arguments)


def counted(p, x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ p)), (0, x))[1]


def branched(p, x, flag):
    return lax.cond(flag > 0, lambda: jax.nn.relu(x @ p), lambda: x[:, ::-1] @ p + 1)


def accumulated(p, x):
    return lax.scan(lambda c, y: (c + y @ p, c * y), x[:, 0] * 0, x.swapaxes(0, 1), reverse=True)


@pytest.mark.parametrize(
    "apply, inputs",
    [
        (counted, [normal(4, 3)]),
        (branched, [normal(4, 3), 1.0]),
        (branched, [normal(4, 3), -1.0]),
        (lambda p, x: accumulated(p, x)[0], [normal(4, 5, 3)]),
        (lambda p, x: accumulated(p, x)[0], [normal(4, 200, 3)]),
        (lambda p, x: accumulated(p, x)[1].swapaxes(0, 1), [normal(4, 5, 3)]),
        (lambda p, x: accumulated(p, x)[1].swapaxes(0, 1), [normal(4, 200, 3)]),
    ],
)
def test_loops_and_branches_are_read_and_packed(apply, inputs):
    p = 0.3 * normal(3, 3, seed=4)
    model = hcjax.trace(apply, p, *(x[:1] if np.ndim(x) else x for x in inputs))
    true = np.asarray(apply(p, *inputs))
    for each in (model, hcjax.unpack(hcjax.pack(model))):
        np.testing.assert_allclose(applied(each, inputs), true, rtol=1e-5, atol=1e-6)
    steps = {"counted": 3, "branched": 1}.get(apply.__name__, inputs[0].shape[1])
    if true.ndim == 2:
        assert hcjax.cost(model).macs == 9 * steps
    if apply is counted:  # jax has no gradient of a while loop; ours is unrolled
        apply = lambda p, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ p) @ p) @ p)
    gradient = jax.grad(lambda p: model.apply({"": p}, *inputs).sum())(p)
    np.testing.assert_allclose(gradient, jax.grad(lambda p: apply(p, *inputs).sum())(p), rtol=1e-4)


@pytest.mark.parametrize(
    "apply, message",
    [
        (
            lambda p, x: lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c * 2, x @ p),
            "depends on the inputs or the parameters",
        ),
        (lambda p, x: lax.scan(lambda c, y: (c + y, c), p[0], x)[0], "loops over the images"),
        (
            lambda p, x: lax.cond((x @ p)[0, 0] > 0, lambda: x @ p, lambda: -x @ p),
            "mixes the images",
        ),
        (lambda p, x: lax.map(lambda y: y[::-1], (x @ p).T).T[::-1], "batch size as a number"),
    ],
)
def test_loops_that_mix_examples_are_refused(apply, message):
    with pytest.raises(TypeError, match=message):
        hcjax.trace(apply, jnp.ones((4, 4)), jnp.ones((1, 4)))
