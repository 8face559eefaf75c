"""LeNet-5 in integers: int8 weights and activations, after training and trained further.

Paper: Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153. Deviations: scales of
each output channel, rounding as the integer program rounds, the float network as teacher.

Command: python launch.py --config=configs/lenet_int8.py

Device: 2 CPU cores, or any GPU or TPU. Expected: after training (512 images) the float network's
test accuracy and 0.00 points (seeds 0 to 2: 99.67, 99.63, 99.64 %); trained further +0.01, +0.01,
0.00; 380,486 to 385,965 and 365,414 to 370,838 bytes. Time: 142 to 173 s on one core of an AMD EPYC
after the float training's 5 minutes; Python 3.13, jax 0.12.0.1.
"""

from configs import lenet


def get_config():
    """Returns the config."""
    config = lenet.get_config()
    config.stages = ("quantize",)
    config.quantize.zero_points = False  # as when the figures above were measured
    config.quantize.bits = 8
    config.quantize.images = 512
    config.quantize.epochs = 2.0
    config.quantize.learning_rate = 1e-4
    return config
