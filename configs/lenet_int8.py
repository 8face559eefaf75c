"""LeNet-5 in integers: int8 weights and activations, after training and trained further.

Paper: Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153. Deviations: scales of
each output channel, rounding as the integer program rounds, the float network as teacher.

Command: python launch.py --config=configs/lenet_int8.py

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured to its end yet. Time: neither.
"""

from configs import lenet


def get_config():
    """Returns the config."""
    config = lenet.get_config()
    config.stages = ("quantize",)
    config.quantize.bits = 8
    config.quantize.images = 512
    config.quantize.epochs = 2.0
    config.quantize.learning_rate = 1e-4
    return config
