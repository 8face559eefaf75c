"""What `check` finds in an export's folder: wrong bytes, wrong numbers, missing runtimes."""

import numpy as np
import pytest

import hcjax
from hcjax.core import optional
from hcjax.export import manifest, runtimes, targets
from hcjax.export.check import SIZE, Agree, Test, agree, in_batches, kept, table
from hcjax.export.manifest import Artifact
from tests.export import shipping

EQUAL, CLOSE = manifest.EQUAL, manifest.CLOSE
CLASS = {"kind": "argmax", "share": 0.99}


def write(place, to=("hcz",), form=1, **options):
    *models, images = shipping.dense()
    return hcjax.export.write(models[form], place, to=to, inputs=images, made="2026-12-31",
                              **options)  # fmt: skip


def rows(place, **options):
    found = hcjax.export.check(place, **({"timed": False} | options))
    return {row.file: row for row in found}


def other(promise, wrong):
    """Returns a target and a runtime: the network's own outputs, and `wrong` of them."""
    artifact = Artifact("network.txt", "text", promise, "text", batch=3)

    def runtime(folder, facts, entry):
        call = runtimes.jitted(shipping.dense()[1])
        return runtimes.here("text", lambda arrays: [wrong(np.asarray(call(arrays)[0]))])

    return (lambda model, options: ([artifact], {"network.txt": b"text"})), runtime


@pytest.fixture
def joined(monkeypatch):
    """Returns a function that joins a target called text."""

    def join(promise, wrong):
        target, runtime = other(promise, wrong)
        monkeypatch.setitem(targets.TARGETS, "text", target)
        monkeypatch.setitem(runtimes.RUNTIMES, "text", runtime)

    return join


def test_each_artifact_runs_in_its_own_runtime_and_is_timed(tmp_path):
    write(tmp_path / "out", to=["stablehlo", "safetensors", "hcz"], batch=5)
    images = shipping.dense()[2]
    test = Test([np.asarray(images)], lambda outputs: float(outputs[0].shape == (20, 3)))
    found = rows(tmp_path / "out", timed=True, test=test)
    for row in found.values():
        assert row.agreement.equal == 1 and not row.problem and not row.note, row
        assert 0 < row.p50 <= row.p99 < 5 and row.score == 1
    assert found["network.static.stablehlo"].batch == 5
    assert found["network.stablehlo"].runtime.startswith("jax ")
    text = table(list(found.values()))
    assert "equal bits" in text and "as promised" in text and "onnx" not in text


@pytest.mark.parametrize(
    ("promise", "wrong", "right"),
    [
        (EQUAL, lambda y: y, True),
        (EQUAL, lambda y: np.nextafter(y, np.float32(9)), False),
        (CLOSE, lambda y: np.nextafter(y, np.float32(9)), True),
        (CLOSE, lambda y: y + np.float32(0.01), False),
        (CLOSE, lambda y: y * np.nan, False),
        (EQUAL, lambda y: y.astype(np.float64), False),
        (CLASS, lambda y: y * 2, True),
        (CLASS, lambda y: -y, False),
    ],
)
def test_numbers_that_are_not_as_promised_are_a_problem(tmp_path, joined, promise, wrong, right):
    joined(promise, wrong)
    write(tmp_path / "out", to=["text"])
    (row,) = rows(tmp_path / "out").values()
    assert (row.problem == "") is right, row
    if not right:
        assert f"promises {manifest.promised(promise)}" in row.problem
        assert "wrong" in table([row])


def test_outputs_of_another_shape_are_a_problem(tmp_path, joined):
    joined(CLOSE, lambda y: y[:, :2])
    write(tmp_path / "out", to=["text"])
    (row,) = rows(tmp_path / "out").values()
    assert "outputs of shape [16, 2]" in row.problem and "network.txt" in row.problem


def test_a_changed_file_is_a_problem_and_is_not_run(tmp_path, joined):
    def run(y):
        raise AssertionError("it was run")

    joined(EQUAL, run)
    write(tmp_path / "out", to=["text", "hcz"])
    (tmp_path / "out" / "network.txt").write_bytes(b"test")
    found = rows(tmp_path / "out")
    assert "network.txt was changed or damaged: expected 4 bytes" in found["network.txt"].problem
    assert found["network.hcz"].problem == ""
    (tmp_path / "out" / "network.txt").unlink()
    assert "No such file" in rows(tmp_path / "out")["network.txt"].problem
    (tmp_path / "out" / "examples.npz").write_bytes(b"")
    with pytest.raises(hcjax.errors.ArtifactError, match=r"examples.npz was changed"):
        rows(tmp_path / "out")


def test_an_edited_card_is_only_told(tmp_path):
    write(tmp_path / "out")
    with (tmp_path / "out" / "README.md").open("a") as file:
        file.write("\nlicense: mine\n")
    found = rows(tmp_path / "out")
    assert found["README.md"].note == "was edited" and not any(r.problem for r in found.values())
    (tmp_path / "out" / "README.md").unlink()
    assert "No such file" in rows(tmp_path / "out")["README.md"].problem


def test_what_is_not_here_is_listed_and_not_run(tmp_path, monkeypatch, joined):
    joined(EQUAL, lambda y: y)
    write(tmp_path / "out", to=["text", "safetensors"])

    def lacking(*arguments):
        raise optional._lacking("texts", "text", "network.txt")

    monkeypatch.setitem(runtimes.RUNTIMES, "text", lacking)
    found = rows(tmp_path / "out")
    assert "not run: network.txt needs the package texts" in found["network.txt"].note
    assert found["weights.safetensors"].note.startswith("read, not run")
    assert not any(row.problem for row in found.values())
    monkeypatch.delitem(runtimes.RUNTIMES, "text")
    assert "unknown runtime 'text'" in rows(tmp_path / "out")["network.txt"].note


def test_a_file_that_its_runtime_cannot_open_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setitem(targets.TARGETS, "bad", lambda model, options: (
        [Artifact("a.stablehlo", "stablehlo", EQUAL, "none"),
         Artifact("a.hcz", "hcz", EQUAL, "none")],
        {"a.stablehlo": b"none", "a.hcz": b"none"},
    ))  # fmt: skip
    write(tmp_path / "out", to=["bad"])
    found = rows(tmp_path / "out")
    assert "a.stablehlo: jax cannot run it" in found["a.stablehlo"].problem
    assert "a.hcz: not a .hcz file" in found["a.hcz"].problem


def test_a_batch_of_one_size_is_filled_up_and_cut():
    sizes = []

    def run(arrays):
        sizes.append(len(arrays[0]))
        return [arrays[0] * arrays[1]]

    engine = runtimes.here("times", run)
    x = np.arange(40.0)
    for size, expected in ((7, {7}), (None, {SIZE, 40 % SIZE}), (64, {64})):
        sizes.clear()
        (found,) = in_batches(engine, [x, np.array(2.0)], [True, False], size)
        assert np.array_equal(found, 2 * x) and set(sizes) == expected


def test_agreement_of_any_outputs():
    nan = np.array([np.nan, 1.0])
    assert agree([nan], [nan]) == Agree(1.0, 0.0, 0.0, None)
    assert agree([np.array([1, 2])], [np.array([1, 3])]).difference == 0.5
    assert agree([np.array([np.inf, 1.0])], [np.array([np.inf, 1.0])]).equal == 1
    assert agree([np.array([np.inf, 1.0])], [np.array([0.0, 1.0])]).difference == np.inf
    constant = np.full((3, 1), 2.0)
    engine = runtimes.here("two", lambda arrays: [arrays[0], np.float32(3)])
    assert [np.shape(x) for x in in_batches(engine, [np.ones((20, 2))], [True], None)] == [
        (20, 2),
        (),
    ]
    assert agree([constant + 1], [constant]) == Agree(0.0, 1.0, 1.0, None)
    assert agree([np.zeros((2, 0))], [np.zeros((2, 0))]).equal == 1
    assert not kept(CLASS, Agree(0.0, 0.3, 0.1, None), 16)
    assert kept(CLASS, Agree(0.0, 0.3, 0.01, None), 16)
    assert not kept(CLASS, Agree(0.0, 0.3, 0.01, 14 / 16), 16)
