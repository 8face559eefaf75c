"""ResNet-20 on Fashion-MNIST made faster: half of its products left, whole channels gone.

Paper: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017,
arXiv:1707.06168. Deviations: channels scored by what their removal does to the logits (Liu et al.,
"Group Fisher Pruning", 2021, arXiv:2108.00708, without labels), all layers refitted; then trained
with BatchNorm folded, by Adam, the network before as teacher.

Command: python launch.py --config=configs/resnet20_shrink.py

Device: 2 CPU cores, or any GPU or TPU. Expected, of a network that kept 5,000 images to choose by
(seed 2, 94.78 % of these; Python 3.13, jax 0.12.0.1): shrunk and refitted 93.34 %, trained 94.59 ±
0.11 % (n = 3), 94.07 ± 0.11 % of the test images (the network 94.46 %), and 1.5 times as fast; see
docs/results.md. Time: 8 minutes on 2 cores of an AMD EPYC that
others used too, after the teacher's.
"""

from configs import resnet20_int8


def get_config():
    """Returns the config."""
    config = resnet20_int8.get_config()
    config.stages = ("shrink",)
    config.distill.weight = 0.9
    config.distill.temperature = 4.0
    for key in ("zero_points", "bits", "images", "epochs", "learning_rate"):
        config.quantize[key] = None
    config.shrink.macs = 0.5
    config.shrink.round_to = 4
    config.shrink.epochs = 6.0
    config.shrink.learning_rate = 2e-3
    return config
