"""LeNet-5 made small: taught while it is pruned, then again while its weights become integers.

Papers: Han, Mao and Dally, "Deep Compression", 2016, arXiv:1510.00149, for the order of things; Zhu
and Gupta, 2017, arXiv:1710.01878, for pruning; Esser et al., 2020, arXiv:1902.08153, for integers.
Deviations: one network teaches in every stage, learned steps instead of k-means, an adaptive
arithmetic coder instead of Huffman's.

Command: python launch.py --config=configs/lenet_compress.py

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured to its end yet. Time: neither.
"""

from configs import lenet


def get_config():
    """Returns the config."""
    config = lenet.get_config()
    config.stages = ("prune", "trim", "quantize")
    config.prune.sparsity = 0.993
    config.prune.scope = "erk"
    config.prune.epochs = 20.0
    config.prune.learning_rate = 2e-3
    config.prune.ramp = 0.6
    config.quantize.bits = 5
    config.quantize.activation_bits = 8
    config.quantize.granularity = "tensor"
    config.quantize.epochs = 5.0
    config.quantize.learning_rate = 5e-4
    return config
