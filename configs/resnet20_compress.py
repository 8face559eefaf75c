"""ResNet-20 on Fashion-MNIST made small: pruned, its empty channels taken out, 4-bit integers.

Papers: those of `lenet_compress.py`, in the same order; integers as in `resnet20_int4.py`.

Command: python launch.py --config=configs/resnet20_compress.py

Device: 2 CPU cores, or any GPU or TPU. Expected (seed 0, float 94.51 % in 1,076,310 bytes; Python
3.13, jax 0.12.0.1): pruned, and trimmed of what is then empty, 94.32 % in 245,500 bytes; in 4 bits
before training in integers 93.68 %, after it 94.13 % in 59,017 bytes, 18 times fewer. Nothing was
tuned. Time: 114 minutes on one core of an AMD EPYC that others used too, after the teacher's 80.
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
    config.quantize.zero_points = False  # as when the figures above were measured
    config.quantize.epochs = 6.0
    return config
