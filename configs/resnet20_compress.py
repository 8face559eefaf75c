"""ResNet-20 on Fashion-MNIST made small: pruned, its empty channels taken out, 4-bit integers.

Papers: those of `lenet_compress.py`, in the same order of stages.

Command: python launch.py --config=configs/resnet20_compress.py

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured yet; nothing was tuned. Time: about 3
minutes an epoch, 20 of them, after the teacher's 56.
"""

from configs import resnet20_int8

BITS = ("stem.*=8", "dense1=8", ".*=4")


def get_config():
    """Returns the config."""
    config = resnet20_int8.get_config()
    config.stages = ("prune", "trim", "quantize")
    config.prune.method = "fisher"
    config.prune.scope = "global"
    config.prune.sparsity = 0.8
    config.prune.ramp = 0.5
    config.prune.epochs = 12.0
    config.prune.learning_rate = 2e-3
    config.quantize.bits = BITS
    config.quantize.activation_bits = BITS
    config.quantize.epochs = 8.0
    config.quantize.learning_rate = 1e-3
    return config
