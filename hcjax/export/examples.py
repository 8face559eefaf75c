"""Examples that travel with a network: inputs, and what it has made of them, to the bit.

In: a Model, and inputs or none. Out: an `.npz` file whose entries are named as the network's
inputs and outputs.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief
from hcjax.errors import ArtifactError
from hcjax.graph import interface
from hcjax.graph.model import Model

COUNT = 16
_INTEGERS = {"uint8": (0, 256), "int8": (-127, 128)}  # of images; others may be places in a table
FOLDERS = ("inputs", "outputs")


class Examples(NamedTuple):
    """Examples of a network, flat arrays in the order of its trees.

    inputs: [n, ...], as the network takes them; a number that is the same for all is [].
    outputs: [n, ...], what it gives for all of them at once, on the CPU.
    """

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]

    __repr__ = brief.record


def of(model: Model, inputs: Any = None, *, count: int = COUNT) -> Examples:
    """Returns a network's examples, computed here.

    Args:
      model: any.
      inputs: those of the one input, or a tuple of several; the first `count` are taken. None draws
        some, the same each time: normal numbers, pixels 0 to 255 of uint8, and of other integers
        zeros and ones.
      count: of examples.

    Raises:
      ValueError: if the inputs are not the network's.

    Example:
      >>> import hcjax
      >>> model = hcjax.trace(lambda p, x: 2 * x, {}, jnp.ones((1, 3)))
      >>> of(model, np.ones((5, 3), np.float32), count=2).outputs[0].tolist()
      [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
      >>> of(model).inputs[0].shape
      (16, 3)
    """
    if inputs is None:
        arrays = _drawn(model, count)
    else:
        arrays = interface.part(model.inputs, model.arrays(inputs), slice(count))
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(model.inputs)]
        arrays = [x.astype(dtype) for x, dtype in zip(arrays, dtypes, strict=True)]
    return Examples(arrays, outputs(model, arrays))


def outputs(model: Model, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns a network's flat outputs for flat inputs, on the CPU where there is one."""
    with on_cpu():
        results = jax.jit(lambda p, x: model.compute(p, x))(model.leaves(model.params), arrays)
    return [np.asarray(x) for x in jax.tree.leaves(results)]


def on_cpu() -> Any:
    """Returns a context in which arrays are made, and programs run, on the CPU if there is one."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # the platform was chosen without it
        return nullcontext()


def encode(model: Model, examples: Examples) -> bytes:
    """Returns the content of a `.npz` file: "inputs/NAME" and "outputs/NAME".

    Args:
      model: whose inputs and outputs have the names.
      examples: of `of`.
    """
    names = [
        [f"{folder}/{name}" for name in interface.names(tree, alone)]
        for folder, tree, alone in zip(
            FOLDERS, (model.inputs, model.outputs), ("images", "logits"), strict=True
        )
    ]
    file = io.BytesIO()
    pairs = zip([*names[0], *names[1]], [*examples.inputs, *examples.outputs], strict=True)
    np.savez_compressed(file, allow_pickle=False, **dict(pairs))
    return file.getvalue()


def decode(data: bytes, dtypes: Sequence[dict[str, Any]]) -> Examples:
    """Returns the examples of a file.

    Args:
      data: of `encode`.
      dtypes: {name: dtype} of the inputs, and of the outputs.

    Raises:
      ArtifactError: if it is damaged, or has other entries.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        return Examples(
            *(
                [_typed(found[f"{folder}/{name}"], dtype) for name, dtype in each.items()]
                for folder, each in zip(FOLDERS, dtypes, strict=True)
            )
        )
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"no examples: {error}") from error


def _typed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns an array as it was written: a file has bfloat16 as bytes."""
    return array.view(jnp.dtype(dtype)) if array.dtype.kind == "V" else array


def _drawn(model: Model, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(leaf: interface.Leaf) -> np.ndarray:
        if not leaf.batched:
            return np.ones(leaf.shape, leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.normal(size=leaf.sizes(count)).astype(leaf.dtype)
        low, high = _INTEGERS.get(np.dtype(leaf.dtype).name, (0, 2))
        return rng.integers(low, high, leaf.sizes(count)).astype(leaf.dtype)

    return [draw(leaf) for leaf in jax.tree.leaves(model.inputs)]
