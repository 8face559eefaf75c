"""Quantization: ranges, fake quantization for training, real integers, and what they are worth."""

from hcjax.quantize.profiling import Profile, pair_sums, profile

__all__ = ["Profile", "pair_sums", "profile"]
