"""The seed CNN: one convolution, one max-pool, one dense layer, trained by Adam."""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.train.patience = 3
    return config
