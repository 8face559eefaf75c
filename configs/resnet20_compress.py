"""ResNet-20 on Fashion-MNIST made small: pruned, its empty channels taken out, 4-bit integers.

Papers: those of `lenet_compress.py`, in the same order; integers as in `resnet20_int4.py`.

Command: python launch.py --config=configs/resnet20_compress.py

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured yet; nothing was tuned. Time: about
70 minutes on one core, after the teacher's 80.
"""

from configs import resnet20_int4


def get_config():
    """Returns the config."""
    config = resnet20_int4.get_config()
    config.stages = ("prune", "trim", "quantize")
    config.prune.method = "fisher"
    config.prune.scope = "global"
    config.prune.sparsity = 0.8
    config.prune.ramp = 0.5
    config.prune.epochs = 8.0
    config.prune.learning_rate = 2e-3
    config.quantize.epochs = 6.0
    return config
