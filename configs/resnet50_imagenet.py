"""ResNet-50 on ImageNet: 25,557,032 parameters, 224 x 224 x 3, bfloat16 compute.

Papers: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385; the schedule for large batches is of Goyal et al., "Accurate, Large Minibatch
SGD", 2017, arXiv:1706.02677 (0.1 per 256 images, 5 epochs of warm-up, last scale of each block
starts at 0), with label smoothing 0.1 and a cosine. Deviations: images are first fitted to
224 x 224 and then cropped at random from that; decay on kernels only.

Command: python launch.py --config=configs/resnet50_imagenet.py --config.data.path=gs://BUCKET/tfds
The folder is the data_dir in which TFDS has prepared imagenet2012 (tfds build imagenet2012
--file_format=array_record, from the archives of image-net.org). ImageNet's "validation" part is
the test here, and 10,000 training images are kept to choose by. On a TPU pod the same on every
worker, with --distributed; --plan=v5e:2x4 compiles the steps without a TPU or the images.

Device: 8 GPUs or a TPU slice. Expected: not yet measured (76 % in Goyal et al.). Time: not yet
measured.
"""

from configs import default


def get_config():
    """Returns the config."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = "imagenet2012"
    config.data.image_size = (224, 224)
    config.data.channels = 3
    config.data.validation = 10_000
    config.data.threads = 16
    config.augment.use = ("crop", "flip")
    config.model.name = "resnet50"
    config.model.dtype = "bfloat16"
    config.model.zero_init = True
    config.loss.smoothing = 0.1
    config.loss.l2 = 1e-4
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.4
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 6_207  # 5 epochs
    config.train.batch_size = 1024
    config.train.epochs = 90.0
    config.train.eval_batch_size = 1024
    config.train.log_every = 100
    return config
