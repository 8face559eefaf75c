"""Network in Network on CIFAR-10: nine convolutions, six of them 1 x 1, no dense layer.

Paper: Lin, Chen, Yan, "Network In Network", 2013, arXiv:1312.4400, section 4.2 (8.81 % test error
with translation and flips). Deviations: images are normalised per channel, without ZCA
whitening; He initialisation; one cosine instead of drops by hand; Nesterov momentum.

Command: python launch.py --config=configs/nin.py
CIFAR-10 must be prepared for TFDS once, where TensorFlow is installed (tfds build cifar10
--file_format=array_record); --config.data.path=FOLDER says where, if not in TFDS's own folder.

Device: one GPU or TPU. Expected: not yet measured. Time: not yet measured.
"""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = "cifar10"
    config.augment.use = ("shift", "flip")
    config.augment.shift.pixels = 4
    config.model.name = "nin"
    config.model.dropout = 0.5
    config.loss.l2 = 1e-4
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.05
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.optim.clip_norm = 1.0  # nine layers without normalisation
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 1000
    config.train.epochs = 160.0
    return config
