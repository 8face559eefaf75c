"""Spoken digits in five languages, learned from synthetic voices: a network of 23,994 parameters.

Data: `python benchmarks/digits.py --data=FOLDER` makes it: digits spoken by espeak-ng and flite,
disturbed, to train on; by variants of their voices that training does not hear, to choose by; and
fifty recordings of five real speakers to test. It trains and compresses too.

Papers: Park et al., "SpecAugment", 2019, arXiv:1904.08779, for hidden stretches of time and pitch;
Szegedy et al., "Rethinking the Inception Architecture", 2015, arXiv:1512.00567, for smoothed
labels.

Command: python launch.py --config=configs/digits.py --config.data.path=FOLDER

Device: 2 CPU cores, or any GPU or TPU. Expected: see docs/results.md. Time: likewise.
"""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.task = "classification"
    config.data.source = "wav"
    config.data.path = "digits"
    config.data.rate = 8000
    config.data.seconds = 1.0
    config.model.name = "sound_cnn"
    config.loss.smoothing = 0.1
    config.optim.name = "adamw"
    config.optim.learning_rate = 6e-3
    config.optim.weight_decay = 0.01
    config.schedule.name = "one_cycle"
    config.schedule.warmup_fraction = 0.2
    config.train.epochs = 16.0
    config.train.ema_decay = 0.995
    return config
