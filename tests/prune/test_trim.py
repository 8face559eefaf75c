"""trim: what masks have emptied goes, and the function stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hcjax
from hcjax.graph.coupling.channels import channels
from tests.draws import normal
from tests.graph.cutting import conv, logits, traced, written
from tests.prune.test_shrink import widths

pytestmark = pytest.mark.slow


def check_same(model, small, images):
    expected = logits(model, model.params, images)
    assert np.ptp(expected) > 1e-4
    got = logits(small, small.params, images)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def sparse(model, seed):
    """Returns the model with zeros along random channels of each array; one stays whole."""
    rng = np.random.default_rng(seed)
    params = {path: np.array(leaf) for path, leaf in model.params.items()}
    for group in channels(model).groups:
        whole = rng.integers(len(group.channels))
        for path, axis, indices in group.slices:
            gone = rng.random(len(indices)) < rng.random()
            gone[whole] = False
            if "bias" not in path or rng.random() < 0.3:
                params[path][(slice(None),) * axis + (indices[gone].ravel(),)] = 0
    return model.replace(params={path: jnp.asarray(leaf) for path, leaf in params.items()})


@pytest.mark.parametrize(
    "name, folded",
    [
        *((name, False) for name in ("linen", "equinox", "haiku mobilenet", "gated")),
        *((name, True) for name in ("dense", "resnet_tiny", "lenet5")),
    ],
)
def test_what_is_empty_goes_and_the_function_stays(name, folded):
    model, images = traced(name, folded)
    model = sparse(model, 0)
    small = hcjax.trim(model)
    assert sum(widths(small)) < sum(widths(model))
    assert min(leaf.size for leaf in jax.tree.leaves(small.params)) > 0
    check_same(model, small, images)
    assert hcjax.trim(small) is small


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(["padded", "alexnet_tiny"]), seed=st.integers(0, 999))
def test_the_function_stays_whatever_is_zero(name, seed):
    model, images = traced(name, True)
    model = sparse(model, seed)
    check_same(model, hcjax.trim(model), images)


def test_nothing_goes_where_nothing_is_empty():
    model, _ = traced("lenet5", True)
    assert hcjax.trim(model) is model


def test_a_masked_lenet_makes_a_smaller_file_without_its_empty_channels():
    model, images = traced("lenet5", True)
    rng = np.random.default_rng(0)
    kernels = {p: jnp.asarray(rng.normal(size=w.shape), w.dtype) for p, w in model.params.items()}
    model = model.replace(params=model.params | {p: kernels[p] for p in kernels if "kernel" in p})
    masks = hcjax.prune.masks(model.params, sparsity=0.999)
    sparse = model.replace(params=hcjax.prune.apply(masks, model.params))
    small = hcjax.trim(sparse)
    check_same(sparse, small, images)
    assert widths(small)[2] < 300
    assert hcjax.cost(small).parameters < hcjax.cost(sparse).parameters / 5
    assert len(hcjax.pack(small)) < len(hcjax.pack(sparse))


def one_hidden(kernel, bias, out, padding="VALID"):
    """conv, relu, conv of one hidden channel beside one that is alive."""
    params = {
        "a": jnp.stack([jnp.ones((1, 1, 3)), kernel], -1),
        "bias": jnp.array([0.0, bias]),
        "b": jnp.stack([jnp.ones((3, 3, 4)), out], 2),
        "c": jnp.ones((4, 10)) + jnp.arange(10.0),
    }

    @written({})
    def apply(p, x):
        y = jax.nn.relu(conv(x, p["a"]) + p["bias"])
        return conv(y, p["b"], padding).max((1, 2)) @ p["c"]

    images = normal(3, 6, 6, 3)
    return hcjax.trace(apply()[0], params, images), images


KERNEL, OUT = jnp.ones((1, 1, 3)), jnp.full((3, 3, 4), 0.5)


@pytest.mark.parametrize(
    "kernel, bias, out, padding, goes",
    [
        (KERNEL, 1.0, OUT, "VALID", False),  # alive
        (KERNEL, 1.0, OUT * 0, "SAME", True),  # nobody reads it
        (KERNEL * 0, -1.0, OUT, "SAME", True),  # relu makes it zero
        (KERNEL * 0, 1.0, OUT, "VALID", True),  # a constant that moves on
        (KERNEL * 0, 1.0, OUT, "SAME", False),  # a constant with borders
    ],
)
def test_a_channel_goes_only_where_that_is_exact(kernel, bias, out, padding, goes):
    model, images = one_hidden(kernel, bias, out, padding)
    for m in (model, hcjax.fold(model)):
        small = hcjax.trim(m)
        assert widths(small)[0] == (1 if goes else 2)
        check_same(m, small, images)
        if m is model:  # a constant behind a layer is folded like any other
            check_same(model, hcjax.fold(small), images)


def test_a_layer_keeps_a_channel_and_a_constant_network_stays_one():
    model, images = traced("lenet5", True)
    dead = model.params | {"conv2/kernel": jnp.zeros((5, 5, 20, 50))}
    model = model.replace(params=dead)
    small = hcjax.trim(model)
    assert widths(small) == [1, 1, 1]
    np.testing.assert_allclose(
        logits(small, small.params, images), logits(model, dead, images), rtol=1e-5
    )


def test_what_only_the_empty_reads_goes_too():
    a, b, c = jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.arange(50.0).reshape(5, 10)
    b = b.at[0, 1:].set(0)  # unit 0 is read by unit 0 alone, and that by nobody
    params = {"a": a, "b": b, "c": c.at[0].set(0)}
    images = normal(4, 3)
    model = hcjax.trace(
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], params, images
    )
    small = hcjax.trim(model)
    assert {p: leaf.shape for p, leaf in small.params.items()} == {
        "a": (3, 3), "b": (3, 4), "c": (4, 10)
    }  # fmt: skip
    assert [cut.kept for cut in small.cut if cut.path == "a"] == [(1, 2, 3)]
    check_same(model, small, images)
