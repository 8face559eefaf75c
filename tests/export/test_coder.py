"""The arithmetic coder and the forms of arrays: what goes in comes out, and in few bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax.errors import ArtifactError
from hcjax.export.hcz import arrays
from hcjax.export.hcz.coder import Budget, Decoder, Encoder


@pytest.mark.parametrize("chance", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_bits_come_out_as_they_went_in(chance, count):
    rng = np.random.default_rng(0)
    bits = (rng.random(count) < chance).astype(int).tolist()
    raw = rng.integers(0, 2**13, count).tolist()
    encoder = Encoder()
    for i, (bit, value) in enumerate(zip(bits, raw, strict=True)):
        encoder.bit(i % 3, bit)
        if i % 50 == 0:
            encoder.raw(value, 13)
    data = encoder.finish()
    decoder = Decoder(data, Budget(len(data)))
    for i, (bit, value) in enumerate(zip(bits, raw, strict=True)):
        assert decoder.bit(i % 3) == bit
        if i % 50 == 0:
            assert decoder.raw(13) == value
    entropy = -count * sum(p * np.log2(p) for p in (chance, 1 - chance) if p > 0)
    assert len(data) <= (1.05 * entropy + 0.004 * count + 13 * -(-count // 50)) / 8 + 60


def test_carries_run_through_bytes_of_255():
    rng = np.random.default_rng(1)
    for _ in range(300):
        count = int(rng.integers(1, 60))
        values = rng.choice([0, 2**16 - 1, int(rng.integers(0, 2**16))], count).tolist()
        encoder = Encoder()
        for value in values:
            encoder.raw(value, 16)
            encoder.bit("a", value & 1)
        decoder = Decoder(encoder.finish(), Budget(9))
        for value in values:
            assert decoder.raw(16) == value
            assert decoder.bit("a") == value & 1


ARRAYS = {
    "few levels": np.random.default_rng(0).integers(-7, 8, (3, 5, 40)).astype(np.int8),
    "all zero": np.zeros((20, 30), np.int8),
    "all of int8": np.arange(-128, 128).astype(np.int8),
    "int32 at its ends": np.array([-(2**31), 2**31 - 1, 0, -1], np.int32),
    "floats": np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32),
    "sparse floats": np.where(
        np.random.default_rng(2).random((50, 40)) < 0.05, np.float32(1.25), np.float32(0)
    ),
    "a negative zero": np.array([0.0] * 9 + [-0.0, np.nan, np.inf], np.float32),
    "bfloat16": np.asarray(jnp.arange(5, dtype=jnp.bfloat16)),
    "truth": np.array([True, False]),
    "one number": np.float32(3.5),
    "nothing": np.zeros((0, 3), np.float32),
    "uint8": np.arange(256, dtype=np.uint8),
    "int64 at its ends": np.full(1000, -(2**63)) + (np.arange(1000) % 9 < 1),
    "int64": np.array([2**63 - 1, -(2**40), 2**32, -(2**32) - 1] * 250),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_out_bit_for_bit(name):
    array = np.asarray(ARRAYS[name])
    bits = 4 if name == "few levels" else 8
    form, data, _ = arrays.encode(array, bits)
    with jax.enable_x64(array.dtype.itemsize == 8):
        back = arrays.decode(form, data, array.dtype.name, array.shape, bits, Budget(0))
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("bits", range(2, 9))
def test_random_numbers_take_their_bits_and_little_more(bits):
    most = 2 ** (bits - 1) - 1
    array = np.random.default_rng(0).integers(-most, most + 1, (100, 300)).astype(np.int8)
    form, data, _ = arrays.encode(array, bits)
    assert len(data) <= array.size * bits / 8 + 1
    assert (arrays.decode(form, data, "int8", array.shape, bits, Budget(0)) == array).all()


def test_zeros_and_peaked_numbers_take_less_than_their_entropy_would_without_contexts():
    rng = np.random.default_rng(0)
    rows = rng.random((300, 1)) < 0.2  # whole rows are empty, as pruning leaves them
    array = (rows * np.round(rng.laplace(scale=2, size=(300, 100)))).clip(-127, 127).astype(np.int8)
    _, counts = np.unique(array, return_counts=True)
    share = counts / array.size
    order0 = -array.size * (share * np.log2(share)).sum() / 8
    form, data, _ = arrays.encode(array)
    assert form == "coded" and len(data) < 0.95 * order0
    assert arrays.decode(form, data, "int8", array.shape, 8, Budget(0)).tolist() == array.tolist()


def test_large_arrays_are_coded_where_most_of_them_is_zero(monkeypatch):
    array = np.zeros((2000, 1001), np.float32)  # 2 million numbers took 8 MB, a few less 100 kB
    assert array.size > 2_000_000
    monkeypatch.setattr(arrays, "_sparse", lambda array: arrays.Encoded("sparse", b"short"))
    array[::10, ::10] = 1.5
    assert arrays.encode(array).form == "sparse"


def test_what_would_take_long_to_code_is_stored_as_it_is(monkeypatch):
    monkeypatch.setattr(arrays, "_MOST_WORK", 10_000)
    few = np.zeros((90, 100), np.int8)
    many = few[:20] + np.arange(100, dtype=np.int8) % 3
    assert [arrays.encode(x).form for x in (few, many, many[:10])] == ["coded", "raw", "coded"]
    assert arrays.encode(np.zeros((101, 100), np.int8)).form == "raw"


def test_a_claim_that_no_bytes_can_hold_is_refused_before_memory_is_taken():
    with pytest.raises(ArtifactError, match="too short for 1,000,000,000 numbers"):
        arrays.decode("coded", b"12345", "int8", (1_000_000_000,), 8, Budget(0))
    with pytest.raises(ArtifactError, match="takes 4,000 bytes, not 3"):
        arrays.decode("raw", b"123", "float32", (1000,), 8, Budget(0))
    with pytest.raises(ArtifactError, match="no dtype of this format"):
        arrays.decode("raw", b"", "object", (0,), 8, Budget(0))
    with pytest.raises(TypeError, match="holds no complex64"):
        arrays.encode(np.zeros(2, np.complex64))
