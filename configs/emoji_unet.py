"""A U-Net of 94,426 parameters that finds emoji in scenes of 40 x 40 pixels.

Paper: Ronneberger, Fischer and Brox, "U-Net", 2015, arXiv:1505.04597. Deviations: those of
`hcjax/models/unet.py`; cross-entropy and dice together, Adam, a moving average of the parameters.

The scenes, 20,000 to train on and 2,000 each to choose by and to test on, are made of Debian's
fonts-noto-color-emoji by `benchmarks/emoji.py`; no emoji of a test scene, nor a variant of one, is
in a training scene.

Command: python benchmarks/emoji.py --scenes
         python launch.py --config=configs/emoji_unet.py

Device: 2 CPU cores, or any GPU or TPU. Expected, seed 0: object IoU 0.8567 on validation scenes,
0.8609 on test scenes (Python 3.13, jax 0.12.0.1). Time: 13 minutes on 2 cores that up to twelve
other processes used too.
"""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.task = "segmentation"
    config.data.source = "masks"
    config.data.path = "runs/emoji/scenes"
    config.augment.use = ("flip",)
    config.model.name = "unet"
    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 1e-3
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 100
    config.train.batch_size = 64
    config.train.epochs = 8.0
    config.train.ema_decay = 0.995
    return config
