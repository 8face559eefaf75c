"""Export: Models as files, and as programs that others run."""

from hcjax.export.c import c
from hcjax.export.check import check
from hcjax.export.folder import write
from hcjax.export.manifest import read
from hcjax.export.onnx import onnx
from hcjax.export.runtimes import RUNTIMES
from hcjax.export.stablehlo import stablehlo
from hcjax.export.targets import TARGETS
from hcjax.export.weights import safetensors

__all__ = ["RUNTIMES", "TARGETS", "c", "check", "onnx", "read", "safetensors", "stablehlo", "write"]
