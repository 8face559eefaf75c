"""What the compiled training steps hold: a guard against slow steps that reads no clock.

Each finding is looked for in the plain step too, which has it: a reading that sees nothing fails.
"""

import functools
import math
import re
from collections import Counter

import jax
import numpy as np
import pytest
from jax import lax

import hcjax
from benchmarks import ours
from hcjax.accelerate import compiler
from hcjax.core import walker
from hcjax.native import onednn as native

BATCH = 128
SHAPES = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3)}
# FLOPs by those of the network's products; bytes accessed by the compiler's own count. Measured on
# jax 0.10.2 and 0.12.0.1: LeNet-5 1.02 and 0.13 GB, ResNet-20 0.94 and 3.05 GB.
FLOPS = {"lenet5": 1.05, "resnet20": 1.0}
BYTES = {"lenet5": 0.15e9, "resnet20": 3.3e9}
# of what `fit` compiles, where oneDNN's calls have no FLOPs to the compiler; with the options, on
# jax 0.11.2 and 0.12.0.1: LeNet-5 0.09 GB (plain 0.18), ResNet-20 3.62 GB (transposes for oneDNN)
FIT_BYTES = {"lenet5": 0.1e9, "resnet20": 3.9e9}
ONEDNN = {"__onednn$convolution", "__onednn$matmul"}


def products(name):
    """FLOPs of the products of a training step."""
    shape = SHAPES[name]
    network = hcjax.models.create(name, input_shape=shape)
    params, statistics = network.init(jax.random.key(0))
    predict = hcjax.inference(network.apply, statistics)
    cost = hcjax.cost(hcjax.trace(predict, params, np.zeros((1, *shape), np.float32)))
    return BATCH * 2 * (3 * cost.macs - cost.rows[0].macs)  # images have no gradient


@functools.cache
def lowered(name, way):
    """A training step before XLA: "plain", or rewritten by a table: "cpu", "cpu+native", …."""
    step, state = ours.step(name, SHAPES[name])
    if way != "plain":
        step = hcjax.accelerate(step, platform=way)
    return jax.jit(step, donate_argnums=0).lower(state, ours.batch(SHAPES[name], BATCH))


@functools.cache
def compiled(name, way, onednn=False):
    """A training step after XLA, with or without the compiler options of `fit`."""
    return lowered(name, way).compile(compiler.probed() if onednn else None)


def computations(text):
    return [part for part in re.split(r"\n(?=%|ENTRY)", text) if part.startswith("%")]


def recomputations(text):
    """Fusions that compute sums or selections again while they transpose a large array."""
    found = []
    for body in computations(text):
        ops = Counter(re.findall(r" = \S+ ([\w-]+)\(", body))
        shapes = re.findall(r"f32\[([\d,]+)\]", body)
        large = max((math.prod(map(int, shape.split(","))) for shape in shapes), default=0)
        moves = ops["transpose"] + ops["copy"]
        if moves and large > 1e5 and ops["add"] + ops["subtract"] + ops["maximum"] + ops["select"]:
            found.append(body.splitlines()[0])
    return found


def test_no_pool_is_differentiated_by_select_and_scatter():
    assert "select_and_scatter" in lowered("lenet5", "plain").as_text()
    assert "select_and_scatter" not in lowered("lenet5", "cpu").as_text()
    assert "select_and_scatter" not in lowered("lenet5", "cpu+native").as_text()


@pytest.mark.skipif(
    jax.version.__version_info__ < (0, 11),
    reason="jax 0.10's XLA removes barriers before it fuses, and computes the chains again",
)
def test_no_residual_chain_is_computed_again_inside_a_transpose():
    assert len(recomputations(compiled("resnet20", "plain").as_text())) > 10
    assert not recomputations(compiled("resnet20", "cpu").as_text())
    assert not recomputations(compiled("lenet5", "cpu").as_text())


@pytest.mark.parametrize("way", ["cpu", "cpu+native"])
@pytest.mark.parametrize("name", SHAPES)
def test_no_step_calls_the_host(name, way):
    callback = re.compile("callback", re.I)
    noisy = jax.jit(lambda x: jax.debug.print("{}", x)).lower(1.0).as_text()
    assert callback.search(noisy)
    assert not callback.search(lowered(name, way).as_text())


@pytest.mark.parametrize("name", SHAPES)
def test_flops_and_bytes_are_within_their_budgets(name):
    cost = compiled(name, "cpu").cost_analysis()
    assert cost["flops"] <= FLOPS[name] * products(name)
    assert cost["bytes accessed"] <= BYTES[name]
    # the plain LeNet's pools move more; ResNet-20's gain is not in these counts
    assert compiled("lenet5", "plain").cost_analysis()["bytes accessed"] > BYTES["lenet5"]


@pytest.fixture
def onednn():
    """True; skips a test where the compiler options of `fit` do not reach oneDNN."""
    if not compiler.probed():
        pytest.skip("no compiler options here")
    if jax.version.__version_info__ < (0, 11):
        pytest.skip("jaxlib 0.10 takes the options, and calls nothing")
    return True


def left_over(program):
    """What XLA computes itself of a program that oneDNN should compute: its lines."""
    return re.findall(r" = \S+ (?:convolution|select-and-scatter)\(.*", program.as_text())


def calls(program):
    """How often a compiled program calls what, outside of XLA's own code."""
    return Counter(re.findall(r'custom_call_target="([^"]+)"', program.as_text()))


@pytest.mark.parametrize("name", SHAPES)
def test_with_native_kernels_xla_is_left_no_convolution(name):
    if why := native.missing():
        pytest.skip(why)
    program = compiled(name, "cpu+native")
    asked = lowered(name, "plain").as_text().count("stablehlo.convolution(")
    found = {k.rpartition("_")[0]: n for k, n in calls(program).items() if k.startswith("hcjax")}
    assert sum(n for k, n in found.items() if k != "hcjax_loop") == asked
    assert not left_over(program)
    assert program.cost_analysis()["bytes accessed"] <= FIT_BYTES[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_step_that_fit_compiles_leaves_every_convolution_to_onednn(name, onednn):
    """Where there are no native kernels."""
    program = compiled(name, "cpu+onednn", onednn)
    ways = ("cpu", "cpu+onednn")
    asked = [lowered(name, w).as_text().count("stablehlo.convolution(") for w in ways]
    assert asked[0] < asked[1]  # kernel gradients go part by part of the batch
    assert calls(program)["__onednn$convolution"] == asked[1]
    assert set(calls(program)) <= ONEDNN  # and no other: none of the host's
    assert not left_over(program)
    assert not recomputations(program.as_text())
    assert program.cost_analysis()["bytes accessed"] <= FIT_BYTES[name]


def test_a_plain_step_with_the_same_options_has_what_the_rewritten_one_has_not(onednn):
    program = compiled("resnet20", "plain", onednn)
    assert left_over(program) and len(recomputations(program.as_text())) > 10
    program = compiled("lenet5", "plain", onednn)
    assert program.cost_analysis()["bytes accessed"] > FIT_BYTES["lenet5"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_scanned_step_holds_canonical_convolutions_only(name):
    step, state = ours.step(name, SHAPES[name])
    batch = ours.batch(SHAPES[name], BATCH)
    batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), batch)

    def several(s, b):
        return lax.scan(lambda s, b: (step(s, b), None), s, b)[0]

    def layouts(fn):
        found = []
        for eqn, place in walker.equations(jax.make_jaxpr(fn)(state, batches)):
            if place.loop and eqn.primitive.name == "conv_general_dilated":
                d = eqn.params["dimension_numbers"]
                found.append((d.lhs_spec, d.rhs_spec, d.out_spec))
        return set(found)

    canonical = {((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))}
    assert layouts(hcjax.accelerate(several, platform="cpu")) == canonical
    assert layouts(several) > canonical
