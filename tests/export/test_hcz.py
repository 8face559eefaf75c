"""pack and unpack: the same Model from its bytes alone, and honest errors for other bytes."""

import json
import re
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hcjax
from hcjax.errors import ArtifactError
from hcjax.export.hcz import arrays, graphs, hcz
from hcjax.graph.qtensor import QTensor
from tests.draws import normal
from tests.export.damage import closed, damaged, opened, summed, survives, tiny
from tests.graph.networks import FROZEN, NETWORKS

BLOBS = []  # of `tiny`'s models


def made(name, count=3):
    apply, params, image = NETWORKS[name]()
    images = normal(count, *image.shape[1:], seed=1)
    return hcjax.trace(apply, params, image, frozen=FROZEN.get(name, "")), images


def logits(model, images):
    return np.asarray(jax.jit(model.apply)(model.params, images))


def same(left, right, images):
    np.testing.assert_array_equal(logits(left, images), logits(right, images))
    assert set(left.params) == set(right.params)
    for path, leaf in left.params.items():
        for a, b in zip(jax.tree.leaves(leaf), jax.tree.leaves(right.params[path]), strict=True):
            assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        if isinstance(leaf, QTensor):
            assert (leaf.bits, leaf.axis) == (right.params[path].bits, right.params[path].axis)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "haiku mobilenet"])  # the others in graph/test_chain
def test_float_and_int8_models_come_back_bit_for_bit(name):
    model, images = made(name)
    folded = hcjax.fold(model)
    back = hcjax.unpack(hcjax.pack(folded))
    same(folded, back, images)
    assert hcjax.cost(back).macs == hcjax.cost(folded).macs > 0
    assert back.image_shape == folded.image_shape
    small = hcjax.int8(folded, hcjax.calibrate(folded, images))
    blob = hcjax.pack(small)
    same(small, hcjax.unpack(blob), images)
    assert blob == hcjax.pack(small) == hcjax.pack(hcjax.unpack(blob))
    assert hcjax.unpack(blob).floats == small.floats


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linen", "dense", "lenet5"])
def test_what_comes_back_goes_on_through_the_chain(name):
    model, images = made(name)
    folded = hcjax.fold(model)
    back = hcjax.unpack(hcjax.pack(folded))

    def slopes(model):
        score = jax.jit(jax.grad(lambda p: jnp.square(model.apply(p, images)).sum()))
        return jax.tree.leaves(score(model.params))

    for ours, theirs in zip(slopes(back), slopes(folded), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    again = hcjax.fold(back)
    small = hcjax.int8(folded, hcjax.calibrate(folded, images))
    for other in (back, again):
        same(small, hcjax.int8(other, hcjax.calibrate(other, images)), images)


def program(model, images):
    """Returns the lines of a model's program for XLA, in any order, without names of values."""
    text = jax.jit(model.apply).lower(model.params, images).as_text()
    return sorted(re.sub(r"%[\w:#]+", "%", line) for line in text.splitlines())


@pytest.mark.parametrize(
    "name",
    [
        "linen",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("haiku mobilenet", "resnet_tiny")),
    ],
)
def test_a_model_that_is_not_folded_comes_back_as_it_was(name):
    """Its BatchNorm's constants were evaluated: XLA rounded them otherwise than in a program."""
    model, images = made(name)
    back = hcjax.unpack(hcjax.pack(model))
    assert back.paths == model.paths
    assert program(back, images) == program(model, images)
    same(model, back, images)


def test_ops_of_parameters_that_no_file_holds_are_evaluated():
    apply = lambda p, x: jnp.tanh(x @ (jnp.fft.rfft(p["w"]).real * p["b"])) @ p["v"]
    params = {"w": normal(5, 4, seed=2), "b": jnp.ones(3), "v": normal(3, 2, seed=3)}
    model = hcjax.trace(apply, params, jnp.ones((1, 5)))
    back = hcjax.unpack(hcjax.pack(model))
    assert {"b", "v"} < set(back.params) and len(back.params) == 3
    images = normal(4, 5, seed=4)
    np.testing.assert_allclose(logits(back, images), logits(model, images), atol=1e-5)


NUMBERS = st.sampled_from([0.0, -0.0, 1.5, -3.0, np.inf, -np.inf, np.nan, 1e-40, 0.0, 0.0])
FLOATING = ("float16", "bfloat16", "float32")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_arrays_of_all_shapes_and_dtypes_come_back_bit_for_bit(data):
    """Empty ones, numbers without axes, NaN, infinities and the other zero, mostly zeros or not."""
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    dtype = jnp.dtype(data.draw(st.sampled_from([d for d in arrays.DTYPES if d[-2:] != "64"])))
    size = int(np.prod(shape, dtype=int))
    if dtype.name in FLOATING:
        flat = np.array(data.draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float32)
    elif dtype.kind == "b":
        flat = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        some = st.one_of(st.just(0), st.integers(low, high))
        flat = np.array(data.draw(st.lists(some, min_size=size, max_size=size)), dtype)
    array = flat.astype(dtype).reshape(shape)
    streams = []
    entry = hcz._serialize(array, streams)
    back = hcz._deserialize(entry, hcz._Streams(b"".join(each.data for each in streams)))
    assert back.dtype == array.dtype and back.shape == array.shape
    assert np.asarray(back).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", FLOATING)
def test_networks_of_few_bits_come_back_bit_for_bit(dtype):
    params = {"w": normal(6, 4).astype(dtype), "none": jnp.zeros((0, 4), dtype), "s": jnp.ones(())}
    params["w"] = params["w"].at[0, 0].set(jnp.nan).at[1, 1].set(-jnp.inf)
    rows = lambda p: jnp.concatenate([p["w"], p["none"]])
    model = hcjax.trace(lambda p, x: x @ rows(p) * p["s"], params, jnp.ones((1, 6), dtype))
    back = hcjax.unpack(hcjax.pack(model))
    assert back.image_dtype == jnp.dtype(dtype) and set(back.params) == set(params)
    same(model, back, jnp.ones((2, 6), dtype))


def test_what_cannot_be_unpacked_is_not_packed(monkeypatch):
    deep = jnp.ones([1] * 16 + [3])
    model = hcjax.trace(lambda p, x: x * p.reshape(3), deep, jnp.ones((1, 3)))
    with pytest.raises(ArtifactError, match="16 axes and 2,147,483,648 numbers are legal"):
        hcjax.pack(model)
    model, _ = made("dense")
    monkeypatch.setattr(graphs, "_MOST_NUMBERS", 100)
    with pytest.raises(TypeError, match="numbers for 2 images; a file holds 100 of them"):
        hcjax.pack(model)


@pytest.mark.parametrize("bits", [2, 4, 8, 32])
def test_a_file_is_hardly_longer_than_its_bits_where_nothing_compresses(bits):
    rng = np.random.default_rng(0)
    params = {"a": rng.uniform(-1, 1, (784, 100)), "b": rng.uniform(-1, 1, (100, 10))}
    params = jax.tree.map(jnp.float32, params)
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    images = jnp.ones((2, 784))
    model = hcjax.trace(apply, params, images)
    if bits < 32:
        model = hcjax.int8(model, hcjax.calibrate(model, images), bits=bits)
    count = sum(leaf.size for leaf in model.params.values() if leaf.size >= 1000)
    size = len(hcjax.pack(model))
    assert size <= 1.02 * count * bits / 8 + 4096
    assert count == 79_400


@pytest.mark.slow
def test_resnet20_of_random_weights_is_hardly_longer_than_its_bits_either():
    rng = np.random.default_rng(0)
    init, apply = hcjax.models.create("resnet20", num_classes=10, input_shape=(28, 28, 1))
    params, state = init(jax.random.key(0))
    images = jnp.asarray(rng.normal(size=(2, 28, 28, 1)), jnp.float32)
    model = hcjax.fold(hcjax.trace(hcjax.inference(apply, state), params, images))
    uniform = {path: rng.uniform(-0.1, 0.1, leaf.shape) for path, leaf in model.params.items()}
    model = model.replace(params=jax.tree.map(jnp.float32, uniform))
    ranges = hcjax.calibrate(model, images)
    for bits, least in ((8, 270_000), (4, 135_000)):
        small = hcjax.int8(model, ranges, bits=bits)
        # all its numbers as they are stored: integers at their bits, scales, multipliers, shifts
        stored = sum(leaf.nbytes for leaf in small.params.values())
        assert least < stored < 1.1 * least
        assert len(hcjax.pack(small)) <= 1.02 * stored + 4096


def test_pruned_zeros_take_next_to_nothing_and_stay_zero():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(300, 100)), jnp.float32)}
    images = jnp.asarray(rng.normal(size=(4, 300)), jnp.float32)
    model = hcjax.trace(lambda p, x: x @ p["w"], params, images)
    masks = hcjax.prune.masks(model.params, sparsity=0.98)
    sparse = model.replace(params=hcjax.prune.apply(masks, model.params))
    back = hcjax.unpack(hcjax.pack(sparse))
    same(sparse, back, images)
    assert len(hcjax.pack(sparse)) < 600 * 4 + 800 + 400
    small = hcjax.int8(sparse, hcjax.calibrate(sparse, images))
    kept = np.asarray(hcjax.unpack(hcjax.pack(small)).params["w"].values) != 0
    assert (kept <= np.asarray(masks["w"])).all() and kept.sum() > 500


def test_a_fresh_process_that_imports_only_hcjax_gets_the_same_bits(tmp_path):
    model, images = made("dense", 2)
    model = hcjax.fold(model)
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    about = {"class_names": [*"abcdefghij"], "mean": [0.5]}
    (tmp_path / "model.hcz").write_bytes(hcjax.pack(small, about=about))
    np.save(tmp_path / "images.npy", images)
    code = """if True:
        import sys, pathlib, numpy, hcjax
        folder = pathlib.Path(sys.argv[1])
        model = hcjax.unpack((folder / "model.hcz").read_bytes())
        assert model.about["mean"] == [0.5] and len(model.about["class_names"]) == 10
        images = numpy.load(folder / "images.npy")
        numpy.save(folder / "logits.npy", hcjax.jit(model.apply)(model.params, images))
        assert not {"haiku", "equinox", "tensorflow"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits(small, images))


def test_64_bits_are_read_where_jax_has_them_and_nowhere_else():
    model_of = lambda w: hcjax.trace(lambda p, x: jnp.tanh(x @ p["w"]), {"w": w}, images)
    images, w = np.linspace(0, 1, 12).reshape(1, 12), np.linspace(-1, 1, 36).reshape(12, 3)
    with jax.enable_x64(True):
        blob = hcjax.pack(model_of(w))
        back = hcjax.unpack(blob)
        assert back.image_dtype == back.params["w"].dtype == np.float64
        same(model_of(w), back, images)
    with pytest.raises(ArtifactError, match=r"holds float64, .*'jax_enable_x64', True"):
        hcjax.unpack(blob)
    narrow = hcjax.unpack(hcjax.pack(model_of(w)))  # what NumPy has and jax has not
    assert narrow.params["w"].dtype == np.float32
    assert (logits(narrow, images) == logits(model_of(w), images)).all()


def test_what_no_file_can_hold_is_an_error_that_says_so():
    model, images = made("nnx")
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images))
    with pytest.raises(TypeError, match=r"is for training: pack int8\(model\)"):
        hcjax.pack(fake)
    apply = lambda p, x: jnp.fft.rfft(x @ p).real
    spectrum = hcjax.trace(apply, jnp.ones((3, 2)), jnp.ones((1, 3)))
    with pytest.raises(TypeError, match=r"test_hcz.py:\d+ .*: no file holds a r?fft"):
        hcjax.pack(spectrum)


def test_every_truncation_and_many_flips_are_found_by_the_checksum():
    rng = np.random.default_rng(0)
    for model in tiny():
        blob = hcjax.pack(model)
        assert survives(blob)
        for length in range(len(blob)):
            assert not survives(blob[:length])
        assert not survives(blob + b"\0")
        for _ in range(1000):
            damaged = bytearray(blob)
            damaged[rng.integers(len(blob))] ^= 1 << rng.integers(8)
            assert not survives(bytes(damaged))


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_a_valid_model_with_a_right_checksum_too(data):
    if not BLOBS:
        BLOBS.extend(map(hcjax.pack, tiny()))
    survives(data.draw(damaged(BLOBS))[1])


def test_what_is_damaged_holds_every_form_of_an_array_and_kind_of_layer():
    heads = [json.loads(opened(hcjax.pack(model))[0]) for model in tiny()]
    text = json.dumps(heads)
    for form in ("raw", "packed", "coded", "sparse"):
        assert f'"{form}"' in text
    kinds = {op[0] for head in heads for op in head["ops"]}
    assert {"conv_general_dilated", "dot_general", "look_up", "spread", "requantize"} <= kinds
    tensors = [entry for head in heads for _, _, *entry in head["params"] if entry[0] == "q"]
    assert {len(entry) for entry in tensors} == {5, 6}  # without and with zeros


def test_a_right_checksum_lets_a_changed_model_in():
    head, streams = opened(hcjax.pack(tiny()[0]))
    assert survives(closed(head, streams))
    assert survives(closed(head, streams[:-1] + bytes([streams[-1] ^ 1])))


def test_bombs_are_refused():
    packed = zlib.compress(b"[" * 30_000_000)
    with pytest.raises(ArtifactError, match="head is cut short"):
        hcjax.unpack(summed(len(packed).to_bytes(4, "little") + packed))
    packed = zlib.compress(b"[" * 1_000_000)
    with pytest.raises(ArtifactError, match=r"nested too deep|not that of a model"):
        hcjax.unpack(summed(len(packed).to_bytes(4, "little") + packed))
    with pytest.raises(ArtifactError, match=r"not a \.hcz file: it begins with b'PK"):
        hcjax.unpack(b"PK\x03\x04")


@pytest.mark.parametrize("what", ["model.hcz", None, 5])
def test_what_is_no_content_of_a_file_is_refused(what):
    with pytest.raises(ArtifactError, match=r"content of a .hcz file as bytes, .*load_any"):
        hcjax.unpack(what)


def test_about_may_hold_arrays_and_names_what_no_file_holds():
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
    about = {"mean": np.float32([0.5]), "std": jnp.ones(2), "deep": [{"n": np.int64(3)}], "s": "é"}
    back = hcjax.unpack(hcjax.pack(model, about=about)).about
    assert back == {"mean": [0.5], "std": [1.0, 1.0], "deep": [{"n": 3}], "s": "é"}
    assert hcjax.pack(model, about=back) == hcjax.pack(model, about=about)
    with pytest.raises(TypeError, match=r"about: expected dicts, .* found set"):
        hcjax.pack(model, about={"names": {"a"}})
    with pytest.raises(hcjax.errors.ArtifactError, match="finite"):
        hcjax.pack(model, about={"mean": np.array([np.nan])})
