"""The folder of an export: whole or not at all, with facts that are those of the network."""

import hashlib
import io
import json

import jax
import numpy as np
import pytest
import yaml

import hcjax
from hcjax.errors import ArtifactError, CheckpointError, ConfigError
from hcjax.export import folder as folders
from hcjax.export import manifest
from tests.export import shipping

SCORES = {"score": "accuracy", "value": 0.75, "examples": 20, "data": "insects"}
MADE = "2026-12-31"


def write(place, form=1, to=("stablehlo", "safetensors", "hcz"), **options):
    *models, images = shipping.dense()
    facts = {"inputs": images, "scores": SCORES, "made": MADE, "name": "insects 6"}
    return hcjax.export.write(models[form], place, to=to, **(facts | options))


def test_the_manifest_has_all_facts_and_every_files_sum(tmp_path):
    facts = write(tmp_path / "out", batch=4)
    assert hcjax.export.read(tmp_path / "out") == facts
    assert facts["inputs"] == [{"name": "images", "shape": [None, 2, 3, 1], "dtype": "float32"}]
    assert facts["outputs"] == [{"name": "logits", "shape": [None, 3], "dtype": "float32"}]
    assert facts["labels"] == ["ant", "bee", "cat"] and facts["scores"] == SCORES
    assert facts["normalisation"] == {"mean": [0.25], "std": [0.5]} and facts["made"] == MADE
    assert facts["network"] == {
        "form": "integers", "floats": [], "weights": 72, "nonzeros": 71, "macs": 72,
    }  # fmt: skip
    assert facts["versions"]["jax"] == jax.__version__ and facts["versions"]["hcjax"]
    present = {path.name for path in (tmp_path / "out").iterdir()}
    assert present == {*facts["files"], "manifest.json"}
    for name, sums in facts["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert sums == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    batches = {each["file"]: each["batch"] for each in facts["artifacts"]}
    assert batches["network.stablehlo"] is None and batches["network.static.stablehlo"] == 4
    assert {each["promise"]["kind"] for each in facts["artifacts"]} == {"equal"}


def test_the_examples_are_the_first_inputs_and_what_the_network_makes_of_them(tmp_path):
    write(tmp_path / "out", to=["hcz"])
    _, small, images = shipping.dense()
    with np.load(io.BytesIO((tmp_path / "out" / "examples.npz").read_bytes())) as file:
        found = dict(file)
    assert np.array_equal(found["inputs/images"], images[:16])
    assert np.array_equal(found["outputs/logits"], shipping.outputs(small, images[:16]))


def test_the_card_has_front_matter_and_the_same_facts(tmp_path):
    facts = write(tmp_path / "out", form=0, to=["hcz", "safetensors"])
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "hcjax" and front["pipeline_tag"] == "image-classification"
    assert "float32" in front["tags"] and "safetensors" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert front["model-index"][0]["name"] == facts["name"] == "insects 6"
    words = ["75.00 % on 20 test examples of insects", "float32[N, 2, 3, 1]", "ant, bee, cat"]
    words += [f"{facts['files']['network.hcz']['bytes']:,}", "mean 0.25, std 0.5", MADE]
    assert [word for word in words if word not in text] == []


def test_the_same_network_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_inputs_are_drawn_where_none_are_given_and_trees_are_named(tmp_path):
    def apply(p, x, scale):
        return {"b": x["pixels"] * scale, "a": (x["tokens"], x["tokens"].sum(1))}

    inputs = {"pixels": np.ones((1, 4), np.float32), "tokens": np.ones((1, 5), np.int32)}
    model = hcjax.trace(apply, {}, inputs, 2.0)
    facts = hcjax.export.write(model, tmp_path / "out", to=["hcz"], made=MADE)
    assert [x["name"] for x in facts["inputs"]] == ["0/pixels", "0/tokens", "1"]
    assert facts["trees"]["outputs"] == {"d": {"a": {"t": [0, 1]}, "b": 2}}
    examples = manifest.of_examples(tmp_path / "out", facts)
    pixels, tokens, scale = examples.inputs
    assert pixels.shape == (16, 4) and set(tokens.ravel()) == {0, 1} and scale == 1
    assert [x.shape for x in examples.outputs] == [(16, 5), (16,), (16, 4)]
    (row,) = hcjax.export.check(tmp_path / "out", timed=False)
    assert row.problem == "" and row.agreement.equal == 1


def test_an_export_is_replaced_and_anything_else_refused(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    write(place, to=["hcz", "safetensors"])  # an empty folder is nobody's
    write(place, to=["hcz"])
    assert not (place / "weights.safetensors").exists()
    (place / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"holds what no export has written: notes.txt"):
        write(place, to=["hcz"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").touch()
    with pytest.raises(ArtifactError, match="no export made it"):
        write(tmp_path / "mine")
    with pytest.raises(ArtifactError, match="is no folder"):
        write(tmp_path / "mine" / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


@pytest.mark.parametrize("when", ["target", "file", "place"])
def test_what_fails_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, when):
    place = tmp_path / "out"
    before = write(place, to=["hcz"])

    def fails(*arguments):
        raise OSError(28, "No space left on device")

    real = folders.os.rename
    if when == "target":
        monkeypatch.setitem(folders.TARGETS, "hcz", fails)
    elif when == "file":
        monkeypatch.setattr(folders.files.os, "fsync", fails)
    else:  # the new folder cannot be renamed
        monkeypatch.setattr(
            folders.os, "rename", lambda a, b: fails() if a.name == "new" else real(a, b)
        )
    with pytest.raises((OSError, CheckpointError), match="No space left"):
        write(place, form=0, to=["hcz"])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert hcjax.export.read(place) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"to": ["hzc"]}, "unknown target 'hzc'; did you mean 'hcz'"),
        ({"to": []}, "name targets, of c, onnx"),
        ({"to": "hcz"}, "name targets"),
        ({"made": "today"}, "made must be a date"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, options, expected):
    with pytest.raises(ConfigError, match=expected):
        write(tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_training_is_refused(tmp_path):
    model, _, images = shipping.dense()
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images))
    with pytest.raises(ConfigError, match=r"export hcjax.int8 of it"):
        hcjax.export.write(fake, tmp_path / "out", to=["hcz"])


def changed(facts, **changes):
    """Returns a manifest's text with other entries, and its own sum right again."""
    facts = {k: v for k, v in (facts | changes).items() if k != "sha256"}
    return manifest.text(facts | {"sha256": manifest._own(facts)})


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: b"{", "is damaged"),
        (lambda f: b"[" * 100_000, "is damaged"),
        (lambda f: b"[]", "its format is"),
        (lambda f: b'{"format": "other 3"}', "its format is 'other 3'"),
        (lambda f: manifest.text(f | {"name": "other"}), "was changed or damaged"),
        (lambda f: changed(f, files={"../x": f["files"]["README.md"]}), "is no name of a file"),
        (lambda f: changed(f, artifacts=[{"file": "network.hcz"}]), "lacks what a manifest has"),
        (lambda f: changed(f, artifacts=[f["artifacts"][0] | {"promise": {"kind": "near"}}]),
         "lacks"),
        (lambda f: changed(f, artifacts=[f["artifacts"][0] | {"promise": {"kind": "close"}}]),
         "by halves"),
        (lambda f: changed(f, inputs=[{"name": "a"}]), "lacks"),
        (lambda f: changed(f, files=None), "lacks"),
        (lambda f: changed(f, examples="other.npz"), "lacks"),
        (lambda f: changed(f, trees={"inputs": 0, "outputs": {"d": {"a": 7}}}), "tree of places"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_manifest_is_named(tmp_path, damage, expected):
    facts = write(tmp_path / "out", to=["hcz"])
    (tmp_path / "out" / "manifest.json").write_bytes(damage(facts))
    with pytest.raises(ArtifactError, match=expected) as error:
        hcjax.export.read(tmp_path / "out")
    assert "manifest.json" in str(error.value) or "name of a file" in str(error.value)


def test_a_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest.json: No such file"):
        hcjax.export.read(tmp_path)


def test_a_manifest_is_json_that_says_its_own_format(tmp_path):
    write(tmp_path / "out", to=["hcz"])
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert facts["format"] == "hcjax export 1"
