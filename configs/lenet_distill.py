"""A student of fewer than 6,000 weights, taught by LeNet-5.

Paper: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
arXiv:1503.02531.

Command: python launch.py --config=configs/lenet_distill.py
Alone: the same with --config.distill.weight=0

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured to its end yet. Time: neither.
"""

from configs import lenet


def get_config():
    """Returns the config."""
    config = lenet.get_config()
    config.stages = ("distill",)
    config.student.name = "lenet5"
    config.student.activation = "relu"
    config.student.dropout = 0.0
    config.student.filters = (6, 14)
    config.student.hidden = 14
    config.distill.epochs = 30.0
    config.distill.weight = 0.9
    config.distill.temperature = 4.0
    return config
