"""`hcjax export` and `hcjax verify` of what it has written."""

import json

import numpy as np
import pytest

import hcjax
from hcjax.app import exporting, verify
from tests.digits import about, data, models, normalised, scorecards
from tests.tiny import folder, trained

CACHE = f"--config.cache_dir={folder() / 'cache'}"


def export(*arguments):
    return exporting.main(["hcjax export", *map(str, arguments), CACHE])


def verified(place, *arguments):
    """Returns (exit code, rows by name) of `hcjax verify`."""
    path = place.parent / "verified.json"
    code = verify.main(["verify", str(place), f"--json={path}", "--notimed", *arguments, CACHE])
    return code, {row["name"]: row for row in json.loads(path.read_text())}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Returns the path of a packed network in integers."""
    path = tmp_path_factory.mktemp("packed") / "int4.hcz"
    path.write_bytes(hcjax.pack(models()["int4"], about=about()))
    return path


@pytest.mark.slow
def test_a_file_is_exported_with_its_score_and_verified(capsys, tmp_path, packed):
    out = tmp_path / "out"
    assert export(packed, "--to=stablehlo,safetensors,hcz", f"--out={out}", "--batch=8") == 0
    text = capsys.readouterr().out
    assert "stablehlo: network.stablehlo" in text and "the same bits as the original" in text
    facts, accuracy = hcjax.export.read(out), scorecards()["int4"].accuracy
    assert facts["name"] == "int4" and facts["scores"] == {
        "score": "accuracy", "value": accuracy, "examples": 1000, "data": data().name,
    }  # fmt: skip
    with np.load(out / "examples.npz") as file:
        np.testing.assert_allclose(file["inputs/images"], normalised()[:16], atol=1e-6)
    code, rows = verified(out)
    assert code == 0 and len(rows) == 4
    for row in rows.values():
        assert row["equal"] == 1 and row["accuracy"] == accuracy, row
    assert "as promised" in capsys.readouterr().out


@pytest.mark.slow
def test_a_workdir_and_its_export_score_alike(capsys, tmp_path):
    out = tmp_path / "out"
    assert export(trained(), "--to=hcz", f"--out={out}", "--name=insects") == 0
    facts = hcjax.export.read(out)
    report = json.loads((trained() / "report.json").read_text())
    assert facts["name"] == "insects" and facts["labels"] == ["ant", "bee", "cat"]
    assert facts["scores"]["value"] == report["test_accuracy"]
    code, rows = verified(out)
    assert code == 0 and rows["network.hcz"]["accuracy"] == report["test_accuracy"]


@pytest.mark.slow
def test_a_file_that_scores_otherwise_or_is_damaged_is_an_error(capsys, tmp_path, packed):
    out = tmp_path / "out"
    assert export(packed, "--to=safetensors,hcz", f"--out={out}") == 0
    facts = hcjax.export.read(out)
    facts["scores"]["value"] += 0.01
    rest = {k: v for k, v in facts.items() if k != "sha256"}
    manifest = hcjax.export.manifest
    facts["sha256"] = manifest._own(rest)
    (out / "manifest.json").write_bytes(manifest.text(facts))
    code, rows = verified(out)
    assert code == 2 and "the original has" in rows["network.hcz"]["problem"]
    (out / "network.hcz").write_bytes(b"other")
    capsys.readouterr()
    code, rows = verified(out, "--nodata")
    assert code == 2 and "was changed or damaged" in capsys.readouterr().err
    assert "problem" not in rows["weights.safetensors"]
    (out / "manifest.json").write_text("{}")
    code, rows = verified(out)
    assert code == 2 and "manifest.json is no manifest" in rows["out"]["problem"]


def test_without_data_inputs_are_drawn(capsys, tmp_path, packed):
    out = tmp_path / "out"
    assert export(packed, "--to=hcz", f"--out={out}", "--nodata") == 0
    assert hcjax.export.read(out)["scores"] is None
    code, rows = verified(out, "--nodata")
    assert code == 0 and rows["network.hcz"]["equal"] == 1
    assert "accuracy" not in capsys.readouterr().out.split("int4, exported")[1]


def test_data_that_is_not_at_hand_is_told_and_asked_for_is_an_error(capsys, tmp_path):
    path, out = tmp_path / "a.hcz", tmp_path / "out"
    gone = {"source": "npz", "path": "/no/such.npz"}
    path.write_bytes(hcjax.pack(models()["int4"], about=about(data=gone)))
    assert export(path, "--to=hcz", f"--out={out}") == 0
    assert "no test data: /no/such.npz" in capsys.readouterr().out
    asked = ["--config.data.source=npz", "--config.data.path=/no/other.npz"]
    assert export(path, "--to=hcz", f"--out={out}", *asked) == 2
    assert "/no/other.npz" in capsys.readouterr().err
    assert verified(out)[0] == 0
    assert "no test data: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name one workdir or .hcz file, got 0"),
        (["a.hcz", "b.hcz"], "got 2"),
        (["a.hcz"], "--to=TARGET,... and --out=DIR are needed; targets: c, onnx"),
        (["a.hcz", "--to=hcz"], "--out=DIR"),
        (["a.hcz", "--to=hzc", "--out={}/out"], "did you mean 'hcz'?"),
        (["a.hcz", "--to=hcz", "--out={}/out"], "a.hcz: No such file"),
        (["a.hcz", "--to=hcz", "--out={}/out", "--batch=0"], "--batch must be at least 1"),
        (["a.hcz", "--to=hcz", "--out={}"], "no export made it"),
        (["a.hcz", "--too=hcz"], "Unknown command line flag 'too'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(capsys, tmp_path, arguments, expected):
    (tmp_path / "mine").touch()
    assert export(*(text.format(tmp_path) for text in arguments)) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
