"""LeNet-5 with 99.5 % of its weights gone.

Paper: Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878 (magnitude, cubic
schedule). Deviations: Erdős–Rényi-kernel densities (one threshold for all layers empties the last
one: 98.05 % on validation at 99.3 %), the unpruned network as teacher.

Command: python launch.py --config=configs/lenet_prune.py

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured to its end yet. Time: neither.
"""

from configs import lenet


def get_config():
    """Returns the config."""
    config = lenet.get_config()
    config.stages = ("prune",)
    config.prune.sparsity = 0.995
    config.prune.scope = "erk"
    config.prune.epochs = 20.0
    config.prune.learning_rate = 2e-3
    config.prune.ramp = 0.6
    return config
