"""The coder that XLA compiles: the bytes, the numbers and the refusals of the one in Python."""

import time

import jax
import numpy as np
import pytest

from hcjax.errors import ArtifactError
from hcjax.export.hcz import compiled, numbers
from hcjax.export.hcz.coder import Budget


def drawn(*shape, scale, part=1.0, dtype=np.int8, seed=0):
    """Returns random integers, of which a part is not 0."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.laplace(scale=scale, size=shape)) * (rng.random(shape) < part)
    return values.clip(np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


ARRAYS = {
    "weights": drawn(90, 64, scale=20),
    "every number of 8 bits": np.arange(-128, 128, dtype=np.int8).repeat(9).reshape(48, 48),
    "pruned": drawn(300, 40, scale=2, part=0.03),
    "zeros": np.zeros((70, 1000), np.int8),
    "longer rows than one call decodes": drawn(3, 2500, scale=1),
    "one column": drawn(5000, 1, scale=1),
    "one row": drawn(1, 5000, scale=1),
    "indices": drawn(30, 100, scale=900, dtype=np.int16),
    "the ends of 32 bits": np.array([-(2**31), 2**31 - 1, 0, -1] * 300, np.int32),
    "flags": drawn(300, 250, scale=9, part=0.1) != 0,
    "flags, mostly set": drawn(9, 3000, scale=9) != 0,
}


def coded(values, row, monkeypatch, few):
    monkeypatch.setattr(numbers, "_FEW", few)
    return numbers.encode(values, row)


def decoded(data, values, row, monkeypatch, few, left=2**30):
    """Returns (numbers, what is left of a budget), or None if the bytes are refused."""
    monkeypatch.setattr(numbers, "_FEW", few)
    budget = Budget(0)
    budget.left = left
    try:
        return numbers.decode(data, values.size, row, values.dtype, budget).tolist(), budget.left
    except ArtifactError as error:
        assert str(error)
        return None


@pytest.mark.parametrize("name", ARRAYS)
def test_both_coders_write_and_read_the_same(name, monkeypatch):
    array = ARRAYS[name]
    values, row = array.reshape(-1), array.shape[-1]
    data, count = coded(values, row, monkeypatch, 2**40)
    assert coded(values, row, monkeypatch, 0) == (data, count)
    expected = values.tolist(), 2**30 - count
    for few in (0, 2**40):
        assert decoded(data, values, row, monkeypatch, few) == expected
        assert decoded(data, values, row, monkeypatch, few, left=count) == (expected[0], 0)
        assert decoded(data, values, row, monkeypatch, few, left=count - 1) is None


@pytest.mark.parametrize("name", ["weights", "indices", "flags", "the ends of 32 bits"])
def test_both_coders_read_the_same_from_damaged_bytes(name, monkeypatch):
    values, row = ARRAYS[name].reshape(-1)[:1200], ARRAYS[name].shape[-1]
    data, _ = coded(values, row, monkeypatch, 0)
    rng, refused = np.random.default_rng(0), 0
    pieces = [data[:length] for length in (0, 1, len(data) // 2, len(data) - 9)]
    for _ in range(12):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        pieces.append(bytes(damaged))
    pieces.append(rng.bytes(len(data)))
    for piece in pieces:
        both = [decoded(piece, values, row, monkeypatch, few) for few in (0, 2**40)]
        assert both[0] == both[1]
        refused += both[0] is None
    assert refused  # of a stream cut short, at least


def test_carries_run_through_bytes_of_255_and_from_call_to_call(monkeypatch):
    monkeypatch.setattr(compiled, "_STEPS", 34)  # two numbers a call
    compiled._encoder.cache_clear()
    try:
        for seed in range(20):
            values = drawn(60, scale=40, seed=seed)
            assert coded(values, 60, monkeypatch, 0) == coded(values, 60, monkeypatch, 2**40)
    finally:
        compiled._encoder.cache_clear()


def test_without_a_cpu_to_compile_for_python_codes(monkeypatch):
    values = ARRAYS["weights"].reshape(-1)
    expected = coded(values, 64, monkeypatch, 0)
    monkeypatch.setattr(compiled, "cpu", lambda: None)
    monkeypatch.setattr(compiled, "encode", None)
    assert coded(values, 64, monkeypatch, 0) == expected


@pytest.mark.parametrize(
    "setting", [("enable_x64", True), ("numpy_dtype_promotion", "strict"), ("disable_jit", True)]
)
def test_settings_of_jax_change_nothing(setting, monkeypatch):
    values = ARRAYS["pruned"].reshape(-1)[:2000]
    expected = coded(values, 100, monkeypatch, 2**40)
    compiled._encoder.cache_clear()
    compiled._decoder.cache_clear()
    name, value = setting
    with getattr(jax, name)(value):
        assert coded(values, 100, monkeypatch, 0) == expected
        assert decoded(expected[0], values, 100, monkeypatch, 0)[0] == values.tolist()


def test_a_million_numbers_take_a_second_or_two(monkeypatch):
    """10 s in Python; a third of a second where nothing else runs."""
    values = drawn(200_000, scale=20)
    data, _ = coded(values[:20_000], 64, monkeypatch, 0)
    decoded(data, values[:20_000], 64, monkeypatch, 0)  # compiled by now
    began = time.process_time()
    data, _ = coded(values, 64, monkeypatch, 0)
    assert decoded(data, values, 64, monkeypatch, 0)[0] == values.tolist()
    assert time.process_time() - began < 0.2 * 2 * 2
