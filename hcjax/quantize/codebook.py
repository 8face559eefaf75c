"""`share`: weight clustering, which stores a kernel as a codebook and an index for each weight.

k-means in one dimension: each cluster is an interval of the sorted weights. Exact zeros keep an
index of their own, so that pruned weights stay 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import trees
from hcjax.core import brief
from hcjax.errors import ConfigError, unknown_name
from hcjax.graph.model import Model, Op, Size, is_quantized
from hcjax.graph.ops.integer import spread
from hcjax.graph.ops.table import defined

_MAX_ITERATIONS = 100  # of k-means; it rarely takes more than 50
_MAX_CLUSTERS = 2**15 - 1  # of indices in int16


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("codebook", "indices"),
    meta_fields=("below",),
)
@dataclasses.dataclass(frozen=True)
class Shared:
    """A clustered array: a codebook and the index of each element.

    codebook: float[K], ascending, without zero. indices: int8[...] or int16[...], -below to
    K - below: 0 for exactly 0, -1 for the greatest negative centroid, 1 for the least positive.
    below: number of negative centroids.
    """

    codebook: jax.Array
    indices: jax.Array
    below: int

    __repr__ = brief.record

    @property
    def bits(self) -> int:
        """Bits of an index without entropy coding."""
        return max(math.ceil(math.log2(self.codebook.size + 1)), 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the codebook, and of the indices at `bits` each."""
        return self.codebook.nbytes + -(-self.indices.size * self.bits // 8)

    def dense(self) -> jax.Array:
        """Returns the array with each index replaced by its centroid."""
        return spread(self.codebook, self.indices, self.below)


def share(
    model: Any,
    *,
    clusters: int = 16,
    init: str = "linear",
    select: trees.Select | str | Sequence[str] = trees.kernels,
    key: jax.Array | None = None,
) -> Any:
    """Returns a Model, or a tree of parameters, with clustered weights.

    k-means clusters the nonzero weights of each selected leaf, min Σ (w - c)², and replaces each by
    its cluster's centroid c. In a Model the codebook is the parameter, under the path of the leaf,
    and the indices are constants of the graph. So `fit` trains the centroids; the gradient of a
    centroid is the sum of those of its weights.

    Args:
      model: in float, best through `fold`; or a pytree of float arrays.
      clusters: of each leaf, 1 to 32767, not counting zero.
      init: initial centroids. "linear": evenly spaced from the least weight to the greatest, which
        fits the few large weights best; "density": at equal quantiles of the weights; "random": at
        weights sampled with `key`.
      select: the leaves to cluster: a predicate of path and leaf, or patterns of full paths. By
        default kernels.
      key: for "random" only.

    Returns:
      Model, or a tree in which the selected leaves are `Shared`.

    Raises:
      ConfigError: if an argument is illegal, the model is quantized, a leaf is not floating point
        or not finite, a centroid is 0, or no leaf is selected.

    Note:
      `pack` writes a codebook and entropy-coded indices. `int8`, `factorize` and `fold` evaluate
      the kernels, so that their results are no longer clustered.

    Reference:
      Han, Mao and Dally, "Deep Compression", 2016, arXiv:1510.00149, section 3. Deviation: a
      context-adaptive arithmetic code of the indices in place of Huffman's code.

    Example:
      >>> tree = share({"w": jnp.array([[0.9, 0.0], [1.1, -2.0]])}, clusters=2)
      >>> tree["w"].codebook.tolist(), tree["w"].indices.tolist(), tree["w"].dense().tolist()
      ([-2.0, 1.0], [[1, 0], [1, -1]], [[1.0, 0.0], [1.0, -2.0]])
    """
    if not isinstance(clusters, Integral) or not 1 <= clusters <= _MAX_CLUSTERS:
        raise ConfigError(f"clusters must be an integer in [1, {_MAX_CLUSTERS}], got {clusters!r}")
    if init not in INITS:
        raise ConfigError(unknown_name("init", init, INITS))
    if init == "random" and key is None:
        raise ConfigError('init="random" needs key=')
    is_model = isinstance(model, Model)
    if is_model and is_quantized(model):
        raise ConfigError("the model is quantized: share its weights before, or not at all")
    params = model.params if is_model else model
    match = trees.mask if callable(select) else trees.select
    selected = jax.tree.leaves(match(params, select))
    if not any(selected):
        raise ConfigError("nothing is shared: no parameter is selected")
    named = trees.paths(params)
    leaves = []
    for i, ((path, leaf), use) in enumerate(zip(named, selected, strict=True)):
        if use and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ConfigError(f"{path} is {leaf.dtype}; only arrays of floating point are shared")
        start = partial(INITS[init], key=None if key is None else jax.random.fold_in(key, i))
        leaves.append(_cluster(path, leaf, clusters, start) if use else leaf)
    if is_model:
        return _replace_kernels(model, dict(zip((p for p, _ in named), leaves, strict=True)))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _linear(values: np.ndarray, count: int, key: Any) -> np.ndarray:
    return np.linspace(values[0], values[-1], count) if count > 1 else values[:1]


def _density(values: np.ndarray, count: int, key: Any) -> np.ndarray:
    return values[((np.arange(count) + 0.5) * values.size / count).astype(int)]


def _random(values: np.ndarray, count: int, key: Any) -> np.ndarray:
    indices = jax.random.choice(key, values.size, (min(count, values.size),), replace=False)
    return np.sort(values[np.asarray(indices)])


# initial centroids: (sorted weights, clusters, key) -> sorted centroids
INITS: dict[str, Callable[..., np.ndarray]] = {
    "linear": _linear,
    "density": _density,
    "random": _random,
}


def _cluster(path: str, leaf: Any, clusters: int, start: Callable) -> Shared:
    """Returns the codebook and the indices of a leaf."""
    weights = np.asarray(leaf, np.float64)
    if not np.isfinite(weights).all():
        raise ConfigError(f"{path} holds NaN or infinity, which has no centroid: mend it first")
    values = np.sort(weights[weights != 0])
    centers = _k_means(values, start(values, clusters)) if values.size else values
    centers = np.unique(np.asarray(jnp.asarray(centers, leaf.dtype), np.float64))
    if (centers == 0).any():
        raise ConfigError(
            f"{path}: one of {clusters} centroids is 0, and would prune its cluster's weights; "
            "give another number of clusters, or another init"
        )
    below = int((centers < 0).sum())
    nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, weights)
    index = nearest - below + (nearest >= below)
    dtype = np.int8 if below <= 128 and centers.size - below <= 127 else np.int16
    indices = np.where(weights == 0, 0, index).astype(dtype)
    return Shared(jnp.asarray(centers, leaf.dtype), jnp.asarray(indices), below)


def _k_means(values: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Returns the centroids at which k-means converges, without empty clusters.

    Args:
      values: float64[n], ascending.
      centers: float64[K], ascending.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(_MAX_ITERATIONS):
        ends = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        ends = np.concatenate([[0], ends, [values.size]])
        counts = np.diff(ends)
        means = np.divide(np.diff(sums[ends]), counts, where=counts > 0, out=centers.copy())
        if (means == centers).all():
            break
        centers = means
    return centers[counts > 0]


def _replace_kernels(model: Model, leaves: dict[str, Any]) -> Model:
    """Returns the model with an op that computes each clustered leaf from its codebook."""
    graph = model.graph
    number = graph.last
    ops, numbers, constants = [], dict(graph.params), dict(graph.constants)
    for path, leaf in leaves.items():
        if isinstance(leaf, Shared):
            inputs, output = (number + 1, number + 2), numbers[path]
            number += 2
            numbers[path], constants[inputs[1]] = inputs[0], leaf.indices
            shape = tuple(Size(0, d) for d in leaf.indices.shape)
            fields = {"below": leaf.below}
            op = Op("spread", inputs, (output,), shape, leaf.codebook.dtype, "", None, fields)
            ops.append(defined(op))
    params = {p: v.codebook if isinstance(v, Shared) else v for p, v in leaves.items()}
    new = graph._replace(ops=(*ops, *graph.ops), params=numbers, constants=constants)
    return model.replace(graph=new, params=params)
