"""ResNet-20 on Fashion-MNIST: 19 convolutions with BatchNorm, 269,434 parameters.

Paper: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385, section 4.2. Deviations: grey images of 28 x 28, shifted by 2 pixels instead of
4; one cosine instead of two drops; Nesterov momentum.

Command: apt-get install dataset-fashion-mnist
         python launch.py --config=configs/resnet20.py
Elsewhere, a folder with the four files: --config.data.path=FOLDER; on CIFAR-10 as in the paper:
--config.data.source=tfds --config.data.name=cifar10 --config.data.path=None
--config.augment.shift.pixels=4 (see nin.py for how to prepare it)

Device: one core of a 2-core AMD EPYC (any GPU or TPU will do). Expected: 90.36 % test accuracy
after 2 epochs (--config.train.epochs=2, seed 0), in 11 minutes. Time: that of all 60 epochs is
not yet measured.
"""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.data.source = "idx"
    config.data.path = "/usr/share/datasets/fashion-mnist"
    config.data.validation = 0
    config.augment.use = ("shift", "flip")
    config.augment.shift.pixels = 2
    config.model.name = "resnet20"
    config.loss.l2 = 5e-4
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.schedule.name = "one_cycle"
    config.schedule.warmup_fraction = 0.2
    config.train.epochs = 30.0
    config.train.checkpoint_every = 100
    return config
