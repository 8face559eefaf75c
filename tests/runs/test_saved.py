"""Any network on disk as a Model: a workdir, a packed file, and what each says of itself."""

from pathlib import Path

import jax
import numpy as np
import pytest

import hcjax
from hcjax.errors import ArtifactError, CheckpointError, HcjaxError
from hcjax.runs import saved, workdir
from tests.digits import about, models, normalised
from tests.graph.networks import randomized
from tests.tiny import CLASSES, images, trained


def test_a_workdir_is_its_trained_network_with_all_that_is_known_of_it():
    model, found = saved.load_any(trained())
    reference = hcjax.load(trained())
    assert found == model.about
    assert found["class_names"] == list(CLASSES)
    said = {k: v for k, v in reference.config["data"].items() if v is not None}
    assert found["data"] == said and said["source"] == "npz"
    assert found["seed"] == reference.config["seed"]
    mean, std = (np.asarray(found[k], np.float32) for k in ("mean", "std"))
    np.testing.assert_array_equal(mean, reference.mean)
    x, _ = images(5, seed=2)
    logits = model.apply(model.params, (x.astype(np.float32) / 255 - mean) / std)
    np.testing.assert_allclose(logits, reference(x), rtol=1e-5, atol=1e-5)  # sums in another order
    assert hcjax.unpack(hcjax.pack(model)).about == found


def test_the_batchnorm_of_a_workdir_is_folded(monkeypatch):
    network = hcjax.models.create("resnet_tiny", input_shape=(8, 8, 1))
    params, state = randomized(network.init(jax.random.key(0)))
    one = np.ones(1, np.float32)
    names = tuple("0123456789")
    found = workdir.Trained(network.apply, params, state, names, (8, 8, 1), one, one, 4, {})
    monkeypatch.setattr(saved, "load", lambda path: found)
    model, said = saved.load_any(Path(__file__).parent)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    expected = network.apply(params, state, x, train=False)[0]
    np.testing.assert_allclose(model.apply(model.params, x), expected, rtol=1e-3, atol=1e-3)
    assert all(path.rsplit("/")[-1] in ("kernel", "bias") for path in model.params)
    assert (said["data"], said["seed"]) == ({}, 0)


def test_a_file_is_its_network_bit_for_bit(tmp_path):
    path, model = tmp_path / "int4.hcz", models()["int4"]
    path.write_bytes(hcjax.pack(model, about=about()))
    back, found = saved.load_any(str(path))
    assert found == about() == back.about
    expected = jax.jit(model.apply)(model.params, normalised()[:9])
    np.testing.assert_array_equal(jax.jit(back.apply)(back.params, normalised()[:9]), expected)


def test_a_file_that_says_nothing_of_itself_is_fine(tmp_path):
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(models()["float"]))
    assert saved.load_any(path)[1] == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"class_names": "0123456789"}, "class_names is '0123456789', expected a list of names"),
        ({"class_names": [0, 1]}, r"class_names is \[0, 1\]"),
        ({"mean": [0.1, 0.2]}, r"mean is \[0.1, 0.2\], expected 1 numbers"),
        ({"mean": [10**400]}, "mean is"),
        ({"std": [0]}, r"std is \[0\], expected 1 numbers > 0"),
        ({"std": ["1"]}, "std is"),
        ({"std": []}, "std is"),
        ({"data": "mnist"}, "data is 'mnist', expected the section `data` of a config"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(tmp_path, changes, expected):
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(models()["float"], about=about(**changes)))
    with pytest.raises(ArtifactError, match=rf"a\.hcz: its {expected}"):
        saved.load_any(path)


def test_an_about_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(models()["float"], about=["mnist"]))
    with pytest.raises(ArtifactError, match="its `about` is list, expected an object"):
        saved.load_any(path)


def test_what_is_damaged_or_missing_is_named(tmp_path):
    blob = bytearray(hcjax.pack(models()["float"]))
    blob[len(blob) // 2] ^= 1
    (tmp_path / "a.hcz").write_bytes(blob)
    with pytest.raises(ArtifactError, match=r"a\.hcz: the checksum is wrong"):
        saved.load_any(tmp_path / "a.hcz")
    with pytest.raises(ArtifactError, match=r"b\.hcz: No such file"):
        saved.load_any(tmp_path / "b.hcz")
    with pytest.raises(CheckpointError, match=r"holds no run; name one of its files: a\.hcz"):
        saved.load_any(tmp_path)
    (tmp_path / "a.hcz").unlink()
    with pytest.raises(CheckpointError, match="holds no run: there is no folder checkpoints"):
        saved.load_any(tmp_path)


def test_paths_folders_and_patterns_name_each_network_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, plain = Path("run"), Path("plain")
    for path in (run / "b.hcz", run / "a.hcz", run / "a.png", plain / "c.hcz"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (run / "checkpoints").mkdir()
    assert saved.expanded(["run"]) == [run, run / "a.hcz", run / "b.hcz"]
    assert saved.expanded(["plain", "run/b.hcz"]) == [plain / "c.hcz", run / "b.hcz"]
    assert saved.expanded(["plain/c.hcz", "*/?.hcz"]) == [
        plain / "c.hcz", run / "a.hcz", run / "b.hcz",
    ]  # fmt: skip
    assert saved.expanded(["run/a.hcz", str(tmp_path / "run/a.hcz")]) == [run / "a.hcz"]
    for text, why in (("nothing.hcz", "No such file"), ("*.hcz", "No such file"),
                      ("run/checkpoints", "holds no run")):  # fmt: skip
        assert saved.expanded([text]) == [Path(text)]
        with pytest.raises(HcjaxError, match=why):
            saved.load_any(text)


def test_a_short_name_is_a_path_even_where_all_of_it_is_needed():
    paths = [Path("/a.hcz"), Path("/b/a.hcz"), Path("/b/c.hcz")]
    assert saved.short(paths) == ["/a.hcz", "b/a.hcz", "c.hcz"]
