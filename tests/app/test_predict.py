"""`hcjax predict` and `launch.py --predict`: any network on image files, good and bad ones."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import hcjax
from hcjax.app import commands
from hcjax.data import read_image
from tests.tiny import CLASSES, flags, folder, images, launch, pictures, trained


def predicted(capsys, *arguments, code=0):
    """Returns what `hcjax predict` prints, and what it says on stderr."""
    capsys.readouterr()
    found = commands.main(["hcjax", "predict", *map(str, arguments)])
    output = capsys.readouterr()
    assert found == code, output
    return output.out, output.err


def refused(capsys, *arguments):
    out, err = predicted(capsys, *arguments, code=2)
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    return err


def rows(out):
    """Returns the cells of a table's lines, without its head."""
    head, *lines = out.splitlines()
    assert head.split() == ["image", "class", "probability"]
    return [line.split() for line in lines]


@functools.cache
def compressed():
    """Returns a folder like a pipeline's: `trained()` in float, in 8 bits, and what it reports."""
    workdir = folder() / "compressed"
    workdir.mkdir()
    model, about = hcjax.load_any(trained())
    x = hcjax.data.normalise(images(16)[0], np.float32(about["mean"]), np.float32(about["std"]))
    int8 = hcjax.int8(model, hcjax.calibrate(model, x, method="minmax"))
    made = {"9-float.hcz": model, "10-int8.hcz": int8}  # in this order, not that of the alphabet
    for name, each in made.items():
        (workdir / name).write_bytes(hcjax.pack(each))
    report = {"stages": [{"file": name} for name in made]}
    (workdir / "report.json").write_text(json.dumps(report))
    shutil.copy(trained() / "config.json", workdir)
    return workdir


def network(kind):
    """Returns a workdir or file of that kind."""
    return {
        "training": trained,
        "pipeline": compressed,
        "float file": lambda: compressed() / "9-float.hcz",
        "int8 file": lambda: compressed() / "10-int8.hcz",
    }[kind]()


@pytest.mark.parametrize("kind", ["training", "pipeline", "float file", "int8 file"])
def test_every_kind_of_network_labels_images(capsys, tmp_path, kind):
    files, classes = pictures(tmp_path)
    out, err = predicted(capsys, network(kind), *files)
    if kind == "pipeline":
        first, out = out.split("\n", 1)
        assert first.endswith("10-int8.hcz")
    found = rows(out)
    assert [row[:2] for row in found] == [[str(f), c] for f, c in zip(files, classes, strict=True)]
    assert all(100 / 3 < float(row[2]) <= 100 and row[3] == "%" for row in found) and err == ""


def test_a_file_gives_the_probabilities_of_its_workdir(capsys, tmp_path):
    files, _ = pictures(tmp_path)
    everything = []
    for kind in ("training", "float file"):
        path = tmp_path / f"{kind}.json"
        predicted(capsys, network(kind), *files, "--top_k=3", f"--json={path}")
        everything.append(json.loads(path.read_text()))
    for one, other in zip(*everything, strict=True):
        assert one["file"] == other["file"]
        for a, b in zip(one["predictions"], other["predictions"], strict=True):
            assert a["class"] == b["class"] and abs(a["probability"] - b["probability"]) < 1e-5
    # the same as the network called by hand
    shown = hcjax.load(trained())
    logits = shown(np.stack([read_image(file, shown.image_shape) for file in files]))
    p = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(-1, keepdims=True)
    assert [row["predictions"][0]["class"] for row in everything[0]] == [
        CLASSES[k] for k in p.argmax(-1)
    ]
    assert np.allclose([r["predictions"][0]["probability"] for r in everything[0]], p.max(-1), 1e-4)


def test_launch_predicts_by_the_same_path(capsys, tmp_path):
    files, classes = pictures(tmp_path)
    capsys.readouterr()
    assert launch(f"--predict={trained()}", *files, "--top_k=1", "--config.platform=cpu") == 0
    assert [row[1] for row in rows(capsys.readouterr().out)] == classes


def test_top_k_shows_so_many_classes_the_likeliest_first(capsys, tmp_path):
    files, _ = pictures(tmp_path)
    out, _ = predicted(capsys, network("int8 file"), *files[:2], "--top_k=3", "--json=/dev/null")
    found = rows("\n".join(out.splitlines()[:-1]))
    assert len(found) == 6 and [len(row) for row in found] == [4, 3, 3, 4, 3, 3]
    for start in (0, 3):
        chances = [float(row[-2]) for row in found[start : start + 3]]
        assert chances == sorted(chances, reverse=True) and abs(sum(chances) - 100) < 0.05
        assert {row[-3] for row in found[start : start + 3]} == set(CLASSES)
    assert len({line.index("%") for line in out.splitlines()[1:-1]}) == 1  # in one column


@pytest.mark.parametrize("count", [0, 4, -1])
def test_top_k_beyond_the_classes_is_refused(capsys, tmp_path, count):
    files, _ = pictures(tmp_path)
    assert "--top_k must be 1 to 3" in refused(capsys, trained(), *files, f"--top_k={count}")


def test_a_folder_stands_for_its_images_in_order_each_once(capsys, tmp_path):
    files, _ = pictures(tmp_path / "a")
    more, _ = pictures(tmp_path / "a" / "b")
    pictures(tmp_path / "a" / ".hidden")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    out, _ = predicted(capsys, trained(), tmp_path / "a", files[0])
    first, out = out.split("\n", 1)
    assert "1 files are no images by name" in first
    assert [row[0] for row in rows(out)] == [str(file) for file in sorted(files + more)]
    out, _ = predicted(capsys, trained(), tmp_path / "a" / "*.png")
    assert [row[0] for row in rows(out)] == [str(file) for file in files if file.suffix == ".png"]


def test_a_bad_image_among_others_is_named_and_the_others_are_labelled(capsys, tmp_path):
    files, classes = pictures(tmp_path / "a")
    files[3].write_text("no image")
    path = tmp_path / "found.json"
    out, err = predicted(capsys, trained(), tmp_path / "a", "nothing.png", f"--json={path}", code=2)
    found = rows("\n".join(out.splitlines()[:-1]))
    assert [row[1] for row in found] == classes[:3] + classes[4:]
    assert [str(files[3]) in err, "nothing.png" in err, err.count("error: ")] == [True, True, 2]
    said = json.loads(path.read_text())
    assert len(said) == 7 and sum("problem" in row for row in said) == 2
    assert str(files[3]) in said[3]["problem"] and "predictions" not in said[3]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_another_size_or_mode_are_fitted(capsys, tmp_path, mode):
    files, _ = pictures(tmp_path, side=20, mode=mode)
    assert len(rows(predicted(capsys, trained(), *files)[0])) == 6


def test_batches_make_no_difference(capsys, tmp_path, monkeypatch):
    pictures(tmp_path)
    at_once = rows(predicted(capsys, trained(), tmp_path)[0])
    monkeypatch.setattr("hcjax.app.predict.BATCH", 4)
    assert rows(predicted(capsys, trained(), tmp_path)[0]) == at_once


def test_a_mistake_is_one_message(capsys, tmp_path):
    files, _ = pictures(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, expected in [
        ([], "name a workdir or a .hcz file"),
        ([trained()], "name image files"),
        ([trained(), tmp_path / "empty"], "expected images (.png"),
        ([trained(), "nothing.png"], "nothing.png"),
        ([trained(), files[0], "--config.seed=1"], "config.seed has no use"),
        ([tmp_path / "empty", files[0]], "holds no run"),
        ([tmp_path / "nowhere", files[0]], "nowhere"),
        ([tmp_path / "none.hcz", files[0]], "none.hcz: No such file"),
        ([files[1], files[0]], "not a .hcz file"),
        ([trained(), files[0], f"--json={files[0]}/a.json"], str(files[0])),
    ]:
        assert expected in refused(capsys, *arguments), arguments
    capsys.readouterr()
    assert launch(*flags("x.npz"), "--top_k=2") == 2
    assert "--top_k and --json say how --predict" in capsys.readouterr().err


def test_a_folder_of_several_packed_networks_without_a_report_is_refused(capsys, tmp_path):
    files, _ = pictures(tmp_path)
    for name in ("1-a.hcz", "10-b.hcz"):
        shutil.copy(network("int8 file"), tmp_path / name)
    assert "name one of its files: 1-a.hcz, 10-b.hcz" in refused(capsys, tmp_path, files[0])
    (tmp_path / "1-a.hcz").unlink()
    assert "10-b.hcz" in predicted(capsys, tmp_path, files[0])[0]


def linear(about, dtype=jnp.float32):
    """Returns the bytes of a network whose logits are three pixels of an image."""
    apply = lambda p, x: x.astype(jnp.float32).reshape(x.shape[0], -1)[:, :3] @ p["w"]
    model = hcjax.trace(apply, {"w": jnp.eye(3)}, jnp.zeros((1, 8, 8, 1), dtype))
    return hcjax.pack(model, about=about)


def test_a_file_without_its_normalisation_is_refused_and_never_guessed(capsys, tmp_path):
    files, _ = pictures(tmp_path)
    path = tmp_path / "a.hcz"
    for about in (None, {"class_names": list(CLASSES)}, {"mean": [0.5]}):
        path.write_bytes(linear(about))
        message = refused(capsys, path, files[0])
        assert "does not say how its images are normalised" in message and "about=" in message
    path.write_bytes(linear({"mean": [0.5], "std": [0.25]}))
    assert rows(predicted(capsys, path, files[0])[0])[0][1] in "012"  # no names: numbers
    path.write_bytes(linear({"mean": [0.5], "std": [0.25], "class_names": ["a", "b"]}))
    assert "names 2 classes and tells 3 apart" in refused(capsys, path, files[0])


def test_a_network_of_whole_numbers_takes_the_pixels(capsys, tmp_path):
    image = np.full((8, 8), 7, np.uint8)
    image[0, :3] = 1, 3, 2
    Image.fromarray(image).save(tmp_path / "a.png")
    path = tmp_path / "a.hcz"
    path.write_bytes(linear(None, jnp.uint8))
    predicted(capsys, path, tmp_path / "a.png", f"--json={tmp_path / 'a.json'}")
    (row,) = json.loads((tmp_path / "a.json").read_text())
    expected = 1 / (1 + np.exp(-1) + np.exp(-2))
    assert row["predictions"][0]["class"] == "1"
    assert abs(row["predictions"][0]["probability"] - expected) < 1e-6


def test_logits_that_are_not_finite_are_no_label(capsys, tmp_path):
    files, _ = pictures(tmp_path)
    path, about = tmp_path / "a.hcz", {"mean": [0.5], "std": [0.25]}
    model = hcjax.unpack(linear(about))
    path.write_bytes(hcjax.pack(model.replace(params={"w": jnp.eye(3) * np.inf})))
    assert "not all finite" in refused(capsys, path, files[0])


@pytest.mark.slow
def test_a_pipelines_last_network_labels_images(capsys, tmp_path):
    _, classes = pictures(tmp_path / "images")
    keys = ["stages=('trim','quantize')", f"teacher={trained()}", "quantize.images=16"]
    changes = [f"--config.{key}" for key in keys]
    data, workdir = flags(trained().parent / "data.npz"), tmp_path / "run"
    assert launch(*data, *changes, f"--workdir={workdir}", "--quiet") == 0
    out, _ = predicted(capsys, workdir, tmp_path / "images")
    assert "is its last, 2-quantized.hcz" in out
    assert [row[1] for row in rows(out.split("\n", 1)[1])] == classes


@pytest.mark.slow
def test_what_a_model_knows_of_its_images_stays_through_every_transform():
    """So that a file that is packed from a workdir's network can label images."""
    model, about = hcjax.load_any(trained())
    x = hcjax.data.normalise(images(16)[0], np.float32(about["mean"]), np.float32(about["std"]))
    small = hcjax.shrink(model, keep=0.5, images=x)
    for made in (
        hcjax.fold(model),
        small,
        hcjax.trim(model),
        hcjax.factorize(model, macs=0.9),
        hcjax.share(model, clusters=4),
        hcjax.int8(model, hcjax.calibrate(model, x)),
        hcjax.int8(hcjax.fake_quantize(small, hcjax.calibrate(small, x))),
    ):
        assert hcjax.unpack(hcjax.pack(made)).about == about


def test_a_mask_is_told_in_shares_and_written_as_numbers(capsys, tmp_path):
    files, _ = pictures(tmp_path / "a", side=8)
    params = {"w": jnp.float32([[-1.0, 1.0]]), "b": jnp.float32([0.5, 0.0])}
    model = hcjax.trace(lambda p, x: x @ p["w"] + p["b"], params, jnp.zeros((1, 8, 8, 1)))
    about = {"mean": [0.0], "std": [1.0], "class_names": ["paper", "ink"], "task": "segmentation"}
    path = tmp_path / "m.hcz"
    path.write_bytes(hcjax.pack(model, about=about))
    where = f"--masks={tmp_path / 'found'}"
    out, _ = predicted(capsys, path, tmp_path / "a", where, f"--json={tmp_path / 'p.json'}")
    assert out.split()[:3] == ["image", "class", "share"]
    said = json.loads((tmp_path / "p.json").read_text())
    for row, file in zip(said, sorted(files), strict=True):
        pixels = read_image(file, (8, 8, 1))[..., 0] / 255
        mask = np.asarray(Image.open(tmp_path / "found" / f"{file.stem}.png"))
        np.testing.assert_array_equal(mask, pixels > 0.25)
        assert row["shares"].get("ink", 0) == pytest.approx(mask.mean())
    assert "--masks" in refused(capsys, trained(), *files, where)
    assert "--top_k is of classification" in refused(capsys, path, *files, "--top_k=2")


def test_sounds_are_read_at_the_rate_of_training(capsys, tmp_path):
    from scipy.io import wavfile

    low, high = (np.sin(2 * np.pi * f * np.arange(1600) / 1600) for f in (50, 600))
    wavfile.write(tmp_path / "low.wav", 1600, np.float32(low))
    wavfile.write(tmp_path / "high.wav", 1600, np.float32(high))
    wavfile.write(tmp_path / "short.wav", 800, np.float32(low[::2]))  # at half of the rate
    (tmp_path / "bad.wav").write_text("no sound")
    changes = lambda x: jnp.abs(jnp.diff(x)).mean(1, keepdims=True)
    model = hcjax.trace(
        lambda p, x: changes(x) @ p["w"] + p["b"],
        {"w": jnp.float32([[-9.0, 9.0]]), "b": jnp.float32([5.0, -5.0])},
        jnp.zeros((1, 1600)),
    )
    about = {"class_names": ["low", "high"], "inputs": {"rate": 1600, "seconds": 1.0}}
    path = tmp_path / "m.hcz"
    path.write_bytes(hcjax.pack(model, about=about))
    out, err = predicted(capsys, path, tmp_path, code=2)
    assert "files are no sounds by name" in out and "bad.wav" in err
    found = {line.split()[0].rsplit("/")[-1]: line.split()[1] for line in out.splitlines()[2:]}
    assert found == {"low.wav": "low", "high.wav": "high", "short.wav": "low"}


def both(p, x):
    return x["numbers"] @ p["w"] + jax.nn.one_hot(x["text"][:, 0], 128) @ p["t"]


def test_rows_of_text_and_numbers_are_read_for_a_network_of_both(capsys, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{'ab'[i % 2]},{i}.5,{('no', 'yes')[i % 2]}" for i in range(30)]
    (tmp_path / "r.csv").write_text("\n".join(["name,size,kind", *lines]))
    data = hcjax.data.load("csv", path=str(tmp_path / "r.csv"), target="kind", text="name",
                           units="bytes", validation=0, test=2)  # fmt: skip
    params = {
        "w": jnp.float32(rng.normal(size=(1, 2))),
        "t": jnp.float32(rng.normal(size=(128, 2))),
    }
    inputs = jax.tree.map(lambda x: x[:1], data.train.inputs)
    path = tmp_path / "m.hcz"
    about = {"class_names": data.class_names, "inputs": data.about}
    path.write_bytes(hcjax.pack(hcjax.trace(both, params, inputs), about=about))
    (tmp_path / "new.csv").write_text("name,size\na,3.5\nb,20\nb,odd\nc,\n")
    json_file = tmp_path / "p.json"
    predicted(capsys, path, tmp_path / "new.csv", f"--json={json_file}", code=2)
    said = json.loads(json_file.read_text())
    good = hcjax.data.encode([{"name": "a", "size": 3.5}, {"name": "b", "size": 20}], data.about)
    for row, logits in zip(said, both(params, good), strict=False):
        assert row["predictions"][0]["class"] == data.class_names[int(logits.argmax())]
    assert "'size'" in said[2]["problem"] and len(said) == 4


@pytest.mark.parametrize(
    "inputs", [(jnp.zeros((1, 8, 8, 1)),) * 2, ({"left": jnp.ones((1, 4)), "right": jnp.ones(1)},)]
)
def test_other_networks_of_several_inputs_are_refused_by_what_they_take(capsys, tmp_path, inputs):
    files, _ = pictures(tmp_path / "a", side=8)
    flat = lambda a: a.reshape(a.shape[0], -1)
    add = lambda p, *x: sum(flat(a) @ p[: flat(a).shape[1]] for a in jax.tree.leaves(x))
    path = tmp_path / "m.hcz"
    path.write_bytes(hcjax.pack(hcjax.trace(add, jnp.ones((64, 2)), *inputs)))
    error = refused(capsys, path, *files)
    assert "float32[N, " in error and "several inputs" in error and "hcjax.unpack" in error
