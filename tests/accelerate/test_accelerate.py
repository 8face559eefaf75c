"""`accelerate`: the same function in every context of jax, and itself where it knows nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import hcjax
from hcjax import accelerate
from hcjax.core import walker

fast = functools.partial(accelerate, platform="cpu")
X = jnp.asarray(np.random.default_rng(0).integers(-3, 4, (4, 6, 6, 3)), jnp.float32)
K = jnp.asarray(np.random.default_rng(1).integers(-3, 4, (3, 3, 3, 3)), jnp.float32)


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def layer(x, k=K):
    return lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def score(x, k=K):
    return (pool(jax.nn.relu(layer(x, k))) ** 2).sum()


def slow_names(fn, *args):
    """Returns the primitives of a function, nested bodies included, that a rule would replace."""
    names = [e.primitive.name for e, _ in walker.equations(jax.make_jaxpr(fn)(*args))]
    return [n for n in names if n.startswith(("reduce_window", "select_and"))]


def repeated(x):
    return lax.scan(lambda c, k: (layer(c, k) / 128, pool(c)), x, jnp.stack([K, -K]))


def until(x):
    return lax.while_loop(lambda s: s[1] < 3, lambda s: (layer(s[0]) / 128, s[1] + 1), (x, 0))


def chosen(x):
    return lax.cond(x.sum() > 0, pool, lambda x: -pool(-x), x)


@jax.custom_vjp
def straight_through(x):
    return jnp.round(pool(x))


straight_through.defvjp(lambda x: (straight_through(x), x.shape), lambda s, g: (jnp.full(s, 7.0),))

BODIES = {
    "jit": jax.jit(score),
    "grad": jax.grad(score),
    "value_and_grad": jax.value_and_grad(score, argnums=0),
    "vmap": jax.vmap(lambda x: pool(x[None])),
    "scan": repeated,
    "gradient of a scan": jax.grad(lambda x: repeated(x)[0].sum()),
    "while": until,
    "cond": chosen,
    "gradient of a cond": jax.grad(lambda x: chosen(x).sum()),
    "remat": jax.grad(jax.checkpoint(score)),
    "custom_vjp": straight_through,
    "gradient of a custom_vjp": jax.grad(lambda x: straight_through(layer(x)).sum()),
    "hessian-vector product": lambda x: jax.jvp(jax.grad(score), (x,), (x,))[1],
    "nested": jax.jit(lambda x: jax.checkpoint(lambda x: repeated(jax.jit(layer)(x)))(x)),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_rewritten_and_results_stay(name):
    fn = BODIES[name]
    for ours in (fast(fn), jax.jit(fast(fn)), fast(jax.jit(fn))):
        jax.tree.map(np.testing.assert_array_equal, ours(X), fn(X))
    before = slow_names(fn, X)
    assert not slow_names(fast(fn), X) or "custom" in name or name.startswith("hess"), before


def test_it_can_be_differentiated_mapped_and_rematerialised():
    outer = {
        "grad": lambda f: jax.grad(lambda x: f(x).sum()),
        "vmap": lambda f: jax.vmap(lambda x: f(x[None])),
        "scan": lambda f: lambda x: lax.scan(lambda c, _: (c, f(x)), 0, None, length=2)[1],
        "remat": lambda f: jax.grad(lambda x: jax.checkpoint(f)(x).sum()),
        "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
        "itself": lambda f: fast(f),
    }
    for transform in outer.values():
        block = lambda x: pool(jax.nn.relu(layer(x)))
        expected = transform(block)(X)
        jax.tree.map(np.testing.assert_array_equal, transform(fast(block))(X), expected)


def test_custom_derivatives_stay_custom():
    ste = jax.grad(fast(lambda x: straight_through(layer(x)).sum()))
    np.testing.assert_array_equal(ste(X), jax.grad(lambda x: straight_through(layer(x)).sum())(X))
    relu = lambda x: jax.nn.relu(layer(x) * 0).sum()  # at 0, where the gradient is defined as 0
    assert not jax.grad(fast(relu))(X).any() and not fast(jax.grad(relu))(X).any()


def test_trees_keywords_and_static_leaves_pass_through():
    seen = []

    def fn(tree, *, scale=1, mode="plain", flip=False):
        seen.append((scale, mode, flip))
        y = pool(tree["x"]) * scale
        return {"y": -y if flip else y, "mode": tree["k"].sum()}

    ours = fast(fn)
    tree = {"x": X, "k": K, "none": None}
    first = ours(tree, scale=3, mode="other", flip=True)
    np.testing.assert_array_equal(first["y"], -3 * pool(X))
    assert seen == [(3, "other", True)]
    ours({**tree, "x": X + 1}, scale=3, mode="other", flip=True)
    assert len(seen) == 1  # the same shapes: not traced again
    ours({**tree, "x": X[:2]}, scale=3, mode="other", flip=True)
    ours(tree, scale=1.0, mode="other", flip=True)
    assert len(seen) == 3 and isinstance(seen[-1][0], float)
    ours(tree, scale=1, mode="other", flip=True)
    assert len(seen) == 4 and isinstance(seen[-1][0], int)  # 1 == 1.0, but not the same call


def test_a_static_leaf_without_a_hash_is_traced_each_time():
    class Loud:
        __hash__ = None

        def __init__(self):
            self.value = 2.0

    ours = fast(lambda x, loud: pool(x) * loud.value)
    np.testing.assert_array_equal(ours(X, Loud()), 2 * pool(X))


def test_values_of_an_enclosing_trace_are_not_kept():
    def outer(scale):
        inner = fast(lambda x: pool(x) * scale)
        return inner(X).sum() + inner(X).max()

    for transform in (jax.jit, jax.grad):
        np.testing.assert_allclose(
            transform(outer)(2.0),
            transform(lambda s: (pool(X) * s).sum() + (pool(X) * s).max())(2.0),
        )


def test_effects_and_donation_stay():
    printed = []

    def step(x, k):
        jax.debug.callback(lambda v: printed.append(float(v)), x.sum())
        return x - jax.grad(score)(x, k), k

    ours = fast(jax.jit(step, donate_argnums=0))
    x = X + 0
    out, _ = ours(x, K)
    jax.effects_barrier()
    np.testing.assert_array_equal(out, X - jax.grad(score)(X))
    assert printed == [float(X.sum())]
    assert x.is_deleted()


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_platform_without_a_table_calls_the_function_itself(platform):
    calls = []
    out = accelerate(lambda *a, **k: calls.append((a, k)), platform=platform)(1, "x", y=[2])
    assert out is None and calls == [((1, "x"), {"y": [2]})]


def test_a_function_without_patterns_is_called_itself():
    jaxpr = jax.make_jaxpr(fast(jnp.sin))(X)
    assert [e.primitive.name for e in jaxpr.jaxpr.eqns] == ["sin"]


def test_a_whole_training_step_is_the_same_to_float_rounding():
    init, apply = hcjax.models.create("lenet5", filters=(4, 6), hidden=8)
    params, state = init(jax.random.key(0))
    data = hcjax.data.load("mnist", limit=64)
    tx = optax.adam(1e-3)
    prepare = hcjax.data.make_prepare(
        mean=data.mean, std=data.std, num_classes=10, augment=[("shift", {"pixels": 2})]
    )
    loss_fn = hcjax.make_loss_fn(apply, hcjax.losses.cross_entropy)
    step = hcjax.make_train_step(loss_fn, tx, prepare=prepare)
    results = []
    for one in (step, fast(step)):
        train_state = hcjax.init_state(params, state, tx)
        for batch in hcjax.data.train_batches(data.train, seed=0, batch_size=32, stop=3):
            train_state, sums = jax.jit(one)(train_state, batch, jax.random.key(1))
        results.append((train_state.params, sums["loss"]))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(close, *results)


def test_explain_names_the_line_the_rule_and_the_reason(capsys):
    hcjax.explain(jax.grad(score), X, platform="cpu")
    text = capsys.readouterr().out
    assert "test_accelerate.py" in text and "(pool)" in text
    assert "max_pool_gradient: Sends each window's gradient" in text
    hcjax.explain(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (9, 9), (1, 1), "SAME"),
                  jnp.ones((9, 9)), platform="cpu")  # fmt: skip
    assert "max_pool does not apply: a window of more than 64" in capsys.readouterr().out
