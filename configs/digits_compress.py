"""Spoken digits in five languages, in integers: kernels in 5 bits, the picture in float.

Paper: Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153. Deviations: the
network in float teaches; BatchNorm is folded first.

Command: python launch.py --config=configs/digits_compress.py --config.data.path=FOLDER

Device: 2 CPU cores, or any GPU or TPU. Expected: see docs/results.md. Time: likewise. Data: see
digits.py.
"""

from configs import digits


def get_config():
    """Returns the config."""
    config = digits.get_config()
    config.stages = ("quantize",)
    config.distill.temperature = 2.0
    config.quantize.bits = ("conv1=8", "dense1=8", ".*=5")
    config.quantize.activation_bits = 8
    config.quantize.epochs = 2.0
    config.quantize.learning_rate = 1e-3
    return config
