"""trace, fold and cost on networks of several libraries: the same function, and honest errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax import cost, fold, trace
from tests.draws import normal
from tests.graph.networks import FROZEN, NETWORKS, nnx_cnn


def made(name):
    """Returns (apply, params, model, a batch of 3 random images)."""
    apply, params, image = NETWORKS[name]()
    images = normal(3, *image.shape[1:], seed=1)
    return apply, params, trace(apply, params, image, frozen=FROZEN.get(name, "")), images


MANY_OPS = ("haiku resnet", "haiku mobilenet", "resnet_tiny")
FEW = [pytest.param(n, marks=pytest.mark.slow) if n in MANY_OPS else n for n in NETWORKS]


@pytest.mark.parametrize("name", FEW)
def test_traced_and_folded_networks_are_the_same_function_at_any_batch_size(name):
    apply, params, model, images = made(name)
    expected = np.asarray(apply(params, images))
    assert np.ptp(expected) > 1e-3  # not a constant, which would prove nothing
    folded = fold(model)
    for m, tolerance in ((model, 1e-6), (folded, 1e-5)):
        for count in (1, 3):
            got = jax.jit(m.apply)(m.params, images[:count])
            scale = np.abs(expected).max()
            np.testing.assert_allclose(got, expected[:count], atol=tolerance * scale, rtol=0)
    assert len(folded.graph.ops) < len(model.graph.ops)


@pytest.mark.parametrize(
    "name", ["linen", "equinox", pytest.param("haiku resnet", marks=pytest.mark.slow), "dense"]
)
def test_gradients_are_the_functions_own(name):
    apply, params, model, images = made(name)
    theirs = jax.grad(lambda p: (apply(p, images) ** 2).sum(), allow_int=True)(params)
    ours = jax.grad(lambda p: (model.apply(p, images) ** 2).sum())(model.params)
    theirs = dict(hcjax.trees.paths(theirs))
    assert set(ours) <= set(theirs) and len(ours) > 1
    for path, gradient in ours.items():
        scale = float(jnp.abs(theirs[path]).max())
        np.testing.assert_allclose(gradient, theirs[path], atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("name", ["linen", "nnx", "haiku resnet", "haiku mobilenet"])
def test_fold_leaves_layers_with_a_kernel_and_a_bias(name):
    _, _, model, _ = made(name)
    folded = fold(model)
    assert "rsqrt" in [op.kind for op in model.graph.ops]
    assert not {"rsqrt", "sub"} & {op.kind for op in folded.graph.ops}
    layers = [op for op in folded.graph.ops if op.macs]
    assert all(len(op.inputs) == 3 for op in layers)  # image, kernel, bias
    assert len(folded.params) == 2 * len(layers)
    assert all(path.endswith(("/kernel", "/bias")) for path in folded.params)


def test_a_kernel_used_twice_stays_one_leaf():
    _, _, model, images = made("dense")
    folded = fold(model)
    assert len(model.params) == 5
    shared = [p for p in folded.params if folded.params[p].shape == (1, 1, 11, 11)]
    assert len(shared) == 1
    changed = folded.params | {shared[0]: folded.params[shared[0]] * 0}
    assert np.ptp(np.asarray(folded.apply(changed, images)), axis=0).max() < 1e-6


def test_statistics_are_constants_and_unused_leaves_are_listed():
    _, _, model, _ = made("nnx")
    assert not [p for p in model.params if "mean" in p or "var" in p]
    assert any("rngs" in p for p in model.dropped)
    with pytest.raises(ValueError, match=r"'x/\.\*' matches no parameter .* parameters are: w"):
        trace(lambda p, x: x @ p["w"], {"w": jnp.ones((4, 2))}, jnp.ones((1, 4)), frozen="x/.*")


def test_relu_keeps_its_gradient_at_zero():
    model = trace(lambda p, x: jax.nn.relu(x * p), jnp.ones(3), jnp.ones((1, 3)))
    gradient = jax.grad(lambda x: model.apply(model.params, x).sum())(jnp.zeros((1, 3)))
    assert gradient.tolist() == [[0, 0, 0]]
    assert [op.kind for op in model.graph.ops][-1] == "relu"


def test_a_custom_derivative_that_is_not_kept_is_listed():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,))
    model = trace(lambda p, x: rounded(x * p), jnp.ones(3), jnp.ones((1, 3)))
    assert len(model.plain) == 1 and "test_graph.py" in model.plain[0]


@pytest.mark.parametrize(
    "function, slope", [(lambda x: jnp.maximum(x, 0.1 * x), 0.1), (lambda x: jnp.maximum(x, 0), 1)]
)
def test_a_function_that_is_only_called_relu_stays_what_it_is(function, slope):
    @jax.custom_jvp
    @jax.jit
    def relu(x):
        return function(x)

    relu.defjvp(lambda x, t: (relu(*x), t[0] * jnp.where(x[0] > 0, 1, slope)))
    x = jnp.array([[-1.0, 0.5, 2.0]])
    model = trace(lambda p, x: relu(x * p), jnp.ones(3), x)
    np.testing.assert_array_equal(model.apply(model.params, x), relu(x))
    assert "relu" not in [op.kind for op in model.graph.ops] and len(model.plain) == 1


def dropped_out(p, x):
    return (x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape[1:])) @ p


def normalised(p, x):
    return (x - x.mean(0)) @ p


def counted(p, x):
    return (x @ p)[: int(x.shape[0])]


def scaled(p, x):
    return (x @ p) / x.shape[0]


def indexed(p, x):
    return (x @ p)[jnp.arange(x.shape[0])]


def turned(p, x):
    return (x @ p)[::-1]


def longer(p, x):
    return jnp.concatenate([x @ p, jnp.ones((1, 2))])[1:]


def halved(p, x):
    a, b = jnp.split(jnp.concatenate([x, 2 * x]), 2)
    return (a + b) @ p


@pytest.mark.parametrize(
    "apply, message",
    [
        (dropped_out, r"test_graph.py:\d+ \(dropped_out\).* draws random bits.*inference mode"),
        (normalised, r"test_graph.py:\d+ \(normalised\).* reduces over the batch.*inference mode"),
        (counted, r"test_graph.py:\d+: the network needs the batch size as a number"),
        (scaled, r"test_graph.py:\d+ \(scaled\): the network needs the batch size as a number"),
        (indexed, r"test_graph.py:\d+ \(indexed\).* counts the images of a batch"),
        (turned, r"test_graph.py:\d+ \(turned\): the network needs the batch size as a number"),
        (longer, r"test_graph.py:\d+ \(longer\): the network needs the batch size as a number"),
        (halved, r"test_graph.py:\d+ \(halved\).* mixes the images"),
        (lambda p, x: {"a": x @ p, "b": (x @ p).T}, r"b, float32\[2, b\], must have the examples"),
        (lambda p, x: (x @ p, p[0]), r"1, float32\[2\], does not depend on the inputs.*training"),
    ],
)
def test_what_is_no_network_in_inference_is_a_type_error_that_names_the_line(apply, message):
    with pytest.raises(TypeError, match=message):
        trace(apply, jnp.ones((4, 2)), jnp.ones((1, 4)))


def test_training_mode_of_a_library_is_named():
    apply, params, image = nnx_cnn(train=True)
    with pytest.raises(TypeError, match=r"networks.py:\d+ .*training mode"):
        trace(apply, params, image)


def test_params_and_images_of_other_shapes_are_refused():
    _, _, model, images = made("linen")
    with pytest.raises(ValueError, match=r"images must be \[N, 16, 16, 3\], got \(3, 8, 16, 3\)"):
        model.apply(model.params, images[:, :8])
    with pytest.raises(ValueError, match="params must have the structure"):
        model.apply({}, images)


def test_cost_counts_what_the_papers_count():
    network = hcjax.models.create("lenet5")
    params, state = network.init(jax.random.key(0))
    model = trace(hcjax.inference(network.apply, state), params, jnp.ones((1, 28, 28, 1)))
    # 24²·20·25 + 8²·50·500 + 800·500 + 500·10
    assert cost(model).macs == cost(fold(model)).macs == 2_293_000
    assert cost(model).parameters == cost(fold(model)).parameters == 431_080
    assert cost(model).weight_bytes == 4 * 431_080
    rows = cost(fold(model)).rows
    assert [row.name for row in rows] == ["conv1", "conv2", "dense1", "dense2"]
    assert rows[0].shape == (24, 24, 20) and rows[0].activation_bytes == 24 * 24 * 20 * 4
    table = str(cost(fold(model)))
    assert "2,293,000" in table and table.splitlines()[1].startswith("conv1")


def test_cost_divides_by_groups():
    x, k = jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 2, 6))

    def apply(p, x):
        y = lax.conv_general_dilated(
            x, p, (1, 1), "VALID", feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y.mean((1, 2))

    assert cost(trace(apply, k, x)).macs == 3 * 3 * 6 * 9 * 2


@pytest.mark.parametrize(
    "index, kinds",
    [
        ((..., slice(2, 7)), ["slice"]),
        ((slice(None), slice(None, None, 2), slice(1, None, 2)), ["slice"]),
        ((slice(None), slice(None, None, 2), slice(1, 3), slice(None, None, -1)), ["slice", "rev"]),
        ((slice(None), 0), ["slice", "reshape"]),
        ((..., slice(None, None, 3), -1), ["slice", "reshape"]),
        ((slice(None), slice(1, None), slice(None, -1)), ["slice"]),
        ((slice(None), np.array([1, 3])), ["slice"]),
        ((slice(None), np.array([1, 2, 5])), ["gather"]),
        ((slice(None), np.arange(6), np.arange(6)), ["gather"]),  # a diagonal
        ((..., slice(None), np.arange(0, 6, 2), np.arange(1, 4)), ["gather"]),
    ],
)
def test_indexing_is_a_slice(index, kinds):
    x = normal(3, 6, 6, 8)

    def apply(p, x):
        return x[index].reshape(x.shape[0], -1) * p

    model = trace(apply, jnp.float32(2.0), x)
    found = [op.kind for op in model.graph.ops if op.kind in ("slice", "reshape", "rev", "gather")]
    assert found == [*kinds, "reshape"]
    np.testing.assert_array_equal(model.apply(model.params, x), apply(2.0, x))


def test_a_split_is_slices():
    x = normal(3, 6, 8)

    def apply(p, x):
        a, b, c = jnp.split(x, [2, 5], axis=-1)
        return jnp.concatenate([c, a, b], -1).reshape(x.shape[0], -1) * p

    model = trace(apply, jnp.float32(2.0), x)
    assert [op.kind for op in model.graph.ops][:3] == ["slice"] * 3
    np.testing.assert_array_equal(model.apply(model.params, x), apply(2.0, x))


def test_stacks_and_reshapes_in_another_order_are_ops_that_a_file_holds():
    x = normal(3, 6, 8)

    def apply(p, x):
        a, b, *_ = jnp.unstack(x, axis=1)
        y = jnp.stack([b, a, a * p], 1) @ jnp.ones((8, 4))
        return lax.reshape(y, (x.shape[0], 12), dimensions=(0, 2, 1))

    model = trace(apply, jnp.float32(2.0), x)
    assert not {"stack", "unstack"} & {op.kind for op in model.graph.ops}
    np.testing.assert_array_equal(model.apply(model.params, x), apply(2.0, x))
    again = hcjax.unpack(hcjax.pack(model))
    np.testing.assert_array_equal(again.apply(again.params, x), apply(2.0, x))
