"""Which pixels decided: gradient x input of the class that a network in float predicts."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.interface import Leaf
from hcjax.graph.model import Model
from hcjax.serve.engines import integers
from hcjax.serve.signature import Signature


def explainer(
    model: Model, takes: Signature, jit: Callable[[Callable], Callable]
) -> Callable[[np.ndarray], tuple[int, np.ndarray]] | None:
    """Returns a function that says which pixels of an image decided, or None of other networks.

    Args:
      model: a network. takes: what it takes. jit: compiles a function, when it is first called.

    Returns:
      function of the normalised image [1, H, W, C]. It gives the predicted class k and
      sum over channels of (x - b) · d logit_k / dx, float32[H, W], where b is a black image.
    """
    output = model.outputs
    classifies = isinstance(output, Leaf) and len(output.shape) == 1 and output.batched
    if takes.pixels is None or not classifies or integers(model):
        return None
    if not jnp.issubdtype(model.image_dtype, jnp.floating):
        return None
    black = takes.pixels.ready(np.zeros((1, *takes.pixels.shape), np.uint8))

    def explained(x):
        logits = model.apply(model.params, x)[0]
        k = jnp.argmax(logits)
        gradient = jax.grad(lambda x: model.apply(model.params, x)[0, k])(x)
        return k, ((x - black) * gradient)[0].sum(-1)

    compiled = jit(explained)

    def explain(image):
        k, pixels = compiled(image)
        return int(k), np.asarray(pixels, np.float32)

    return explain
