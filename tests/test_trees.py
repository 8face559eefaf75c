"""Tests of hcjax.trees: paths, selection, sizes and the fingerprint."""

import collections
import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from hcjax import trees
from hcjax.errors import ConfigError


class Pair(NamedTuple):
    first: Any
    second: Any


TREE = {
    "conv1": {"kernel": np.ones((3, 3, 1, 2), np.float32), "bias": np.zeros(2, np.float32)},
    "dense1": {"kernel": np.ones((8, 4), np.float32)},
}


def test_paths_join_dictionary_keys_attributes_and_positions():
    tree = {"a": [Pair(1, 2), 3], "b": {"c/d": 4}}
    assert trees.paths(tree) == [("a/0/first", 1), ("a/0/second", 2), ("a/1", 3), ("b/c/d", 4)]


def test_two_leaves_of_one_path_are_refused():
    with pytest.raises(ConfigError, match="two arrays have the path 'a/b'"):
        trees.by_path({"a/b": 1.0, "a": {"b": 2.0}})


def test_paths_come_in_the_order_of_leaves():
    assert [id(leaf) for _, leaf in trees.paths(TREE)] == [id(x) for x in jax.tree.leaves(TREE)]


def test_select_matches_whole_paths_only():
    chosen = trees.select(TREE, "conv1/.*")
    assert chosen == {"conv1": {"kernel": True, "bias": True}, "dense1": {"kernel": False}}
    assert trees.select({"a": {"b": 1, "bc": 2}}, "a/b") == {"a": {"b": True, "bc": False}}
    with pytest.raises(ConfigError, match=r"'conv1' matches no parameter .*'conv1/\.\*' does"):
        trees.select(TREE, "conv1")


def test_a_pattern_that_matches_nothing_names_the_nearest_of_many_and_what_would():
    tree = {f"block{i}": {"kernel": i, "bias": i} for i in range(20)}
    for pattern, expected in {
        "blok7/kernel": r"the nearest of 40 parameters are: .*block7/kernel",
        "block12": r"\(it must match a whole name; 'block12/\.\*' does\).* are: block12/bias, b",
        "kernel": r"'\.\*kernel' does",
        "lock1./ker": r"'\.\*lock1\./ker\.\*' does",
    }.items():
        with pytest.raises(ConfigError, match=expected) as error:
            trees.select(tree, pattern)
        assert len(str(error.value)) < 300


def test_counts_are_of_the_chosen_arrays_and_their_numbers():
    tree = {"a": np.zeros((2, 3)), "b": [np.zeros(4), np.zeros(())]}
    chosen = {"a": True, "b": [False, True]}
    assert trees.counts(tree, chosen) == (2, 7)
    assert trees.counted(tree, chosen) == "2 of 3 arrays, 7 of 11 parameters"


def test_select_takes_several_patterns_and_needs_each_to_match():
    chosen = trees.select(TREE, ["conv1/bias", "dense.*"])
    assert chosen == {"conv1": {"kernel": False, "bias": True}, "dense1": {"kernel": True}}
    with pytest.raises(ConfigError, match=r"'conv9/\.\*' .* parameters are: conv1/bias, conv1/k"):
        trees.select(TREE, ["conv1/.*", "conv9/.*"])


def test_select_refuses_what_is_no_regular_expression():
    with pytest.raises(ConfigError, match="not a regular expression"):
        trees.select(TREE, "conv(")


def test_mask_has_python_bools_and_the_same_structure():
    masks = trees.mask(TREE, trees.kernels)
    assert masks == {"conv1": {"kernel": True, "bias": False}, "dense1": {"kernel": True}}
    assert all(type(leaf) is bool for leaf in jax.tree.leaves(masks))


def test_sizes_count_scalars_and_bytes_of_arrays_and_of_shapes():
    shapes = jax.eval_shape(lambda: TREE)
    assert trees.num_parameters(TREE) == trees.num_parameters(shapes) == 18 + 2 + 32
    assert trees.size_bytes(TREE) == trees.size_bytes(shapes) == 4 * 52
    assert trees.size_bytes({"a": np.zeros(3, np.int8), "b": np.zeros((), np.float16)}) == 5


def test_sha256_is_that_of_the_stated_bytes():
    array = np.array([[1.0, -2.0]], np.float32)
    text = b"a/b float32 (1, 2)\n" + array.tobytes()
    assert trees.sha256({"a": {"b": array}}) == hashlib.sha256(text).hexdigest()


def test_sha256_ignores_key_order_layout_and_where_the_array_lives():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = trees.sha256({"b": rows, "a": rows})
    columns = np.asfortranarray(rows)
    assert first == trees.sha256({"a": columns, "b": jax.numpy.asarray(rows)})
    assert first == trees.sha256(collections.OrderedDict(b=rows, a=rows))  # keeps its own order


def test_sha256_tells_bits_shapes_dtypes_and_names_apart():
    zero = np.zeros(2, np.float32)
    trees_apart = [
        {"a": zero},
        {"b": zero},
        {"a": -zero},
        {"a": zero.reshape(2, 1)},
        {"a": zero.view(np.int32)},
        {"a": zero[:1], "b": zero[:1]},
    ]
    assert len({trees.sha256(tree) for tree in trees_apart}) == len(trees_apart)


def test_sha256_takes_typed_keys():
    keys = [trees.sha256({"key": jax.random.key(seed)}) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]
