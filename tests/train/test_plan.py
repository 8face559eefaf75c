"""Plans of real steps, compiled for TPUs that are not there (by tpu_plans.py, once)."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hcjax.devices import libtpu
from hcjax.errors import ConfigError, DependencyError
from hcjax.train.plan import chips, planner

ROOT = Path(__file__).resolve().parents[2]


def missing() -> str:
    """Returns why nothing can be compiled for a TPU here; "" if it can."""
    try:
        libtpu.version()
    except DependencyError as error:
        return f"needs the extra 'tpu' (pip install -e '.[tpu]'): {error}"
    return ""


needs_libtpu = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def compiled(pytestconfig, tmp_path_factory):
    """Returns what tpu_plans.py printed of a kind, by (model, topology), and what to stderr."""
    kept = getattr(pytestconfig, "cache", None)  # by the program's hash: a second run is quick
    cache = kept.mkdir("tpu-plans") if kept else tmp_path_factory.mktemp("tpu-plans")
    script = Path(__file__).with_name("tpu_plans.py")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

    @functools.cache  # of a failure too: it takes minutes
    def ran(what):
        return subprocess.run(
            [sys.executable, str(script), what, str(cache)],
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def run(what):
        done = ran(what)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return {(x["model"], x["plan"]["topology"]): x for x in lines}, done.stderr

    return run


BOTH = [(m, t) for m in ("lenet5", "resnet20") for t in ("v5e:2x4", "v5e:16x16", "v6e:4x4")]


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("model", "topology"), BOTH)
def test_all_that_a_step_communicates_is_one_all_reduce_over_all_chips(compiled, model, topology):
    found = compiled("networks")[0][model, topology]
    train = found["plan"]["train"]
    # The combiner joins all-reduces of one type that do not wait for each other: here, all.
    assert [c["kind"] for c in train["collectives"]] == ["all-reduce"]
    assert train["all_reduces"] == 1
    assert train["other_collectives"] == []
    reduced = train["collectives"][0]
    assert (reduced["group"], reduced["groups"]) == (found["plan"]["chips"], 1)
    # Gradients and running statistics by their shapes; count, correct, nll and loss are scalars.
    shapes = sorted([dtype, sizes] for dtype, sizes in reduced["shapes"])
    assert shapes == sorted(["f32", sizes] for sizes in [*found["leaves"], [], [], [], []])
    expected = sum(4 * int(np.prod(sizes)) for sizes in found["leaves"]) + 4 * 4
    assert train["all_reduce_bytes"] == expected


@needs_libtpu
@pytest.mark.slow
def test_synchronised_batchnorm_adds_two_all_reduces_per_layer(compiled):
    found = compiled("networks")[0]["resnet_tiny", "v5e:2x4"]
    train = found["plan"]["train"]
    print(f"{found['norms']} synchronised layers: {train['all_reduces']} all-reduces")
    assert found["norms"] == 7
    assert train["all_reduces"] == 1 + 2 * 7  # forward: mean and mean square; backward: theirs
    assert train["all_reduced_over_all_chips"]
    assert train["other_collectives"] == []


@needs_libtpu
@pytest.mark.slow
def test_the_numbers_of_lenet_are_those_counted_by_hand(compiled):
    found = compiled("networks")[0]["lenet5", "v5e:2x4"]
    train, score = found["plan"]["train"], found["plan"]["eval"]
    conv1, rest = 24 * 24 * 25 * 20, 8 * 8 * 25 * 20 * 50 + 800 * 500 + 500 * 10
    # multiplications and additions; backward twice the forward, less the images' own gradient
    assert train["flops"] / 8 == pytest.approx(2 * (3 * rest + 2 * conv1), rel=0.06)
    assert score["flops"] / 8 == pytest.approx(2 * (rest + conv1), rel=0.06)
    assert train["memory"]["parameters"] == 4 * 431_080 == found["parameters_bytes"]
    assert train["memory"]["optimizer"] == 4 * 431_080  # momentum
    # A step reads parameters, momentum and images and writes the first two: no less than that.
    assert train["hbm_bytes"] > 4 * (4 * 431_080)
    assert train["memory"]["peak"] < train["memory"]["available"] == int(15.75 * 2**30)
    # Evaluation adds up integers and floats, each type in one all-reduce.
    assert score["all_reduces"] == 2
    assert score["all_reduced_over_all_chips"]
    assert score["other_collectives"] == []


@needs_libtpu
@pytest.mark.slow
def test_the_compiler_s_noise_is_not_seen(compiled):
    found, said = compiled("networks")
    lines = [x for x in said.splitlines() if not x.startswith("waiting for another --plan")]
    assert len(lines) == 2 * 8  # two a compilation, ours
    assert all(re.match(r"compiling \d of about \d: the ", line) for line in lines[::2])
    assert all(re.fullmatch(r"  \d+\.\d s", line) for line in lines[1::2])
    text = found["lenet5", "v5e:2x4"]["text"]
    assert "plan for v5e:2x4 (v5litepod-8)" in text
    assert "with less search: the program of the full search may move" in text


def test_without_libtpu_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    label = np.zeros(8, np.int32)
    with pytest.raises(DependencyError, match=r"pip install 'hcjax\[tpu\]'"):
        planner.plan(None, None, None, {"label": label}, topology="v5e:2x4", say=print)


def test_a_batch_that_the_chips_do_not_divide_is_refused_before_compiling():
    label = np.zeros(100, np.int32)
    with pytest.raises(ConfigError, match="multiple of 256"):
        planner.plan(None, None, None, {"label": label}, topology="v5e:16x16")


@needs_libtpu
@pytest.mark.slow
def test_an_int8_network_multiplies_int8_into_int32_on_a_tpu(compiled):
    found = compiled("networks")[0]["integers", "v5e:2x2"]
    assert found["layers"] == 8
    assert found["products"] == [["s32", "s8", "s8"]] * found["layers"]


@needs_libtpu
@pytest.mark.slow
def test_every_generation_of_the_docs_is_compiled_for(compiled):
    found = compiled("generations")[0]
    plans = {topology: line["plan"] for (kind, topology), line in found.items() if "tiny" in kind}
    assert {topology.partition(":")[0] for topology in plans} == set(chips.CHIPS)
    assert set(chips.EXAMPLES.split(", ")) <= set(plans)
    for topology, plan in plans.items():
        assert plan["train"]["flops"] > 0 and plan["train"]["all_reduced_over_all_chips"], topology
        assert plan["train"]["memory"]["peak"] < plan["train"]["memory"]["available"]
    whole = plans["v5e:4x4"]
    assert [row["topology"] for row in whole["scaling"]] == ["v5e:2x2", "v5e:2x4", "v5e:4x4"]
    assert whole["eval"]["flops"] > 0 and whole["largest_batch"]["per_chip"] > 1000
    # a program that is refused says what it needs, or the search for a batch would be a guess
    needed = [line["needed"] for (kind, _), line in found.items() if kind == "refused"]
    size = 3 * 4 * 200_000**2  # at least two of these three arrays at once
    assert len(needed) == 5 and all(size / 3 < bytes_ <= 1.1 * size for bytes_ in needed)


@needs_libtpu
@pytest.mark.slow
def test_every_config_is_lowered_for_a_tpu_without_its_data(compiled):
    found = compiled("configs")[0]
    assert {name for name, _ in found} == {path.stem for path in (ROOT / "configs").glob("*.py")}
    for (name, _), line in found.items():
        assert len(line["programs"]) == 2 and min(line["programs"]) > 1000, name
