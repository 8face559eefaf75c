"""The seed CNN: 32 filters of 3 x 3, relu, 2 x 2 max-pool, a dense layer; 54,410 parameters.

Paper: none; the recipe this project began with: Adam at 1e-3, batches of 128, 10 epochs, early
stopping after 3 validations without a lower loss.

Command: python launch.py --config=configs/mnist_cnn.py

Device: 2 CPU cores, or any GPU or TPU. Expected: not yet measured. Time: not yet measured.
"""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.train.patience = 3
    return config
