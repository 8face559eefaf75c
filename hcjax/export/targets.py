"""What a network can be exported to: a literal dict, target -> what writes its files.

In: a Model, with plain trees of inputs and outputs. Out: the content of one file or several, each
with what runs it and what it promises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hcjax.core import brief
from hcjax.export.hcz import pack
from hcjax.export.manifest import CLOSE, EQUAL, Artifact
from hcjax.export.stablehlo import stablehlo
from hcjax.export.weights import safetensors
from hcjax.graph.model import Model, in_integers

# of ONNX Runtime, which rounds in other places
SAME_CLASS = {"kind": "argmax", "share": 0.99}

Content = dict[str, bytes]


class Options(NamedTuple):
    """What a target may be told. batch: examples of a call of a program for one size. weights: how
    C holds them, "plain" or "coded".
    """

    batch: int = 1
    weights: str = "plain"

    __repr__ = brief.record


Target = Callable[[Model, Options], tuple[list[Artifact], Content]]


def _exact(model: Model) -> dict:
    """Returns the promise of what computes the same numbers: bits, if they are integers."""
    return EQUAL if in_integers(model) else CLOSE


def _c(model: Model, options: Options) -> tuple[list[Artifact], Content]:
    """Writes one file of C11 and its header, which need nothing but the standard library."""
    from hcjax.export.c import c

    source = c(model, name="network", weights=options.weights)
    what = "C11, with network.h" + (", weights coded" if options.weights == "coded" else "")
    content = {name: text.encode() for name, text in source.files.items()}
    return [Artifact("network.c", "c", _exact(model), what)], content


def _onnx(model: Model, options: Options) -> tuple[list[Artifact], Content]:
    """Writes ONNX: in float; of integers one file that is fused, and one with the same bits."""
    from hcjax.export.onnx.export import onnx

    if not in_integers(model):
        artifact = Artifact("network.onnx", "onnx", CLOSE, "ONNX, float32")
        return [artifact], {artifact.file: onnx(model, form="float")}
    artifacts = [
        Artifact("network.qdq.onnx", "onnx", SAME_CLASS, "ONNX, int8 that ONNX Runtime fuses"),
        Artifact("network.exact.onnx", "onnx", EQUAL, "ONNX, int8 with equal bits, slow"),
    ]
    return artifacts, {each.file: onnx(model, form=each.file.split(".")[1]) for each in artifacts}


def _stablehlo(model: Model, options: Options) -> tuple[list[Artifact], Content]:
    """Writes StableHLO for any number of examples, and for one number, which may be faster."""
    whose, promise = "StableHLO for CPU, CUDA and TPU", _exact(model)
    several = f"{options.batch} example{'s' if options.batch > 1 else ''}"
    artifacts = [
        Artifact("network.stablehlo", "stablehlo", promise, f"{whose}, any number of examples"),
        Artifact(
            "network.static.stablehlo", "stablehlo", promise, f"{whose}, {several}", options.batch
        ),
    ]
    return artifacts, {each.file: stablehlo(model, batch=each.batch) for each in artifacts}


def _safetensors(model: Model, options: Options) -> tuple[list[Artifact], Content]:
    """Writes the weights alone."""
    artifact = Artifact("weights.safetensors", "safetensors", _exact(model), "weights alone")
    return [artifact], {artifact.file: safetensors(model)}


def _hcz(model: Model, options: Options) -> tuple[list[Artifact], Content]:
    """Writes hcjax's own file."""
    artifact = Artifact("network.hcz", "hcz", _exact(model), "hcjax's own file: hcjax.unpack")
    return [artifact], {artifact.file: pack(model)}


# another target is a function and a line, and a line in hcjax.export.runtimes.RUNTIMES
TARGETS: dict[str, Target] = {
    "c": _c,
    "onnx": _onnx,
    "stablehlo": _stablehlo,
    "safetensors": _safetensors,
    "hcz": _hcz,
}
