"""Quantization: calibration, quantization-aware training, int8 programs, and their analysis."""

from hcjax.quantize.profiling import Profile, pair_sums, profile

__all__ = ["Profile", "pair_sums", "profile"]
