"""ResNet-20 in integers of 4 bits on Fashion-MNIST: weights, and what every convolution reads.

Paper: Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153; as there, the first
and the last layer have 8 bits. Deviations: those of `resnet20_int8.py`; sums of residual branches
keep 8 bits, and each convolution rounds them to 4 for itself; a moving average of the parameters.

Command: python launch.py --config=configs/resnet20_int4.py

Device: 2 CPU cores, or any GPU or TPU. Expected (seed 0, float 94.51 %; Python 3.13, jax 0.12.0.1):
after training (512 images) 93.92 %, 117,300 bytes; trained further 94.32 %, 127,381 bytes; of
another network (seed 2, 55,000 images), 94.46 %: 93.96, 94.43 %. With sums in 4 bits too, from
94.72 %, these were 92.89 and 93.93 % (rate 1e-3, half of the loss from the teacher, temperature 1).
Time: 67 minutes on one core of an AMD EPYC beside another training, after the teacher's 80.
"""

from configs import resnet20_int8

BITS = ("stem.*=8", "dense1=8", ".*=4")


def get_config():
    """Returns the config."""
    config = resnet20_int8.get_config()
    config.distill.weight = 0.9
    config.distill.temperature = 4.0
    config.quantize.zero_points = False  # as when the figures above were measured
    config.quantize.bits = BITS
    config.quantize.input_bits = BITS
    config.quantize.activation_bits = ("stem.*=8", ".*conv1=4", ".*=8")
    config.quantize.epochs = 10.0
    config.quantize.learning_rate = 5e-4
    config.train.ema_decay = 0.999
    return config
