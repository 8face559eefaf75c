"""`int8`: a fake-quantized network as real integers, int8 x int8 -> int32, with the same logits.

What the fake-quantized graph computes on whole numbers in float32, this one computes on int8 and
int32 arrays: the layers' products, and `arithmetic` between them. Scales become multipliers.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from hcjax.errors import ConfigError
from hcjax.graph.model import Graph, Model, live_ops
from hcjax.quantize.fake import check_float, fake_quantize
from hcjax.quantize.program import Program
from hcjax.quantize.ranges import Ranges
from hcjax.quantize.spec import QuantSpec, with_fields


def int8(
    model: Model,
    ranges: Ranges | None = None,
    spec: QuantSpec | None = None,
    **fields: Any,
) -> Model:
    """Returns the network in integers; its logits are those of the fake-quantized one, bit for bit.

    Args:
      model: from `fake_quantize`; or, with ranges, any other, which is quantized as it is.
      ranges: from `calibrate` of the model; None: it is fake-quantized already.
      spec, **fields: as of `fake_quantize`; only with ranges.

    Returns:
      Model whose kernels are QTensors; its other params are `NAME/multiplier`, `NAME/offset` and
      `NAME/shift` int32[...] of each rounding, `NAME/table` int8 of each function, the step of the
      input and the scale of the logits. float32 logits = (int32 sum) · scale. Ops that stay in
      float are listed in `floats`, their kernels are QTensors.

    Raises:
      TypeError: if the model is not quantized and there are no ranges, or a field is unknown.
      ConfigError: if bits or the like are given without ranges: the model has its own.
      ValueError: if the model is in integers already, a parameter is not finite, or a sum could
        pass 32 bits; the message names the parameter or the layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax.quantize import ranges as observe
      >>> from hcjax import trace
      >>> images = jnp.array([[1.0, -2.0]])
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.array([[0.5], [1.0]])}, images)
      >>> small = int8(model, observe.calibrate(model, images, method="minmax"))
      >>> small.params["w"].values.tolist()
      [[64], [127]]
      >>> small.apply(small.params, images).round(1).tolist()
      [[-1.5]]
    """
    check_float(model)
    spec = with_fields(spec, fields)
    if ranges is not None:
        model = fake_quantize(model, ranges, spec)
    if not any(op.kind == "step" for op in model.graph.ops):
        raise TypeError(
            "the model is not quantized: give int8(model, ranges) with ranges = calibrate(model, "
            "images), or a model from fake_quantize"
        )
    defaults = QuantSpec()._asdict()
    given = [key for key, value in spec._asdict().items() if value != defaults[key]]
    if ranges is None and given:
        raise ConfigError(f"{given[0]}: the model is quantized already; give it to fake_quantize")
    for path, leaf in model.leaves(model.params).items():
        if not jnp.isfinite(leaf).all():
            raise ValueError(f"{path} is not finite")
    program = Program(model)
    for op in program.read:
        program.add(op)
    ops = tuple(live_ops(program.ops, model.graph.logits))
    used = {i for op in ops for i in op.inputs}
    numbers = {path: n for path, n in program.numbers.items() if n in used}
    return model.replace(
        graph=Graph(
            ops,
            model.graph.images,
            model.graph.logits,
            numbers,
            {n: v for n, v in program.constants.items() if n in used},
        ),
        params={path: program.params[path] for path in numbers},
        paths=tuple(sorted(numbers)),
    )
