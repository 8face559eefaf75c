"""ResNet-20 in integers on Fashion-MNIST: int8 weights and activations.

Paper: Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153. Deviations: steps of
each output channel, rounding as the integer program rounds, BatchNorm folded before training, Adam,
the float network as teacher at temperature 1.

Command: python launch.py --config=configs/resnet20_int8.py

Device: 2 CPU cores, or any GPU or TPU. Expected, of three float networks (94.51, 94.72, 94.58 %;
Python 3.13, jax 0.12.0.1): after training (512 images) 94.51, 94.65, 94.66 %, 258 kB; trained
further 94.58, 94.74, 94.56 %, 235 kB; of a fourth (seed 2, 55,000 images), 94.46 %: 94.36, 94.49 %.
Time: 22 minutes on one core of an AMD EPYC beside another training, 10 without, after the teacher's
28 on two.
"""

from configs import resnet20


def get_config():
    """Returns the config."""
    config = resnet20.get_config()
    config.teacher = "configs/resnet20.py"
    config.stages = ("quantize",)
    config.loss.l2 = 0.0  # steps follow the weights: what shrinks both changes nothing
    config.optim.name = "adamw"
    config.optim.momentum = None
    config.optim.nesterov = None
    config.distill.weight = 0.5
    config.distill.temperature = 1.0
    config.quantize.zero_points = False  # as when the figures above were measured
    config.quantize.bits = 8
    config.quantize.images = 512
    config.quantize.epochs = 3.0
    config.quantize.learning_rate = 1e-4
    return config
