"""AlexNet for 32 x 32 images on CIFAR-10: five convolutions and three dense layers.

Paper: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks", 2012 (NIPS 25). Deviations: smaller kernels and strides, fewer channels, no groups and
no response normalisation (the model `alexnet` has them, for 224 x 224); He initialisation;
shifts by 4 pixels instead of crops; one cosine instead of drops by hand; Nesterov momentum.

Command: python launch.py --config=configs/alexnet.py
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
    config.model.name = "alexnet32"
    config.model.dropout = 0.5
    config.loss.l2 = 5e-4
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.02
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.optim.clip_norm = 1.0  # eight layers without normalisation
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 1000
    config.train.epochs = 100.0
    return config
