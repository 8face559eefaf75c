"""Which reading knows what of which kind of op: tried on a network of each, and a page of the docs.

`python -m tests.graph.test_coverage` writes docs/ops.md anew.
"""

import importlib
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.graph import channels
from hcjax.graph.ops import KINDS
from hcjax.graph.ops.kind import CONSTANT, INTEGER, LAYER
from hcjax.quantize.ptq.equalize import pairs
from tests.tiny import ROOT

READINGS = ("trace", "batch", "cost", "fold", "channels", "liveness", "equalize", "fake", "int8",
            "pack", "stablehlo")  # fmt: skip
# target -> (module, name) of the table kind -> emitter of what it writes
EMITTERS = {"c": ("hcjax.export.c.source", "EMITTERS"),
            "onnx": ("hcjax.export.onnx.export", "FLOAT")}  # fmt: skip
N, H, W, C = 6, 4, 4, 8
_POOL = ((1, 2, 2, 1), (1, 2, 2, 1), "VALID")
_POSITIVE = {"log", "sqrt", "rsqrt", "cbrt", "digamma", "lgamma", "pow", "acosh", "log1p", "div"}
_BITS = {"shift_left", "shift_right_arithmetic", "shift_right_logical", "population_count", "clz",
         "xor", "or", "and", "not"}  # fmt: skip
_UNIT = {"acos", "asin", "atanh", "erf_inv"}


def elementwise(kind):
    """Returns a function of float[N, H, W, C] with an elementwise op of a kind in it."""
    names = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "bitwise_not"}
    given = {
        "relu": jax.nn.relu,
        "relu6": jax.nn.relu6,
        "clamp": lambda x: lax.clamp(-0.5, x, 0.5),
        "integer_pow": lambda x: x**3,
        "round": jnp.round,
        "reduce_precision": lambda x: lax.reduce_precision(x, 8, 7),
        "select_n": lambda x: jnp.where(x > 0, x, 0.1 * x),
        "convert_element_type": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
        "is_finite": lambda x: jnp.where(jnp.isfinite(x), x, 0.0),
    }
    if kind in given:
        return given[kind]
    function = getattr(lax, names.get(kind, kind))
    if kind in ("eq", "ne", "lt", "le", "gt", "ge"):
        return lambda x: jnp.where(function(x, jnp.full_like(x, 0.25)), x, -x)
    if kind in ("and", "or", "xor"):
        return lambda x: jnp.where(function(x > -0.3, x < 0.3), x, 0.5 * x)
    if kind == "not":
        return lambda x: jnp.where(~(x > 0.1), x, 0.5 * x)
    if kind in _BITS:
        ones = (lambda i: (i, jnp.ones_like(i))) if kind.startswith("shift") else (lambda i: (i,))
        return lambda x: function(*ones((4 * jnp.abs(x)).astype(jnp.int32))).astype(jnp.float32)
    if kind in ("add", "sub", "mul", "max", "min", "atan2", "rem", "nextafter", "pow", "div"):
        side = 0.7 if kind != "max" else -0.2
        shaped = lambda x: jnp.abs(x) + 0.5 if kind in _POSITIVE else x
        return lambda x: function(shaped(x), jnp.full_like(x, side))
    if kind in _POSITIVE:
        return lambda x: function(jnp.abs(x) + 1.5)
    if kind in _UNIT:
        return lambda x: function(0.9 * jnp.tanh(x))
    return function


EXAMPLES = {
    "reshape": lambda x: x.reshape(x.shape[0], H * W, C).reshape(x.shape),
    "transpose": lambda x: x.transpose(0, 2, 1, 3),
    "squeeze": lambda x: x[:, :1].squeeze(1)[:, None],
    "broadcast_in_dim": lambda x: x + jnp.broadcast_to(x[:, :1], x.shape),
    "rev": lambda x: x[:, ::-1],
    "slice": lambda x: x[:, 1:],
    "copy": lambda x: jnp.array(x, copy=True),
    "stop_gradient": lax.stop_gradient,
    "gather": lambda x: jax.image.resize(x, (x.shape[0], 2 * H, 2 * W, C), "nearest"),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "concatenate": lambda x: jnp.concatenate([x, x[:, 1:3]], 1),
    "iota": lambda x: x + jnp.arange(C, dtype=jnp.float32),
    "scan": lambda x: lax.scan(lambda c, _: (0.999 * c + 0.001 * x, None), x, None, 600)[0],
    "cond": lambda x: lax.cond(jnp.asarray(1) > 0, jnp.sin, jnp.cos, x),
    "reduce_sum": lambda x: x.sum(1, keepdims=True),
    "reduce_max": lambda x: x.max(1, keepdims=True),
    "reduce_min": lambda x: x.min(1, keepdims=True),
    "reduce_prod": lambda x: x[:, :2].prod(1, keepdims=True),
    "reduce_and": lambda x: jnp.where((x > -9).all(1, keepdims=True), x, 0.0),
    "reduce_or": lambda x: jnp.where((x > 0).any(1, keepdims=True), x, 0.0),
    "argmax": lambda x: x * jnp.argmax(x, 1, keepdims=True),
    "argmin": lambda x: x * jnp.argmin(x, 1, keepdims=True),
    "reduce_window_sum": lambda x: lax.reduce_window(x, 0.0, lax.add, *_POOL),
    "reduce_window_max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *_POOL),
    "reduce_window_min": lambda x: lax.reduce_window(x, jnp.inf, lax.min, *_POOL),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cummax": lambda x: lax.cummax(x, 1),
    "cummin": lambda x: lax.cummin(x, 1),
    "cumprod": lambda x: lax.cumprod(x, 1),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "sort": lambda x: jnp.sort(x, 1),
    "top_k": lambda x: jnp.moveaxis(lax.top_k(jnp.moveaxis(x, 1, -1), 2)[0], -1, 1),
}
LAYERS = {
    "dot_general": lambda x, w: x @ w,
    "conv_general_dilated": lambda x, w: lax.conv_general_dilated(
        x, w[None, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
}
# made by the quantizers and by `share`, never traced: their rows are tested with the networks there
MADE = {name for name, kind in KINDS.items() if kind.family == INTEGER}
# (kind, reading) -> why it has no rule there
HOLES = {
    **dict.fromkeys(
        [(k, r) for k in ("reduce_prod", "argmax", "argmin", "cumprod",
                          "cumlogsumexp") for r in ("fake", "int8")],
        "stays in float, listed: no integer form is exact",
    ),
    **dict.fromkeys(
        [(k, r) for k in ("scan", "cond") for r in ("channels", "fake", "int8")],
        "its body is a graph of its own, in float",
    ),
    ("iota", "channels"): "its numbers are places: what it is added to keeps its channels",
}  # fmt: skip


def network(kind):
    """Returns (apply, params, images) of a network with an op of a kind between two layers."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)
    params = {"a": draw(3, C), "b": draw(C, C), "c": draw(C, 5)}
    middle = EXAMPLES.get(kind) or (elementwise(kind) if kind not in LAYERS else None)

    def apply(p, x):
        y = jax.nn.relu(x @ p["a"]) - 0.3 * (x @ p["a"])
        y = LAYERS[kind](y, p["b"]) if middle is None else middle(y) @ p["b"]
        return jax.nn.relu(y).mean((1, 2)) @ p["c"]

    return apply, params, jnp.asarray(rng.uniform(-1, 1, size=(N, H, W, 3)), jnp.float32)


def row(kind):
    """Returns reading -> "yes", "float" (not in integers), "kept", "-" (nothing to do) or "no"."""
    apply, params, images = network(kind)
    model = hcjax.trace(apply, params, images)
    (op, *_) = [op for op in model.graph.ops if op.kind == kind] or [None]
    if op is None and KINDS[kind].family != CONSTANT:
        return {"trace": "no"}
    expected = np.asarray(jax.jit(apply)(params, images))
    same = lambda m: np.allclose(m.apply(m.params, images), expected, rtol=1e-4, atol=1e-5)
    found = {"trace": "yes" if same(model) else "no", "batch": "yes"}  # trace checks the batch axis
    layer = KINDS[kind].family == LAYER
    found["cost"] = "yes" if not layer or op.macs else "no"
    affine = "affine" in KINDS[kind].traits
    folded = hcjax.fold(model)
    found["fold"] = ("yes" if layer or affine else "-") if same(folded) else "no"
    reasons = channels(model).kept.values()
    followed = not any(f"({kind}) cannot be followed" in reason for reason in reasons)
    found["channels"] = "yes" if followed else "kept"
    half = {**model.params, "a": model.params["a"].at[:, : C // 2].set(0.0)}
    masked = model.replace(params=half)
    small = hcjax.trim(masked)
    alike = np.allclose(
        small.apply(small.params, images), masked.apply(half, images), rtol=1e-4, atol=1e-5
    )
    found["liveness"] = "yes" if alike else "no"
    even = hcjax.equalize(folded)
    scaled = any("homogeneous" in KINDS[kind].traits or layer for _ in pairs(folded))
    found["equalize"] = ("yes" if scaled else "-") if same(even) else "no"
    fake = hcjax.fake_quantize(folded, hcjax.calibrate(folded, images))
    listed = any(text.startswith(f"{kind} ") for text in fake.floats)
    found["fake"] = "float" if listed else "yes"
    small = hcjax.int8(fake)
    ours, theirs = (np.asarray(jax.jit(m.apply)(m.params, images)) for m in (small, fake))
    near = np.abs(ours - expected).max() < 0.2 * np.ptp(expected)
    found["int8"] = ("float" if listed else "yes") if (ours == theirs).all() and near else "no"
    back = hcjax.unpack(hcjax.pack(small))
    held = hcjax.unpack(hcjax.pack(model))
    bits = np.array_equal(np.asarray(jax.jit(back.apply)(back.params, images)), ours)
    found["pack"] = "yes" if bits and same(held) else "no"
    program = jax.export.deserialize(bytearray(hcjax.export.stablehlo(small)))
    theirs = jax.jit(program.call)(images)
    found["stablehlo"] = "yes" if np.array_equal(theirs, ours, equal_nan=True) else "no"
    return found


def written(kind):
    """Returns target -> whether it has a form of a kind, of targets that write op by op."""
    found = {}
    for target, (module, name) in EMITTERS.items():
        with suppress(ModuleNotFoundError):  # of an extra that is not installed
            table = getattr(importlib.import_module(module), name)
            found[target] = "yes" if kind in table else "no"
    return found


# one of each kind of rule; the others are slow, and most of them long, for there are a hundred
QUICK = ("cumsum", "dot_general", "gather", "reduce_window_min", "tanh")
TRIED = [kind for kind in KINDS if kind not in MADE]


def tier(index):
    """Returns the marks of a kind, by its place among those that are tried."""
    if TRIED[index] in QUICK:
        return ()
    return (pytest.mark.slow,) if index % 8 == 0 else (pytest.mark.slow, pytest.mark.long)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=tier(i)) for i, k in enumerate(TRIED)])
def test_every_reading_knows_the_kind(kind):
    found = row(kind)
    assert list(found) == list(READINGS)
    for reading, answer in found.items():
        expected = {"float", "kept"} if (kind, reading) in HOLES else {"yes", "-"}
        assert answer in expected, (kind, reading, answer)


def table():
    """Returns the page of the docs."""
    head = ["kind", "family", *READINGS, *written("add")]
    rows = [head, ["---"] * len(head)]
    for kind in sorted(set(KINDS) - MADE):
        found = row(kind) | written(kind)
        rows.append([f"`{kind}`", KINDS[kind].family, *found.values()])
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    made = ", ".join(f"`{kind}`" for kind in sorted(MADE))
    return f"""# Ops and readings

Which reading of the graph knows what of which kind of op. Written by
`python -m tests.graph.test_coverage`, which tries each on a small network; a test fails where an
answer gets worse.

- **yes**: it has a rule, and the network's answers stayed right.
- **float**: computed in float32 in an integer network, and listed in `Model.floats`.
- **kept**: its channels are kept whole, with a reason.
- **-**: there is nothing for this reading to do.

The last columns are [targets](export.md) of an export; StableHLO is compared by its bits.

{chr(10).join(lines)}

Made by the quantizers and by `share`, never traced: {made}. Any other kind is traced and run as it
is, its channels are kept whole, it stays in float, and `pack` refuses it with its source line.
"""


def test_the_page_of_the_docs_lists_every_kind():
    page = (ROOT / "docs" / "ops.md").read_text()
    missing = [k for k in KINDS if f"`{k}`" not in page]
    assert missing == [], "write docs/ops.md anew: python -m tests.graph.test_coverage"


if __name__ == "__main__":
    print((ROOT / "docs" / "ops.md").write_text(table()))
