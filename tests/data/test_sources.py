"""Sources of text, numbers, sounds and masks."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from scipy.io import wavfile

import hcjax
from hcjax.data.sources import masks, table, wav
from hcjax.errors import ConfigError, DataError
from tests.draws import normal

ROWS = [
    {"name": f"{'ab' if i % 2 else 'cd'}{i % 7}", "size": i, "weight": f"{i / 3:.3f}",
     "kind": "yes" if i % 2 else "no"}
    for i in range(40)
]  # fmt: skip


def write_csv(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def load(path, **options):
    return hcjax.data.load("csv", path=str(path), validation=5, test=5, **options)


def test_a_table_is_text_and_standardised_numbers(tmp_path):
    data = load(write_csv(tmp_path / "rows.csv"), target="kind", text="name", length=4)
    assert data.class_names == ("no", "yes") and data.form == "arrays"
    assert data.train.inputs["text"].shape == (30, 4) and data.validation.size == 5
    numbers = data.train.inputs["numbers"]
    np.testing.assert_allclose(numbers.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(numbers.std(0), 1, atol=1e-6)
    assert data.about["numbers"]["columns"] == ["size", "weight"]
    # what is stored is enough for new rows
    about = json.loads(json.dumps(data.about))
    again = hcjax.data.encode([{"name": "ab1", "size": 1, "weight": "0.333"}], about)
    i = [r["name"] for r in ROWS].index("ab1")
    assert ROWS[i]["size"] == 1 and again["text"].shape == (1, 4) and 1 not in again["text"][0]
    unknown = hcjax.data.encode([{"name": "zz", "size": 1, "weight": 1}], about)
    assert unknown["text"].tolist() == [[1, 1, 0, 0]]


def test_csv_and_jsonl_are_one_table(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    one = load(write_csv(tmp_path / "rows.csv"), target="kind", text="name", units="words")
    other = hcjax.data.load("jsonl", path=str(tmp_path / "rows.jsonl"), validation=5, test=5,
                            target="kind", text="name", units="words")  # fmt: skip
    np.testing.assert_array_equal(one.train.inputs["text"], other.train.inputs["text"])
    np.testing.assert_array_equal(one.train.targets, other.train.targets)


def test_a_fraction_is_a_number_to_predict_and_parts_are_files(tmp_path):
    write_csv(tmp_path / "set" / "train.csv", ROWS[:30])
    write_csv(tmp_path / "set" / "test.csv", ROWS[30:])
    data = load(tmp_path / "set", target="weight", numbers=["size"])
    assert data.class_names == () and data.train.targets.shape == (25, 1) and data.test.size == 10

    def apply(params, x):
        return x @ params["w"] + params["b"]

    params = {"w": np.zeros((1, 1), np.float32), "b": np.zeros(1, np.float32)}
    done = hcjax.fit(apply, params, data, task="regression", tx=optax.adam(0.5), steps=150,
                     batch_size=25, key=jax.random.key(0), quiet=True)  # fmt: skip
    assert hcjax.evaluate(apply, done.params, data, task="regression").summary["r2"] > 0.99


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"size": ""}, {}, r"numbers are missing, rows by column: \{'size': 1\}.*missing='mean'"),
        ({"kind": ""}, {}, "1 rows have no 'kind', the first row 4"),
        ({"size": "many"}, {"numbers": ["size"]}, "row 4, 'size': expected a number, got 'many'"),
        ({}, {"target": "kinds"}, "unknown column 'kinds'.*did you mean 'kind'"),
        ({}, {"numbers": []}, "expected a column of text .* or of numbers"),
        ({}, {"text": "name", "units": "letters"}, "unknown units of text 'letters'"),
        ({}, {"texts": "name"}, "unknown option of source 'csv' 'texts'"),
    ],
)
def test_what_a_table_lacks_is_named(tmp_path, change, options, message):
    rows = [dict(row) for row in ROWS]
    rows[3] |= change
    with pytest.raises((DataError, ConfigError), match=message):
        load(write_csv(tmp_path / "rows.csv", rows), **{"target": "kind"} | options)


def test_missing_numbers_take_the_mean_on_request(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[3]["size"] = "NA"
    path = write_csv(tmp_path / "rows.csv", rows)
    data = load(path, target="kind", numbers=["size"], missing="mean")
    everything = np.concatenate([getattr(data, part).inputs for part in hcjax.data.dataset.PARTS])
    assert (everything == 0).sum() >= 1


@pytest.mark.parametrize("rate, dtype", [(8000, np.int16), (16000, np.uint8), (8000, np.float32)])
def test_sounds_of_any_rate_and_width_are_read(tmp_path, rate, dtype):
    t = np.arange(rate) / rate
    for name, pitch in (("high", 2000), ("low", 500)):
        (tmp_path / name).mkdir()
        wave = 0.5 * np.sin(2 * np.pi * pitch * t)
        scaled = {"i": wave * 32767, "u": wave * 127 + 128, "f": wave}[np.dtype(dtype).kind]
        for i in range(3):
            wavfile.write(
                tmp_path / name / f"{i}.wav", rate, np.stack([scaled] * 2, 1).astype(dtype)
            )
    data = hcjax.data.load("wav", path=str(tmp_path), rate=8000, seconds=0.5, validation=0, test=2)
    sounds = data.train.inputs
    assert sounds.shape == (4, 4000) and data.class_names == ("high", "low")
    assert 0.45 < np.abs(sounds[:, 100:-100]).max() < 0.55
    picture = np.asarray(hcjax.data.log_mel(sounds, rate=8000, bands=20)).mean(1)
    band = picture.argmax(1)
    assert (band[data.train.targets == 0] > band[data.train.targets == 1]).all()


def test_a_spectrogram_is_a_part_of_the_network_that_ships():
    def apply(p, x):
        return hcjax.data.log_mel(x, rate=8000, bands=10).mean(1) @ p

    x = np.asarray(0.3 * normal(4, 800))
    model = hcjax.fold(hcjax.trace(apply, normal(10, 3), x))
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    back = hcjax.unpack(hcjax.pack(small))
    np.testing.assert_array_equal(
        jax.jit(back.apply)(back.params, x), jax.jit(small.apply)(small.params, x)
    )
    assert back.image_shape == (800,)


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"no sound at all"])
def test_what_is_no_sound_is_named(tmp_path, content):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"[ab]/[01].wav: expected a readable .wav file"):
        hcjax.data.load("wav", path=str(tmp_path), validation=0, test=1)


def write_pairs(folder, count=8, size=(6, 8), values=(0, 255)):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        mask = rng.choice(values, size).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
        Image.fromarray(np.stack([mask // 2] * 3, -1)).save(folder / "images" / f"{i}.png")


def test_images_and_masks_are_pairs_that_a_segmentation_learns(tmp_path):
    write_pairs(tmp_path)
    data = hcjax.data.load("masks", path=str(tmp_path), validation=1, test=2)
    assert data.form == "images" and data.class_names == ("0", "255")
    assert data.train.targets.shape == (5, 6, 8) and data.train.images.dtype == np.uint8
    params = {"w": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}

    def apply(p, x):
        return x @ p["w"] + p["b"]

    done = hcjax.fit(apply, params, data, task="segmentation", tx=optax.adam(0.3), steps=20,
                     batch_size=5, key=jax.random.key(0), quiet=True)  # fmt: skip
    scores = hcjax.evaluate(apply, done.params, data, task="segmentation").summary
    assert scores["object_iou"] == 1.0


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "masks" / "3.png").unlink(), "only one of 3"),
        (lambda f: Image.new("L", (3, 3)).save(f / "images" / "3.png"), "3 x 3 pixels, expected"),
        (lambda f: Image.new("RGB", (8, 6)).save(f / "masks" / "3.png"), "found colours"),
        (lambda f: (f / "masks" / "3.png").write_bytes(b"x"), "expected a readable mask"),
    ],
)
def test_pairs_that_do_not_fit_are_named(tmp_path, spoil, message):
    write_pairs(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        hcjax.data.load("masks", path=str(tmp_path), validation=1, test=2)


@pytest.mark.parametrize(
    "values, given, file, names, classes",
    [
        ((0, 255), None, None, ("0", "255"), {0, 1}),
        ((0, 255), ("ground", "thing"), None, ("ground", "thing"), {0, 1}),
        ((0, 1), ("ground", "thing"), None, ("ground", "thing"), {0, 1}),
        ((0, 2), ("a", "b", "c"), None, ("a", "b", "c"), {0, 2}),  # training lacks one
        ((0, 255), None, "ground\nthing\n\n", ("ground", "thing"), {0, 1}),
        ((0, 255), ("x", "y"), "ground\nthing", ("x", "y"), {0, 1}),
        ((0, 1, 2, 255), None, None, ("0", "1", "2"), {0, 1, 2, -1}),  # as Pascal VOC's
        ((0, 2, 255), ("a", "b", "c", "d"), None, ("a", "b", "c", "d"), {0, 2, -1}),
        ((0, 1, 255), ("a", "b"), None, ("a", "b"), {0, 1, -1}),
        ((0, 128, 255), ("a", "b", "c"), None, ("a", "b", "c"), {0, 1, 2}),
        ((0, 128, 255), None, None, ("0", "128", "255"), {0, 1, 2}),
    ],
)
def test_classes_of_masks_are_called_by_a_file_or_by_who_reads_them(
    tmp_path, values, given, file, names, classes
):
    write_pairs(tmp_path, values=values)
    if file:
        (tmp_path / "classes.txt").write_text(file)
    options = {"validation": 1, "test": 2, "class_names": given}
    data = hcjax.data.load("masks", path=str(tmp_path), **options)
    assert data.class_names == names and set(np.unique(data.train.targets)) == classes


def test_a_255_that_may_be_a_class_or_none_is_asked_about(tmp_path):
    write_pairs(tmp_path, values=(0, 1, 255))
    with pytest.raises(DataError, match=r"is 255 a class, or none, in masks of .* with 3 names"):
        hcjax.data.load("masks", path=str(tmp_path), test=2, class_names=("a", "b", "c"))


def test_pixels_of_no_class_may_be_in_one_part_only_and_count_in_no_score(tmp_path):
    write_pairs(tmp_path / "train", values=(0, 1))
    write_pairs(tmp_path / "test", count=2, values=(0, 1, 255))
    data = hcjax.data.load("masks", path=str(tmp_path), validation=2)
    assert data.class_names == ("0", "1") and set(np.unique(data.test.targets)) == {-1, 0, 1}
    scores = hcjax.evaluate(lambda p, x: jnp.stack([p - x[..., 0], x[..., 0] - p], -1),
                            jnp.float32(0), data, task="segmentation").summary  # fmt: skip
    assert 0 < scores["iou"] <= 1 and scores["nll"] > 0


@pytest.mark.parametrize(
    "file, message",
    [
        ("a\nb\nc", "3 names of classes are for masks that hold 0 to 2, or 3 other values; .* 2: "),
        ("a\na", "a name of its own on each line"),
        ("a\n\nb", "a name of its own on each line"),
        ("", "a name of its own on each line"),
    ],
)
def test_names_that_fit_no_masks_are_refused(tmp_path, file, message):
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text(file)
    with pytest.raises(DataError, match=message):
        hcjax.data.load("masks", path=str(tmp_path), validation=1, test=2)


def test_only_files_that_are_kept_are_read(tmp_path, monkeypatch):
    write_pairs(tmp_path / "masks")
    for name in "ab":
        (tmp_path / "wav" / name).mkdir(parents=True)
        for i in range(6):
            wavfile.write(tmp_path / "wav" / name / f"{i}.wav", 8000, np.zeros(80, np.int16))
    read = []
    for module, name in ((masks, "read_image"), (wav, "read")):
        function = getattr(module, name)
        counted = lambda file, *facts, f=function: (read.append(file), f(file, *facts))[1]
        monkeypatch.setattr(module, name, counted)
    for source in ("masks", "wav"):
        path = str(tmp_path / source)
        whole = hcjax.data.load(source, path=path, validation=2, test=2)
        read.clear()
        some = hcjax.data.load(source, path=path, validation=2, test=2, limit=1)
        assert len(read) == 3 and some.class_names == whole.class_names
        assert some.train.inputs[0] in whole.train.inputs
        bare = hcjax.data.load(source, path=path, validation=0, test=2)
        assert bare.validation.size == 0 and bare.validation.inputs.ndim == whole.train.inputs.ndim


@pytest.mark.parametrize("text, words", [
    ('A plant; "well-known", isn\'t it?', 'a plant ; " well - known " , isn \' t it ?'),
    ("3.5 % of $9 (x_1)", "3 . 5 % of $ 9 ( x _ 1 )"),
    ("Été «chaud»… ÜBER", "été « chaud » … über"),
    ("हिन्दी भाषा।", "हिन्दी भाषा ।"),  # a vowel's sign belongs to its word
    ("日本語、です", "日本語 、 です"),
])  # fmt: skip
def test_words_are_apart_from_the_marks_beside_them(text, words):
    assert table.UNITS["words"](text) == words.split()


@pytest.mark.parametrize("source", ["csv", "jsonl", "masks", "wav", "folder", "idx", "npz"])
def test_a_place_that_is_not_there_is_named(tmp_path, source):
    options = {"target": "class"} if source in ("csv", "jsonl") else {}
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "nothing"))):
        hcjax.data.load(source, path=str(tmp_path / "nothing"), **options)
