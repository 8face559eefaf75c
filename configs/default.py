"""Every key of a config, with its meaning, unit and legal range. The other configs are deltas.

A key that is None takes the default of the function it goes to (named in its comment), and is an
error where that function has no such option. Override any of them on the command line:

    python launch.py --config=configs/lenet.py --config.optim.learning_rate=3e-4
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

# a value of several types: a number that may be whole or not, a number or a tuple
_EITHER = object


def get_config() -> ConfigDict:
    """Returns the default config: the seed CNN on MNIST."""
    config = ConfigDict()

    # Decides initial parameters, batch order, augmentation, dropout and the split. >= 0.
    config.seed = 0
    # "cpu", "gpu" or "tpu"; "" takes the best that is there. One asked for but absent is an error.
    config.platform = ""
    # Bit-exact GPU kernels, slower. CPU and TPU are bit-exact anyway.
    config.deterministic = False
    # Rewrites what XLA compiles badly on this platform (hcjax.accelerate), and asks it for better
    # kernels; the same up to float rounding. A platform without rules is left alone.
    config.accelerate = True
    # Folder of the compilation caches; "" for ~/.cache/hcjax, "off" for none.
    config.cache_dir = ""
    # Workdir of a finished run to take the parameters from (fine-tuning); "" for none. The last
    # layer starts anew if the classes differ.
    config.init_from = ""
    # Writes a trace of that many steps, from the 11th on, to WORKDIR/profile. >= 0.
    config.profile_steps = 0

    # What is done to the trained network, in this order, each once: "distill", "factorize",
    # "prune", "share", "shrink", "trim", "quantize"; a section each but for "trim". All take a
    # network in float, so "quantize" is the last, or comes before "distill", whose student is in
    # float again; after "prune" no "factorize", after "share" only "quantize".
    config.stages = ()
    # The network to compress, and to be taught by: a workdir, a .hcz file or a config file without
    # stages, whose network is then trained by its own recipe, but with this config's seed,
    # platform, deterministic, accelerate, cache_dir and data, all of that section except
    # `validation`; "" for the network that this config trains. Its classes and images must be those
    # of the data.
    config.teacher = ""

    # What the network is for, a key of hcjax.tasks.TASKS: "classification", "segmentation",
    # "multilabel", "regression", "robust_regression", ...; it says the loss, the scores, what is
    # better, and the pictures of a run.
    config.task = "classification"

    config.data = data = ConfigDict()
    # Labelled images: "mnist" (embedded), "tfds", "idx", "folder" or "npz"; others: "masks" (an
    # image and a mask of each name), "csv" and "jsonl" (rows of text and numbers), "wav" (sounds).
    data.source = "mnist"
    data.name = placeholder(str)  # tfds: the dataset's name, e.g. "cifar10"
    data.path = placeholder(str)  # a folder; npz, csv, jsonl: or a file; tfds: its data_dir
    # Examples (>= 0) or fraction (in (0, 1)) of train kept to choose by, where none are ready.
    data.validation = FieldReference(5000, field_type=_EITHER)
    data.test = placeholder(_EITHER)  # the same, kept as test, where a source has none; 0.1
    data.image_size = placeholder(_EITHER)  # pixels, H = W or (H, W), that images are fitted to
    data.channels = placeholder(int)  # 1 or 3: images are converted to grey or colour
    data.limit = placeholder(int)  # >= 1: so many examples of each part, for a quick try
    data.memory_limit_bytes = 4 * 2**30  # larger data is streamed
    data.target = placeholder(str)  # csv, jsonl: the column to predict
    data.kind = placeholder(str)  # csv, jsonl: "classes" or "number"; None: by its values
    data.text = placeholder(str)  # csv, jsonl: the column of text
    data.numbers = placeholder(tuple)  # csv, jsonl: columns of numbers; None: all there are
    data.units = placeholder(str)  # csv, jsonl: of text: "characters", "bytes" or "words"
    data.length = placeholder(int)  # csv, jsonl: of a text in units, >= 1; None: 99 % fit
    data.most = placeholder(int)  # csv, jsonl: units in the vocabulary, >= 1
    data.missing = placeholder(str)  # csv, jsonl: missing numbers: "refuse" or "mean"
    data.class_names = placeholder(tuple)  # masks: of their values; None: those in classes.txt
    data.rate = placeholder(int)  # wav: samples a second, >= 1
    data.seconds = placeholder(float)  # wav: of each sound, > 0
    data.threads = 0  # threads that read ahead; 0 reads in the loop if images are in memory

    config.augment = augment = ConfigDict()
    # Augmentations of training images, in this order, e.g. ("shift", "flip"); a section each.
    augment.use = ()
    augment.shift = ConfigDict()
    augment.shift.pixels = placeholder(int)  # either way, >= 0
    augment.crop = ConfigDict()
    augment.crop.area = placeholder(tuple)  # (least, largest) share of the image, in (0, 1]
    augment.crop.aspect = placeholder(tuple)  # (least, largest) width / height, > 0
    augment.flip = ConfigDict()
    augment.flip.probability = placeholder(float)  # in [0, 1]
    augment.flip.vertical = placeholder(bool)  # upside down instead of left to right
    augment.affine = affine = ConfigDict()
    affine.rotate = placeholder(float)  # degrees either way, >= 0
    affine.scale = placeholder(float)  # relative, either way, in [0, 0.99]
    affine.shift = placeholder(float)  # pixels either way, >= 0
    affine.shear = placeholder(float)  # pixels per pixel either way, >= 0
    affine.elastic = placeholder(float)  # std of a smooth displacement, pixels, >= 0
    affine.cells = placeholder(int)  # points of that displacement's grid along an axis, >= 2
    augment.elastic = ConfigDict()
    augment.elastic.strength = placeholder(float)  # std of the displacement, pixels, >= 0
    augment.elastic.cells = placeholder(int)  # points of its grid along an axis, >= 2
    augment.cutout = ConfigDict()
    augment.cutout.size = placeholder(int)  # side of the square, pixels, >= 1
    augment.cutout.fill = placeholder(float)  # its value, in 0..1 as pixels are
    augment.noise = ConfigDict()
    augment.noise.std = placeholder(float)  # where a pixel is 0..1, >= 0
    augment.color = color = ConfigDict()
    color.brightness = placeholder(float)  # relative, either way, in [0, 1]
    color.contrast = placeholder(float)  # relative, either way, in [0, 1]
    color.saturation = placeholder(float)  # relative, either way, in [0, 1]
    augment.mixup = ConfigDict()
    augment.mixup.alpha = placeholder(float)  # of the Beta distribution of the share, >= 0.001
    augment.forget = ConfigDict()
    augment.forget.rate = placeholder(float)  # of tokens that become unknown, in [0, 1]
    augment.cutmix = ConfigDict()
    augment.cutmix.alpha = placeholder(float)  # of the Beta distribution of the share, >= 0.001

    config.model = model = ConfigDict()
    model.name = "mnist_cnn"  # a key of hcjax.models.MODELS
    model.dtype = "float32"  # compute: "float32" or "bfloat16"; parameters stay float32
    model.sync_batchnorm = False  # BatchNorm over all devices instead of per device
    model.activation = placeholder(str)  # relu, prelu, tanh or identity, as the model allows
    model.dropout = placeholder(float)  # all but resnet*: in [0, 1)
    model.filters = placeholder(_EITHER)  # all but dense and resnet*: of each convolution, >= 1
    model.hidden = placeholder(_EITHER)  # units of the hidden dense layers, >= 1
    model.pool = placeholder(str)  # lenet5_1998: "average" or "max"
    model.groups = placeholder(int)  # alexnet: of convolutions 2, 4 and 5, >= 1
    model.response_norm = placeholder(bool)  # alexnet: local response normalisation
    model.width = placeholder(int)  # resnet*: channels of the first stage; text_cnn: embedding's
    model.size = placeholder(int)  # text_cnn: tokens that a convolution sees, odd, >= 1
    model.token_dropout = placeholder(float)  # text_cnn: of whole tokens, in [0, 1)
    model.embedding_dropout = placeholder(float)  # text_cnn: of embeddings, in [0, 1)
    model.stride_in = placeholder(str)  # resnet50: the convolution that halves, "3x3" or "1x1"
    model.zero_init = placeholder(bool)  # resnet*: each block's last scale starts at 0
    model.tempo = placeholder(tuple)  # sound_cnn: (least, largest) drawing out in training, > 0
    model.hidden_time = placeholder(float)  # sound_cnn: seconds hidden in training, >= 0
    model.hidden_pitch = placeholder(int)  # sound_cnn: bands of 32 hidden in training, >= 0
    model.norm_momentum = placeholder(float)  # of BatchNorm's running statistics, in [0, 1)

    config.loss = loss = ConfigDict()
    # A key of the task's `losses`, of classification hcjax.losses.LOSSES, "adversarial" or
    # "trades"; None: the task's own, of classification "cross_entropy".
    loss.name = placeholder(str)
    loss.smoothing = placeholder(float)  # cross_entropy: label smoothing, in [0, 1)
    loss.gamma = placeholder(float)  # focal: >= 0
    loss.eps = placeholder(float)  # adversarial, trades: radius, where a pixel is 0..1, >= 0
    loss.norm = placeholder(str)  # adversarial, trades: "linf" or "l2"
    loss.steps = placeholder(int)  # adversarial, trades: of projected gradient ascent, >= 1
    loss.step_size = placeholder(float)  # adversarial, trades: > 0; None: 2.5 eps / steps
    loss.beta = placeholder(float)  # trades: weight of the divergence, > 0
    loss.l1 = 0.0  # times the sum of |w| over kernels, added to the mean loss
    loss.l2 = 0.0  # times half the sum of w^2 over kernels, added to the mean loss
    loss.class_weights = ""  # "balanced" weighs classes by 1 / frequency; "" all alike

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # a key of hcjax.optim.OPTIMIZERS
    optim.learning_rate = 1e-3  # the peak, > 0
    optim.clip_norm = placeholder(float)  # largest global gradient norm, > 0
    optim.accumulate_steps = 1  # batches whose gradients are averaged before an update
    optim.freeze = placeholder(str)  # regular expression of parameter paths that stay as they are
    optim.weight_decay = placeholder(float)  # decoupled, on kernels; times the learning rate; >= 0
    optim.momentum = placeholder(float)  # sgd, muon: in [0, 1)
    optim.nesterov = placeholder(bool)  # sgd, muon
    optim.b1 = placeholder(float)  # adam, adamw, lamb, lion: in [0, 1)
    optim.b2 = placeholder(float)  # the same
    optim.epsilon = placeholder(float)  # adam, adamw, lamb: > 0
    optim.rms = placeholder(float)  # muon: root mean square of an update, > 0

    config.schedule = schedule = ConfigDict()
    schedule.name = "constant"  # a key of hcjax.optim.SCHEDULES
    schedule.warmup_steps = placeholder(int)  # all but one_cycle: >= 0
    schedule.warmup_fraction = placeholder(float)  # one_cycle: of all steps, in (0, 1)
    schedule.initial_divisor = placeholder(float)  # one_cycle: peak / first rate, >= 1
    schedule.final_divisor = placeholder(float)  # one_cycle: first rate / last rate, >= 1
    schedule.final_fraction = placeholder(float)  # cosine: last rate / peak, in [0, 1]
    schedule.milestones = placeholder(tuple)  # step: fractions of all steps, rising in (0, 1)
    schedule.factor = placeholder(float)  # step, reduce_on_plateau: each reduction's, in (0, 1)
    schedule.every_steps = placeholder(int)  # reduce_on_plateau: steps that are averaged, >= 1
    schedule.patience = placeholder(int)  # reduce_on_plateau: averages without a better one, >= 1
    schedule.cooldown = placeholder(int)  # reduce_on_plateau: averages to wait after that, >= 0
    schedule.min_fraction = placeholder(float)  # reduce_on_plateau: least rate / peak, in [0, 1]
    schedule.tolerance = placeholder(float)  # reduce_on_plateau: least relative gain, in (0, 1]

    config.train = train = ConfigDict()
    train.batch_size = 128  # images per step over all devices, a multiple of their number
    train.epochs = 10.0  # passes over the training part; >= 0, fractions allowed
    train.eval_every = placeholder(int)  # steps between validations; None: one epoch
    train.eval_batch_size = 1000  # images per evaluation step over all devices
    train.patience = placeholder(int)  # validations without a better one before stopping
    # The score of the validation part that decides what is better, one of the task's `monitors`;
    # None: its first, of classification "nll".
    train.monitor = placeholder(str)
    train.ema_decay = placeholder(float)  # in [0, 1): use a moving average of the parameters
    train.log_every = 50  # steps between lines of metrics.jsonl
    train.checkpoint_every = placeholder(int)  # steps; None: at every validation
    train.keep = 3  # checkpoints kept

    # Training after, or during, a stage: epochs (0 for none) and the peak learning rate; None for
    # those of `train` and `optim`. The rest is as in the other sections.
    config.distill = distill = ConfigDict()
    distill.epochs = placeholder(float)  # of the student
    distill.learning_rate = placeholder(float)  # the peak, > 0
    # How the teacher teaches: "kl" or "decoupled" (DKD) of logits, "squared" of any outputs;
    # None: the task's own, of classification and segmentation "kl", of others "squared".
    distill.loss = placeholder(str)
    distill.weight = 0.9  # of the teacher's logits in the loss of every stage, in [0, 1]
    distill.temperature = 4.0  # > 0
    distill.beside = ()  # workdirs or .hcz files that teach beside the first network
    # Folder that keeps the teachers' logits, 4 · K bytes for each image of a step: trainings with
    # the same seed, data and augmentation compute them once; "" keeps none.
    distill.logits = ""
    distill.generations = placeholder(int)  # the student's student, and so on; >= 1
    # The network that stage "distill" trains instead of the teacher: keys as in `model`.
    config.student = student = ConfigDict()
    student.name = placeholder(str)  # a key of hcjax.models.MODELS
    student.activation = placeholder(str)  # as in `model`
    student.dropout = placeholder(float)  # as in `model`
    student.filters = placeholder(_EITHER)  # as in `model`
    student.hidden = placeholder(_EITHER)  # as in `model`
    student.width = placeholder(int)  # as in `model`
    config.prune = prune = ConfigDict()
    prune.epochs = placeholder(float)  # of its training; >= 0
    prune.learning_rate = placeholder(float)  # the peak, > 0
    prune.sparsity = placeholder(float)  # of all kernels together, in [0, 1)
    prune.method = placeholder(str)  # of its training: "gradual", or a Criterion of prune.SCORES
    prune.scope = placeholder(str)  # "global", "lamp", "uniform" or "erk"
    # Or, instead of both, of each kernel, by the first pattern that matches its whole path:
    prune.layers = placeholder(tuple)  # ("conv.*=0.5", ".*=0.9")
    # Or, instead of all these, (2, 4): two of every four consecutive input channels stay.
    prune.n_of_m = placeholder(tuple)
    # What goes together, along a kernel's last axes, 0 for a whole one; (0, 0, 0, 1): filters.
    prune.block = placeholder(tuple)
    prune.select = placeholder(tuple)  # patterns of paths, ("dense.*",); None for all kernels
    prune.ramp = placeholder(float)  # share of the steps until the sparsity is reached, in (0, 1]
    config.shrink = shrink = ConfigDict()
    shrink.epochs = placeholder(float)  # of its training; >= 0
    shrink.learning_rate = placeholder(float)  # the peak, > 0
    shrink.keep = placeholder(float)  # share of the channels that stays, in (0, 1]
    shrink.macs = placeholder(float)  # or share of the MACs, in (0, 1]
    shrink.round_to = placeholder(int)  # channel counts are multiples of it, >= 1
    config.factorize = factorize = ConfigDict()
    factorize.epochs = placeholder(float)  # of its training; >= 0
    factorize.learning_rate = placeholder(float)  # the peak, > 0
    factorize.macs = placeholder(float)  # share of the MACs, in (0, 1)
    factorize.energy = placeholder(float)  # or of each kernel's squared singular values, in (0, 1]
    factorize.rank = placeholder(int)  # or at most so many channels in between, >= 1
    config.share = share = ConfigDict()
    share.epochs = placeholder(float)  # of its training; >= 0
    share.learning_rate = placeholder(float)  # the peak, > 0
    share.clusters = placeholder(int)  # different weights in each kernel, besides 0; >= 1
    config.quantize = quantize = ConfigDict()
    quantize.epochs = placeholder(float)  # of its training; >= 0
    quantize.learning_rate = placeholder(float)  # the peak, > 0
    quantize.bits = placeholder(_EITHER)  # 2 to 8, or of each layer: ("conv1=8", ".*=4"); None: 8
    # Instead of bits: chosen for each layer by its sensitivity, on validation images, so that
    quantize.size = placeholder(float)  # kernels have this part of their float32 bits, in (0, 1]
    quantize.drop = placeholder(float)  # accuracy falls by this much at most; 0.001: 0.1 points
    quantize.activation_bits = placeholder(_EITHER)  # the same; None for 8
    quantize.input_bits = placeholder(_EITHER)  # of what each layer reads, if fewer; None for 8
    quantize.granularity = placeholder(str)  # a step for each "channel" of a kernel, or "tensor"
    quantize.floats = placeholder(str)  # regular expression of layers that compute in float
    quantize.zero_points = placeholder(bool)  # whether activations may have them; None: True
    quantize.method = placeholder(str)  # of calibration: mse, minmax, percentile or entropy
    quantize.entropy = placeholder(float)  # nats of loss for each bit of the kernels' code, >= 0
    quantize.images = placeholder(int)  # of the training part, to calibrate on; >= 1

    config.lock()  # a key that is not above is an error
    return config
