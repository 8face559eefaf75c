"""Losses on activations, as `fit` takes them: of networks that return (logits, activations)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from hcjax.core import registry
from hcjax.distill import activations
from hcjax.distill.logits import with_teachers
from hcjax.errors import ConfigError, unknown_name

# name -> (student's activation, teacher's) -> float32[N]
BETWEEN: dict[str, Callable] = {
    "attention": activations.attention,
    "hint": activations.hint,
    "relational": activations.relational,
}


def guided(
    loss: Callable,
    layers: Mapping[str, str],
    *,
    weight: float = 1.0,
    by: str | Callable[[jax.Array, jax.Array], jax.Array] = "hint",
) -> Callable[[tuple, tuple], jax.Array]:
    """Returns the loss(logits, (target, teacher's logits)) + w · Σ by(activation, teacher's).

    It is what `fit` calls if student and teacher are both `features` of a Model.

    Args:
      loss: `(logits float32[N, K], (target, teacher's logits)) -> float32[N]`, e.g. from `taught`;
        with weight 0 there, the teacher's activations alone teach.
      layers: name of a layer of the student -> of the teacher.
      weight: w >= 0.
      by: "hint", "attention", "relational", or a function of two activations.

    Raises:
      ConfigError: if there is no layer, weight is negative or `by` unknown; when the loss is
        called, of a layer that was not asked of `features`, or if there is no teacher, or it or the
        network returns no activations.

    Example:
      >>> import jax.numpy as jnp
      >>> near = guided(lambda logits, target: jnp.zeros(len(logits)), {"a": "b"}, weight=2.0)
      >>> mine, its = {"a": jnp.ones((1, 3))}, {"b": jnp.zeros((1, 3))}
      >>> near((jnp.zeros((1, 2)), mine), (jnp.array([0]), (jnp.zeros((1, 2)), its))).tolist()
      [2.0]
    """
    if not layers or weight < 0:
        raise ConfigError(f"guided needs layers and weight >= 0, got {layers} and {weight}")
    far = registry.choose("by", BETWEEN, by) if isinstance(by, str) else by

    def both(outputs, target):
        labels, teacher = with_teachers("guided", target)
        for whose, found in (("the network", outputs), ("teacher=", teacher)):
            if not isinstance(found, tuple | list) or len(found) != 2:
                raise ConfigError(
                    f"guided reads (logits, activations), and {whose} returns no such pair: take "
                    "it from `features`, or teach by logits alone with `taught`"
                )
        (logits, own), (told, theirs) = outputs, teacher
        total = loss(logits, (labels, told))
        for mine, its in layers.items():
            total = total + weight * far(_one(own, mine), _one(theirs, its))
        return total

    return both


def _one(found: Mapping[str, jax.Array], name: str) -> jax.Array:
    if name not in found:
        raise ConfigError(unknown_name("activation", name, found) + "; ask `features` for it")
    return found[name]


def projected(
    apply: Callable, params: Any, images: Any, widths: Mapping[str, int], *, key: jax.Array
) -> tuple[Callable, dict]:
    """Returns a network whose activations have other widths, by linear maps trained along with it.

    FitNets' regressors, as 1 x 1 convolutions: activation @ kernel[channels, width].

    Args:
      apply: `(params, images) -> (logits, name -> activation)`, from `features`.
      params: the network's. images: an example batch, or its `jax.ShapeDtypeStruct`.
      widths: name of a layer -> number of channels, e.g. of the teacher's. Others stay as they are.
      key: PRNG key of the kernels.

    Returns:
      (apply, {"network": params, "regressors": name -> float32[channels, width]}): give both to
      `fit`; afterwards `done.params["network"]` is the student.

    Raises:
      ConfigError: if a name is of no activation.

    Reference:
      Romero et al., "FitNets", 2014, arXiv:1412.6550, section 2.2. Deviation: no bias, no relu.

    Example:
      >>> import jax.numpy as jnp
      >>> net = lambda p, x: (x, {"a": p * x})
      >>> wide, params = projected(net, 2.0, jnp.ones((1, 3)), {"a": 5}, key=jax.random.key(0))
      >>> wide(params, jnp.ones((1, 3)))[1]["a"].shape
      (1, 5)
    """
    found = jax.eval_shape(apply, params, images)[1]
    keys = jax.random.split(key, max(1, len(widths)))
    regressors = {}
    for own, (name, width) in zip(keys, widths.items(), strict=False):
        channels = _one(found, name).shape[-1]
        regressors[name] = jax.nn.initializers.he_normal()(own, (channels, width))

    def wider(params, images):
        logits, found = apply(params["network"], images)
        maps = params["regressors"]
        return logits, found | {name: found[name] @ kernel for name, kernel in maps.items()}

    return wider, {"network": params, "regressors": regressors}
