"""LeNet-5 with 99.5 % of its weights gone.

Paper: Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878 (magnitude, cubic
schedule). Deviations: one threshold for all layers, the unpruned network as teacher.

Command: python launch.py --config=configs/lenet_prune.py
"""

from configs import lenet


def get_config():
    """Returns the config."""
    config = lenet.get_config()
    config.stages = ("prune",)
    config.prune.sparsity = 0.995
    config.prune.epochs = 20.0
    config.prune.learning_rate = 2e-3
    config.prune.ramp = 0.6
    return config
