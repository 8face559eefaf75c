"""Weights alone, as safetensors: the file that most other libraries read.

    PATH          a parameter, or the integers of one
    PATH.scale    float32, of integers: their value is scale · (integer - zero)
    PATH.zero     int32, where they have one

Paths are those of the network's graph, e.g. "conv1/kernel". The entry "hcjax" of the header's
metadata is JSON: {"integers": {PATH: {"bits", "axis" of the channels}}}.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import optional
from hcjax.errors import ArtifactError
from hcjax.graph.model import Model
from hcjax.graph.qtensor import QTensor, check

_DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16,
    "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
METADATA = "hcjax"  # its key


def safetensors(model: Model) -> bytes:
    """Returns the parameters of a network, and what of its constants was one, as safetensors.

    Args:
      model: in float or in integers. Integers below 8 bits take a byte each.

    Raises:
      ArtifactError: if an array has a dtype that safetensors has not, or two the same name.
      DependencyError: if the package safetensors is not installed.

    Example:
      >>> import hcjax
      >>> model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
      >>> sorted(arrays(safetensors(model)))
      ['w']
    """
    library = optional.module("safetensors.numpy", extra="export", what="safetensors")
    found, integers = {}, {}
    for path, value in _leaves(model).items():
        parts = {path: value}
        if isinstance(value, QTensor):
            integers[path] = {"bits": value.bits, "axis": value.axis}
            parts = {path: value.values, f"{path}.scale": value.scale}
            parts |= {} if value.zero is None else {f"{path}.zero": value.zero}
        if twice := parts.keys() & found.keys():
            raise ArtifactError(f"two arrays would be called {min(twice)}: rename a parameter")
        found |= parts
    tensors = {path: np.asarray(found[path]) for path in sorted(found)}
    legal = [np.dtype(dtype) for dtype in _DTYPES.values()]
    for path, array in tensors.items():
        if array.dtype not in legal:
            raise ArtifactError(f"safetensors has no {array.dtype}, which {path} is of")
    # one entry: the library writes several in any order
    return library.save(tensors, {METADATA: json.dumps({"integers": integers}, sort_keys=True)})


def arrays(data: bytes) -> dict[str, np.ndarray]:
    """Returns name -> array of the content of a safetensors file.

    Raises:
      ArtifactError: if it is damaged.
    """
    library = optional.module("safetensors", extra="export", what="safetensors")
    try:
        return {
            name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in library.deserialize(data)
        }
    except (library.SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"no safetensors: {error}") from error


def restored(model: Model, data: bytes) -> Model:
    """Returns a network with the weights of a file in the place of its own.

    Args:
      model: the network whose weights `safetensors` has written, or one like it.
      data: of `safetensors`.

    Raises:
      ArtifactError: if the file is damaged, or has not the arrays of this network.
    """
    found, leaves = arrays(data), _leaves(model)

    def of(path: str, like: Any) -> Any:
        if isinstance(like, QTensor):
            zero = None if like.zero is None else of(f"{path}.zero", like.zero)
            parts = [of(path, like.values), of(f"{path}.scale", like.scale), zero]
            q = QTensor(*parts, like.bits, like.axis)
            try:
                check(q)
            except ValueError as error:
                raise ArtifactError(f"{path}: {error}") from error
            return q
        if path not in found:
            raise ArtifactError(f"there is no array {path}, which the network has")
        x = found[path]
        if (x.shape, x.dtype) != (np.shape(like), np.dtype(like.dtype)):
            raise ArtifactError(
                f"{path} is {x.dtype}{list(x.shape)}, the network has "
                f"{like.dtype}{list(np.shape(like))}"
            )
        return jnp.asarray(x)

    new = {path: of(path, value) for path, value in leaves.items()}
    tree = jax.tree.structure(model.params, is_leaf=lambda x: isinstance(x, QTensor))
    frozen = {number: new[path] for path, number in model.graph.frozen}
    return model.replace(
        params=jax.tree.unflatten(tree, [new[path] for path in model.paths]),
        graph=model.graph._replace(constants=model.graph.constants | frozen),
    )


def _leaves(model: Model) -> dict[str, Any]:
    """Returns path -> array of all that came as a parameter, trained or not."""
    frozen = {path: model.graph.constants[number] for path, number in model.graph.frozen}
    return frozen | model.leaves(model.params)
