"""What `unpack` takes of memory and time is bounded, whatever a file claims to hold."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ArtifactError
from hcjax.export.hcz import arrays, coder, graphs
from tests.export.damage import closed, opened, tiny


def small():
    """Returns (head, streams) of a packed network."""
    head, streams = opened(hcjax.pack(tiny()[0]))
    return json.loads(head), streams


def claiming(dtype, shape, form, data):
    """Returns a file with one more array, which claims to hold so much."""
    head, streams = small()
    head["constants"].append([1000, dtype, shape, form, len(data)])
    return closed(json.dumps(head).encode(), streams + data)


@pytest.mark.parametrize(
    ("shape", "form", "data"),
    [
        ([130_008 * 8192], "coded", b"\xff" * 130_000),
        ([1, 12_008 * 8192], "coded", b"\xff" * 12_000),
        ([9_800_000], "coded", bytes(2_000)),
        ([30, 400_000], "sparse", bytes(2_000)),
    ],
)
def test_more_numbers_than_a_file_of_its_length_may_hold_take_no_memory(shape, form, data):
    blob = claiming("int8" if form == "coded" else "float32", shape, form, data)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=r"too short for [\d,]+ numbers"):
            hcjax.unpack(blob)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_rows_of_an_empty_array_take_no_memory():
    tracemalloc.start()
    try:
        hcjax.unpack(claiming("int8", [0, 2**31], "coded", b""))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_the_budget_is_of_all_arrays_of_a_file(monkeypatch):
    monkeypatch.setattr(coder, "_FREE", 10_000)
    form, data, cost = arrays.encode(np.zeros((40, 100), np.int8))
    assert form == "coded" and cost == 4_000
    head, streams = small()
    for count in (2, 99):
        head["constants"] = [[1000 + i, "int8", [40, 100], form, len(data)] for i in range(count)]
        blob = closed(json.dumps(head).encode(), streams + data * count)
        if count == 2:
            assert len(hcjax.unpack(blob).graph.constants) == 2
        else:
            with pytest.raises(ArtifactError, match="too short for 4,000 numbers"):
                hcjax.unpack(blob)


def test_numbers_of_many_bits_take_more_of_the_budget():
    form, data, cost = arrays.encode(np.full(5_000, 100, np.int8))
    assert cost > 8 * 5_000
    budget = coder.Budget(0)
    budget.left = cost - 1
    with pytest.raises(ArtifactError, match="too short for so many numbers"):
        arrays.decode(form, data, "int8", (5_000,), 8, budget)


def test_next_to_nothing_but_zeros_is_padded_until_it_may_be_unpacked(monkeypatch):
    images = jnp.ones((1, 300))
    params = {"w": jnp.zeros((300, 100)).at[7, 9].set(2.0)}
    model = hcjax.trace(lambda p, x: x @ p["w"], params, images)
    plain = hcjax.pack(model)
    assert len(plain) < 400 and b"padding" not in opened(plain)[0]
    monkeypatch.setattr(coder, "_FREE", 1_000)
    padded = hcjax.pack(model)
    assert len(plain) < len(padded) < len(plain) + 30_000 / 256 + 30
    back = hcjax.unpack(padded)
    assert (back.params["w"] == params["w"]).all()
    with pytest.raises(ArtifactError, match="too short"):
        hcjax.unpack(plain)


def test_a_large_network_of_few_weights_is_within_its_budget():
    for numbers, length in ((430_000, 3_700), (25_000_000, 250_000)):
        assert coder.Budget(length).left > 1.5 * numbers


def test_ops_are_bounded_on_both_sides(monkeypatch):
    head, streams = small()
    last = head["logits"]
    for i in range(10_000):
        head["ops"].append(["neg", [last], 100 + i, {}])
    with pytest.raises(ArtifactError, match="10,007 ops; 10,000 are legal"):
        hcjax.unpack(closed(json.dumps(head).encode(), streams))
    monkeypatch.setattr(graphs, "_MOST_OPS", 3)
    with pytest.raises(TypeError, match="7 ops; a file holds 3"):
        hcjax.pack(tiny()[0])


def test_operands_are_bounded_on_both_sides(monkeypatch):
    """2 kB of them took 22 s and 800 MiB."""
    head, streams = small()
    head["ops"].append(["concatenate", [head["logits"]] * 1_000_000, 100, {"dimension": 1}])
    with pytest.raises(ArtifactError, match=r"1,000,0\d\d operands of ops; 50,000 are legal"):
        hcjax.unpack(closed(json.dumps(head).encode(), streams))
    monkeypatch.setattr(graphs, "_MOST_OPERANDS", 3)
    with pytest.raises(TypeError, match="operands of ops; a file holds 3"):
        hcjax.pack(tiny()[0])


def test_axes_are_bounded_on_both_sides():
    images = jnp.ones((1, 3))
    many = hcjax.trace(lambda p, x: x.reshape(-1, *[1] * 64, 3).sum(range(1, 65)), {}, images)
    with pytest.raises(TypeError, match="gives 66 axes; a file holds 64"):
        hcjax.pack(many)
    head, streams = small()
    for axes, last in ((64, 100), (65, 101)):
        shape = [{"b": [1, 0]}, *[1] * (axes - 2), 4]
        head["ops"].append(["broadcast_in_dim", [head["logits"]], last, {
            "shape": shape, "broadcast_dimensions": [0, axes - 1],
        }])  # fmt: skip
        blob = closed(json.dumps(head).encode(), streams)
        if axes == 64:
            hcjax.unpack(blob)
        else:
            with pytest.raises(ArtifactError, match="gives 65 axes; 64 are legal"):
                hcjax.unpack(blob)


def test_a_head_is_bounded_on_both_sides():
    model = tiny()[0]
    with pytest.raises(ArtifactError, match="the head is longer than 4,194,304 bytes"):
        hcjax.pack(model, about="x" * 2**22)
    assert hcjax.unpack(hcjax.pack(model, about="x" * 2**21)).about == "x" * 2**21


def test_too_little_memory_is_an_error_of_the_file(monkeypatch):
    def decode(*_):
        raise MemoryError

    blob = hcjax.pack(tiny()[0])
    monkeypatch.setattr(arrays, "decode", decode)
    with pytest.raises(ArtifactError, match="more memory than there is"):
        hcjax.unpack(blob)


def test_no_error_of_arithmetic_escapes():
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    conv = lambda p, x: jax.lax.conv_general_dilated(
        x, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).sum((1, 2))
    model = hcjax.trace(conv, jnp.ones((3, 3, 1, 2)), jnp.zeros(images.shape))
    head, _ = opened(hcjax.pack(model))
    head = json.loads(head)
    head["params"][0][3:] = [[3, 3, 1, 0], "raw", 0]
    with pytest.raises(ArtifactError):
        hcjax.unpack(closed(json.dumps(head).encode(), b""))
