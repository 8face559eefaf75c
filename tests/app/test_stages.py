"""What a config can ask of a stage, each on a tiny trained network: what it leaves behind."""

import json
import re

import numpy as np
import pytest

import hcjax
from tests.app.test_pipeline import (
    kernels,
    networks,
)
from tests.tiny import flags, launch, npz, trained

pytestmark = pytest.mark.slow  # each is a launch


@pytest.fixture
def run(tmp_path):
    """Returns a function from changes of a config to the exit code, with `.workdir`."""

    def run(**changes):
        changes = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
        base = [*flags(npz(tmp_path / "data.npz")), f"--config.teacher={trained()}"]
        return launch(*base, f"--workdir={run.workdir}", *changes)

    run.workdir = tmp_path / "run"
    return run


def stages(run):
    return json.loads((run.workdir / "report.json").read_text())["stages"]


def last(run):
    return list(networks(run.workdir).values())[-1]


@pytest.mark.parametrize("epochs", [0, 1])
def test_each_layer_is_pruned_as_its_pattern_says(run, epochs, capsys):
    layers = "conv.*=0.25,.*=0.75"
    assert run(stages="('prune',)", prune__layers=layers, prune__epochs=epochs) == 0
    for path, kernel in kernels(last(run)).items():
        gone = int((0.25 if path.startswith("conv") else 0.75) * kernel.size + 0.5)
        assert (kernel == 0).sum() == gone, path
    said = capsys.readouterr().out
    assert "prune.layers conv.*=0.25: 1 of 4 arrays, " in said
    assert "prune.layers .*=0.75: 1 of 4 arrays, " in said


@pytest.mark.parametrize("method", [None, "taylor"])
def test_two_of_four_stay_of_what_is_selected(run, method, capsys):
    options = {"prune__epochs": 1, "prune__method": method} if method else {}
    options |= {"prune__n_of_m": "2,4", "prune__select": "dense.*kernel"}
    assert run(stages="('prune',)", **options) == 0
    found = kernels(last(run))
    groups = found["dense1/kernel"].reshape(-1, 4, found["dense1/kernel"].shape[-1])
    assert ((groups != 0).sum(1) == 2).all()
    assert found["conv1/kernel"].all()
    assert "prune.select dense.*kernel: 1 of 4 arrays, " in capsys.readouterr().out


def test_whole_filters_go_as_blocks(run):
    options = {"prune__block": "0,0,0,1", "prune__select": "conv.*kernel"}
    assert run(stages="('prune','trim')", prune__sparsity=0.5, **options) == 0
    pruned = kernels(list(networks(run.workdir).values())[1])["conv1/kernel"]
    filters = pruned.reshape(-1, pruned.shape[-1])
    assert (filters != 0).all(0).sum() == (filters == 0).all(0).sum() == pruned.shape[-1] // 2
    assert kernels(last(run))["conv1/kernel"].shape[-1] == pruned.shape[-1] // 2


def test_shared_weights_stay_few_and_zeros_zero_while_they_train(run):
    options = {"prune__sparsity": 0.5, "share__clusters": 4, "share__epochs": 1}
    assert run(stages="('prune','share')", **options) == 0
    assert [s["name"] for s in stages(run)] == ["float", "pruned", "shared", "shared-trained"]
    assert len({s["nonzeros"] for s in stages(run)[1:]}) == 1
    before, after = (hcjax.unpack(blob) for blob in list(networks(run.workdir).values())[2:])
    books = [dict(model.leaves(model.params))["dense1/kernel"] for model in (before, after)]
    assert len(books[0]) <= 4 and not np.array_equal(*books)


def test_a_factorized_network_takes_fewer_products_and_is_trained_on(run):
    options = {"factorize__macs": 0.7, "factorize__epochs": 1, "factorize__learning_rate": 0.01}
    assert run(stages="('factorize','quantize')", **options) == 0
    whole, thin, trained_on, small = stages(run)
    assert thin["name"] == "factorized" and trained_on["name"] == "factorized-trained"
    assert thin["macs"] <= 0.7 * whole["macs"]
    assert small["macs"] == trained_on["macs"] == thin["macs"]
    assert any(path.endswith("last/kernel") for path in kernels(last(run)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": "('prune',)"}, "config.prune: give one of sparsity, layers, n_of_m"),
        ({"prune.sparsity": 0.5, "prune.n_of_m": "2,4"}, "config.prune: give one of sparsity, la"),
        ({"prune.n_of_m": "5,4"}, "N:M needs 0 < n <= m, got 5:4"),
        ({"prune.n_of_m": "2,4", "prune.block": "4,4"}, "give one of n_of_m"),
        ({"prune.layers": "conv.*"}, "config.prune.layers: expected a list ('PATTERN=NUMBER'"),
        ({"prune.layers": "a=0.5", "prune.scope": "erk"}, "needs config.prune.sparsity"),
        ({"prune.sparsity": 0.5, "prune.block": "0.5,"}, "of whole numbers"),
        ({"stages": "('share',)", "share.clusters": 0}, "config.share.clusters must be >= 1"),
        ({"prune.layers": "conv(=0.5"}, "config.prune.layers: 'conv(' is no regular expression"),
        ({"stages": "('quantize',)", "quantize.bits": 1}, "config.quantize.bits must be 2 to 8"),
        (
            {"stages": "('quantize',)", "quantize.activation_bits": "('.*=9',)"},
            "config.quantize.activation_bits must be 2 to 8, got ['.*=9']",
        ),
        (
            {"stages": "('quantize',)", "quantize.input_bits": 9},
            "config.quantize.input_bits must be 2 to 8, got 9",
        ),
        (
            {"stages": "('quantize',)", "quantize.method": "foo"},
            "unknown config.quantize.method 'foo'; Legal: entropy, minmax, mse, percentile",
        ),
        (
            {"stages": "('quantize',)", "quantize.granularity": "row"},
            "unknown config.quantize.granularity 'row'; Legal: channel, tensor",
        ),
        (
            {"stages": "('quantize',)", "quantize.floats": "conv("},
            "config.quantize.floats: 'conv(' is no regular expression",
        ),
        ({"stages": "('factorize',)"}, "config.factorize: give one of rank, energy, macs"),
        ({"stages": "('shrink',)"}, "config.shrink: give one of keep, macs"),
        ({"stages": "('share','prune')", "prune.sparsity": 0.5}, "put it before 'share'"),
        (
            {"stages": "('prune','factorize')", "prune.sparsity": 0.5, "factorize.rank": 2},
            "'factorize' makes new kernels, without the zeros: put it before 'prune'",
        ),
    ],
)
def test_what_no_stage_can_do_is_said_before_anything_is_made(run, changes, message, capsys):
    changes = {key.replace(".", "__"): v for key, v in ({"stages": "('prune',)"} | changes).items()}
    assert run(**changes) == 2
    assert message in capsys.readouterr().err
    assert not networks(run.workdir)


def test_what_bits_and_floats_match_is_said(run, capsys):
    options = {"quantize__images": 16, "quantize__bits": "('conv.*=4','.*=8')"}
    assert run(stages="('quantize',)", quantize__floats="dense1", **options) == 0
    said = capsys.readouterr().out
    assert re.search(r"quantize: bits of conv1/kernel 4.*; in float: .*dot_general", said)
