"""LeNet-5 made small: pruned, its empty channels taken out, its weights made 5-bit integers.

Papers: Han, Mao and Dally, "Deep Compression", 2016, arXiv:1510.00149, for the order of things;
`lenet_prune.py`'s for pruning; Esser et al., "Learned Step Size Quantization", 2020,
arXiv:1902.08153, for integers. Deviations: the unpruned network teaches in every stage, learned
steps instead of k-means, an adaptive arithmetic coder instead of Huffman's.

Command: python launch.py --config=configs/lenet_compress.py --seeds=3

Device: 2 CPU cores, or any GPU or TPU. Expected: not measured to its end yet. Time: neither.
"""

from configs import lenet_prune


def get_config():
    """Returns the config."""
    config = lenet_prune.get_config()
    config.stages = ("prune", "trim", "quantize")
    config.prune.sparsity = 0.994
    config.quantize.bits = 5
    config.quantize.activation_bits = 8
    config.quantize.granularity = "tensor"
    config.quantize.epochs = 6.0
    config.quantize.learning_rate = 5e-4
    return config
