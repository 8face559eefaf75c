"""The U-Net that finds emoji made small: half of its products gone, its weights 4-bit integers.

Papers: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017,
arXiv:1707.06168, for refitting layers when whole channels are gone; Esser et al., "Learned Step
Size Quantization", 2020, arXiv:1902.08153, for integers: as there, the first and the last layer
have 8 bits. Deviations: those of `resnet20_shrink.py`; nobody teaches, activations have 4 bits
with zero points, the image and the logits 8.

Command: python benchmarks/emoji.py --scenes
         python launch.py --config=configs/emoji_unet_compress.py

Device: 2 CPU cores, or any GPU or TPU. Expected, seed 0 (benchmarks/emoji.py, which trains the same
stages; Python 3.13, jax 0.12.0.1): object IoU 0.8609 of the network, half of its products 0.8526,
in 4 bits 0.8501 in 21,201 bytes, 17.8 times fewer; see docs/results.md. Time: 10 minutes on 2 cores
that others used too, after the network's 13.
"""

from configs import emoji_unet


def get_config():
    """Returns the config."""
    config = emoji_unet.get_config()
    config.teacher = "configs/emoji_unet.py"
    config.stages = ("shrink", "quantize")
    config.distill.weight = 0.0
    config.shrink.macs = 0.5
    config.shrink.epochs = 4.0
    config.shrink.learning_rate = 2e-3
    config.quantize.bits = ("down1.*=8", "classes=8", ".*=4")
    config.quantize.activation_bits = ("images=8", "classes=8", ".*=4")
    config.quantize.epochs = 2.0
    config.quantize.learning_rate = 1e-3
    return config
