"""Losses on activations for `fit`, of networks that return (logits, activations)."""

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
    """Adds a loss on activations: loss(logits, (target, teacher logits)) + w · Σ by(s, t).

    s and t are the activations of the student and the teacher. Give it to `fit` where the student
    and the teacher are `features` of a Model.

    Args:
      loss: `(logits float32[N, K], (target, teacher logits)) -> float32[N]`, e.g. from `taught`,
        with weight 0 there to learn from activations only.
      layers: name of a layer of the student -> name of a layer of the teacher.
      weight: w >= 0.
      by: "hint", "attention", "relational", or a function of two activations.

    Raises:
      ConfigError: if there is no layer, weight is negative or `by` is unknown. When the loss is
        called: if there is no teacher, the teacher or the network returns no activations, or
        `features` was not asked for one of the layers.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = guided(lambda logits, target: jnp.zeros(len(logits)), {"a": "b"}, weight=2.0)
      >>> student = jnp.zeros((1, 2)), {"a": jnp.ones((1, 3))}
      >>> teacher = jnp.zeros((1, 2)), {"b": jnp.zeros((1, 3))}
      >>> loss(student, (jnp.array([0]), teacher)).tolist()
      [2.0]
    """
    if not layers or weight < 0:
        raise ConfigError(f"guided needs layers and weight >= 0, got {layers} and {weight}")
    distance = registry.choose("by", BETWEEN, by) if isinstance(by, str) else by

    def combined(outputs, target):
        labels, teacher = with_teachers("guided", target)
        for whose, returned in (("the network", outputs), ("teacher=", teacher)):
            if not isinstance(returned, tuple | list) or len(returned) != 2:
                raise ConfigError(
                    f"guided reads (logits, activations), and {whose} returns no such pair: take "
                    "it from `features`, or teach by logits alone with `taught`"
                )
        (logits, student_activations), (teacher_logits, teacher_activations) = outputs, teacher
        total = loss(logits, (labels, teacher_logits))
        for student_layer, teacher_layer in layers.items():
            s = _activation(student_activations, student_layer)
            t = _activation(teacher_activations, teacher_layer)
            total = total + weight * distance(s, t)
        return total

    return combined


def _activation(activations: Mapping[str, jax.Array], name: str) -> jax.Array:
    if name not in activations:
        raise ConfigError(unknown_name("activation", name, activations) + "; ask `features` for it")
    return activations[name]


def projected(
    apply: Callable, params: Any, images: Any, widths: Mapping[str, int], *, key: jax.Array
) -> tuple[Callable, dict]:
    """Maps activations to other widths by linear layers, which are trained with the network.

    These are FitNets' regressors, as 1 x 1 convolutions: activation @ kernel[channels, width].

    Args:
      apply: `(params, images) -> (logits, name -> activation)`, from `features`.
      params: the network's. images: an example batch, or its `jax.ShapeDtypeStruct`.
      widths: name of a layer -> number of channels, e.g. of the teacher's layer.
      key: PRNG key of the kernels.

    Returns:
      (apply, {"network": params, "regressors": name -> float32[channels, width]}): give both to
      `fit`; afterwards `done.params["network"]` is the student.

    Raises:
      ConfigError: if there is no activation of a name.

    Reference:
      Romero et al., "FitNets", 2014, arXiv:1412.6550, section 2.2. Deviation: no bias, no relu.

    Example:
      >>> import jax.numpy as jnp
      >>> net = lambda p, x: (x, {"a": p * x})
      >>> wide, params = projected(net, 2.0, jnp.ones((1, 3)), {"a": 5}, key=jax.random.key(0))
      >>> wide(params, jnp.ones((1, 3)))[1]["a"].shape
      (1, 5)
    """
    shapes = jax.eval_shape(apply, params, images)[1]
    keys = jax.random.split(key, max(1, len(widths)))
    regressors = {}
    for own, (name, width) in zip(keys, widths.items(), strict=False):
        channels = _activation(shapes, name).shape[-1]
        regressors[name] = jax.nn.initializers.he_normal()(own, (channels, width))

    def wider(params, images):
        logits, activations = apply(params["network"], images)
        kernels = params["regressors"]
        widened = {name: activations[name] @ kernel for name, kernel in kernels.items()}
        return logits, activations | widened

    return wider, {"network": params, "regressors": regressors}
