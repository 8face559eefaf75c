"""The graph of a file is refused unless it gives [N, ...] for every N: `trace` asks for no less."""

import json

import jax.numpy as jnp
import pytest

import hcjax
from hcjax.errors import ArtifactError
from tests.export.damage import closed, opened, pruned


def changed(ops):
    """Unpacks x @ w, of 20 rows, with ops behind it; the last one gives the logits."""
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.ones((20, 3))}, jnp.ones((1, 20)))
    head, streams = opened(hcjax.pack(model))
    head = json.loads(head)
    assert (head["params"][0][1], head["logits"]) == (1, 2)
    head["ops"] += ops
    head["logits"] = ops[-1][2]
    return hcjax.unpack(closed(json.dumps(head).encode(), streams))


def rows(first, last):
    """Returns ops that add w[first : last], a row for all images, to the logits."""
    fields = {"start_indices": [{"b": first}, 0], "limit_indices": [{"b": last}, 3]}
    spread = {"shape": [{"b": [1, 0]}, 3], "broadcast_dimensions": [0, 1]}
    return [
        ["slice", [1], 10, fields | {"strides": None}],
        ["broadcast_in_dim", [10], 11, spread],
        ["add", [2, 11], 12, {}],
    ]


def test_ops_that_fit_some_numbers_of_images_only_are_refused():
    images = jnp.ones((5, 20))
    fine = changed(rows([0, 3], [0, 4]))
    assert fine.apply(fine.params, images).tolist() == [[21.0] * 3] * 5
    with pytest.raises(ArtifactError, match="a slice does not fit"):
        changed(rows([1, -2], [1, -1]))  # not one image
    with pytest.raises(ArtifactError, match="a slice does not fit"):
        changed(rows([1, -1], [1, 0]))  # not more than 20


@pytest.mark.parametrize("axis", [-1, 1, 6])
@pytest.mark.parametrize("spec", [0, 1, 2])
def test_axes_of_a_convolution_are_a_permutation(spec, axis):
    head, streams = opened(hcjax.pack(pruned()[0]))
    head = json.loads(head)
    (conv,) = (op for op in head["ops"] if op[0] == "conv_general_dilated")
    conv[3]["dimension_numbers"][spec][0] = axis
    with pytest.raises(ArtifactError):
        hcjax.unpack(closed(json.dumps(head).encode(), streams))


@pytest.mark.parametrize(
    "op",
    [
        ["slice", [1], 10, {"start_indices": [0, 0], "limit_indices": [5, 3], "strides": None}],
        ["transpose", [2], 10, {"permutation": [1, 0]}],
        ["reduce_sum", [2], 10, {"axes": [0]}],
        ["concatenate", [2, 2], 10, {"dimension": 0}],
        ["reshape", [2], 10, {"new_sizes": [{"b": [1, 0]}, 4]}],
        ["broadcast_in_dim", [2], 10, {"shape": [{"b": [1, 0]}, {"b": [1, 2]}],
                                       "broadcast_dimensions": [0, 1]}],
    ],
)  # fmt: skip
def test_outputs_without_the_examples_first_are_refused(op):
    with pytest.raises(ArtifactError):
        changed([op])
    with pytest.raises(TypeError, match=r"float32\[3, b\], must have the examples on its first"):
        hcjax.trace(lambda p, x: (x @ p).T, jnp.ones((4, 3)), jnp.ones((1, 4)))
