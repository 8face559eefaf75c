"""Stage `quantize`: a network in integers; the bits of each layer given, or chosen for a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

from hcjax import quantize
from hcjax.app.stages.work import Outputs, Work, by_layer, check_idle, normalised
from hcjax.errors import ConfigError, unknown_name
from hcjax.graph.model import Model
from hcjax.graph.qtensor import QTensor
from hcjax.quantize.calibration.ranges import calibrate
from hcjax.quantize.calibration.thresholds import METHODS
from hcjax.quantize.fake import fake_quantize
from hcjax.quantize.int8 import int8
from hcjax.quantize.spec import QuantSpec, check_pattern
from hcjax.search.pick import pick
from hcjax.search.sensitivity import sensitivity

CHOOSING = 5000  # validation images, at most, that layers' bits are chosen on


def stage(
    *,
    bits: Any = None,
    size: float | None = None,
    drop: float | None = None,
    activation_bits: Any = 8,
    input_bits: Any = 8,
    granularity: str = "channel",
    floats: str = "",
    method: str = "mse",
    images: int = 512,
    zero_points: bool = True,
    entropy: float | None = None,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Outputs:
    """Returns the network in integers: as it is; and, with epochs, after training in integers."""
    budget = {"bits": bits, "size": size, "drop": drop}
    budget = {k: v for k, v in budget.items() if v is not None}
    if images < 1:
        raise ConfigError(f"config.quantize.images must be >= 1, to calibrate on, got {images}")
    check_idle("quantize", epochs, learning_rate=learning_rate, entropy=entropy or None)
    if entropy is not None and not (math.isfinite(entropy) and entropy >= 0):
        raise ConfigError(f"config.quantize.entropy must be >= 0, got {entropy}")
    if len(budget) > 1:
        raise ConfigError(f"config.quantize: give one of bits, size and drop, got {budget}")
    for key, name, legal in (
        ("method", method, METHODS), ("granularity", granularity, ("channel", "tensor")),
    ):  # fmt: skip
        if name not in legal:
            raise ConfigError(unknown_name(f"config.quantize.{key}", name, legal))
    check_pattern("config.quantize.floats", floats)
    given = _bits("bits", 8 if bits is None else bits)
    spec = QuantSpec(
        given,
        _bits("activation_bits", activation_bits),
        _bits("input_bits", input_bits),
        granularity,
        floats,
        zero_points,
    )
    models: list[Model] = []  # once, for both networks

    def fake(work, start):
        if not models:
            ranges = calibrate(start, normalised(work.dataset, images), method=method)
            picks = size is not None or drop is not None
            chosen = _picked(start, work, size, drop) if picks else given
            models.append(fake_quantize(start, ranges, spec._replace(bits=chosen)))
            if floats or isinstance(given, dict):
                work.say(_matched(models[0]))
        return models[0]

    def tuned(work, start, before):
        model, options = fake(work, start), {"epochs": epochs, "learning_rate": learning_rate}
        if entropy:
            bits_of = quantize.entropy.entropy(model)
            options["penalty"] = lambda params: entropy * bits_of(params)
        return int8(work.tune(model, "quantized-trained", **options))

    at_once = [("quantized", lambda work, start, before: int8(fake(work, start)))]
    return at_once + ([("quantized-trained", tuned)] if epochs else [])


def _matched(fake: Model) -> str:
    """Writes what the patterns of `bits` and `floats` have come to: each kernel's form."""
    kernels = {
        path: value for path, value in int8(fake).params.items() if isinstance(value, QTensor)
    }
    bits = ", ".join(f"{path} {value.bits}" for path, value in kernels.items())
    return (
        f"quantize: bits of {bits or 'no kernel'}; in float: {', '.join(fake.floats) or 'nothing'}"
    )


def _picked(model: Model, work: Work, size: float | None, drop: float | None) -> dict[str, int]:
    """Returns the bits of each layer that make a size, or cost `drop` of accuracy at most."""
    if not work.dataset.validation.size:
        raise ConfigError(
            "config.quantize: size and drop choose each layer's bits on validation images, and "
            "there are none: set config.data.validation, or config.quantize.bits"
        )
    targets = jax.tree.map(lambda x: x[:CHOOSING], work.dataset.validation.targets)
    images = normalised(work.dataset, CHOOSING, "validation")
    analysis = sensitivity(model, images, targets, against="bits", task=work.task)
    accuracy = None if drop is None else analysis.accuracy - drop
    try:
        picked = {k: int(n) for k, n in pick(analysis, size=size, accuracy=accuracy).items()}
    except ConfigError as error:
        raise ConfigError(f"config.quantize: {error}") from error
    work.say(f"{analysis}\nbits: {', '.join(f'{k} {n}' for k, n in picked.items())}")
    return picked


def _bits(key: str, given: int | Sequence[str]) -> int | dict[str, int]:
    """Returns bits, or those of each layer from ("conv1=8", ".*=4")."""
    bits = given if isinstance(given, int) else by_layer(f"quantize.{key}", given, int)
    every = bits.values() if isinstance(bits, dict) else [bits]
    if not all(2 <= n <= 8 for n in every):
        raise ConfigError(f"config.quantize.{key} must be 2 to 8, got {given!r}")
    return bits
