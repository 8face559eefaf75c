"""Models as ONNX: float, int8 as quantize-dequantize pairs, int8 bit for bit."""

from hcjax.export.onnx.export import onnx

__all__ = ["onnx"]
