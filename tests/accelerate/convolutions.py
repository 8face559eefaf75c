"""Convolutions to try rules on: drawn in any form, of small integers, whose sums are exact."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from hcjax.accelerate import compiler
from hcjax.accelerate.accelerate import accelerate, explanation
from hcjax.accelerate.rules import RULES

TABLES = ("cpu", "cpu+onednn", "cpu+native")
LAYOUTS = {
    1: [("NWC", "WIO", "NWC"), ("NCW", "OIW", "NCW")],
    2: [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("HWNC", "IHWO", "CNHW")],
    3: [("NHWDC", "HWDIO", "NHWDC")],
}
TAPS = {1: 5, 2: 3, 3: 2}  # of a plain layer along an axis, at least, by rank


def integers(shape, dtype, seed):
    """Returns random integers; bfloat16's are -1 to 1, for sums to stay where it is exact."""
    most = 1 if dtype == "bfloat16" else 3
    values = np.random.default_rng(seed).integers(-most, most + 1, shape)
    return jnp.asarray(values, dtype)


def operands(layout, sizes, dtype, seed=0):
    """Returns image and kernel in a layout, of sizes {'N': 2, 'h': 3, ...}; a kernel's are H, W."""
    image = [sizes[letter.lower() if letter in "HWD" else letter] for letter in layout[0]]
    kernel = [sizes[letter] for letter in layout[1]]
    return integers(image, dtype, seed), integers(kernel, dtype, seed + 1)


@st.composite
def convolutions(draw):
    """Draws (image, kernel, keywords of lax.conv_general_dilated): any layout, stride and group.

    Every second is a plain layer of many channels: most training goes into such kernel gradients.
    """
    plain = draw(st.booleans())
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    layout = draw(st.sampled_from(LAYOUTS[rank]))
    groups = 1 if plain else draw(st.sampled_from([1, 1, 2, 3]))
    per_group = draw(st.sampled_from([9, 16]) if plain else st.integers(1, 2))
    sizes = {
        "N": draw(st.sampled_from([1, 2, 8])),
        "C": groups * per_group,
        "I": per_group,
        "O": groups * draw(st.integers(1, 3)),
    }
    dilation = draw(st.sampled_from([1, 1, 1, 2] if plain else [1, 1, 2]))
    taps = st.integers(TAPS[rank], TAPS[rank] + 1) if plain else st.integers(1, 3)
    more = st.integers(2, 5) if plain else st.integers(0, 4)
    for letter in "HWD"[-rank:] if rank == 1 else "HWD"[:rank]:
        sizes[letter] = draw(taps)
        sizes[letter.lower()] = (sizes[letter] - 1) * dilation + 1 + draw(more)
    if rank == 1:
        sizes["W"], sizes["w"] = sizes.pop("D"), sizes.pop("d")
    pad = st.integers(0, 2)
    dtype = draw(st.sampled_from(["float32", "float32", "bfloat16"]))
    x, k = operands(layout, sizes, dtype, draw(st.integers(0, 99)))
    spread = st.just(1) if plain else st.sampled_from([1, 1, 2, 3])
    return x, k, {
        "window_strides": [draw(st.integers(1, 2 if plain else 3)) for _ in range(rank)],
        "padding": [(draw(pad), draw(pad)) for _ in range(rank)],
        "rhs_dilation": [dilation] * rank,
        "lhs_dilation": [draw(spread) for _ in range(rank)],
        "feature_group_count": groups,
        "dimension_numbers": layout,
    }  # fmt: skip


def chosen(fn, *args, table="cpu+onednn"):
    """Returns the names of the rules that a table chooses in a function, in order."""
    rows = explanation(fn, *args, table=RULES[table])
    return [verdict.split(":")[0] for _, _, verdict in rows if "does not apply" not in verdict]


def compiled(fn, table, *, loop=False):
    """Returns a function jitted as programs of a table are; None for the plain one."""
    fast = table == "cpu+onednn" and not loop  # over a loop's convolutions the compiler hangs
    return jax.jit(fn, compiler_options=compiler.probed() if fast else {})


def everything(table, how, x, k, *, loop):
    """Returns value, gradients and directional derivative, rewritten before and after jax.grad.

    table: of `RULES`; None for the plain primitive.
    """
    wrap = (lambda f: accelerate(f, platform=table)) if table else (lambda f: f)

    def plain(x, k):
        return lax.conv_general_dilated(x, k, **how)

    def once(x, k):
        return {
            "value": wrap(plain)(x, k),
            "gradient of the rewrite": jax.grad(score(wrap(plain)), (0, 1))(x, k),
            "rewritten gradient": wrap(jax.grad(score(plain), (0, 1)))(x, k),
            "derivative of the rewrite": jax.jvp(wrap(plain), (x, k), (x, k)),
        }

    def repeated(x, k):
        def body(carry, _):
            return carry, jax.grad(score(plain), (0, 1))(x, k)

        return wrap(lambda x, k: lax.scan(body, 0, None, length=2)[1])(x, k)

    return compiled(repeated if loop else once, table, loop=loop)(x, k)


def score(f):
    """Returns a function's results summed up to one number, each with a small weight."""

    def total(y):
        weights = jnp.asarray(np.arange(y.size).reshape(y.shape) % 4 - 1, y.dtype)
        return (y * weights).astype(jnp.float32).sum()

    return lambda *args: sum(map(total, jax.tree.leaves(f(*args))))
