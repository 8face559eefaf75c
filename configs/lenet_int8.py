"""LeNet-5 in integers: int8 weights and activations, after training and trained further.

Paper: Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153. Deviations: scales of
each output channel, rounding as the integer program rounds, the float network as teacher.

Command: python launch.py --config=configs/lenet_int8.py

Device: 2 CPU cores, or any GPU or TPU. Expected: after training (512 images) the float network's
test accuracy and 0.00, -0.01, +0.01 points (seeds 0 to 2: 99.68, 99.64, 99.61 %); trained further
0.00, 0.00, +0.01; 376,000 to 384,000 and 364,000 to 371,000 bytes. Time: 80 s on 2 cores of an
Intel Xeon after the float training's 3 minutes; Python 3.13, jax 0.12.0.1.
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
