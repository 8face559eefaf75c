"""A key or a name that is not there: what is suggested instead, and what is not."""

import pytest

from configs import default
from hcjax import data, losses, models, optim
from hcjax.app.stages import STAGES
from hcjax.config import configfile
from hcjax.config.keys import did_you_mean
from hcjax.config.reader import flatten, to_dict
from hcjax.errors import USUAL_KEYS, ConfigError, nearest

KEYS = list(flatten(to_dict(default.get_config())))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        # the field's other names, in any section and spelling
        ("optim.lr", "optim.learning_rate"),
        ("lr", "optim.learning_rate"),
        ("train.lr", "optim.learning_rate"),
        ("prune.lr", "prune.learning_rate"),
        ("optim.learningRate", "optim.learning_rate"),
        ("bs", "train.batch_size"),
        ("batch", "train.batch_size"),
        ("data.batch_size", "train.batch_size"),
        ("epochs", "train.epochs"),
        ("num_epochs", "train.epochs"),
        ("prune.num_epochs", "prune.epochs"),
        ("wd", "optim.weight_decay"),
        ("weight_decay", "optim.weight_decay"),
        ("dropout", "model.dropout"),
        ("student.drop", "student.dropout"),
        ("optim.beta1", "optim.b1"),
        ("optim.max_grad_norm", "optim.clip_norm"),
        ("schedule.gamma", "schedule.factor"),
        ("scheduler", "schedule.name"),
        ("optimizer", "optim.name"),
        ("model.type", "model.name"),
        ("loss.loss", "loss.name"),
        ("data.data_dir", "data.path"),
        ("num_workers", "data.threads"),
        ("train.early_stopping", "train.patience"),
        ("random_seed", "seed"),
        ("device", "platform"),
        ("distill.alpha", "distill.weight"),
        ("augment.mixup_alpha", "augment.mixup.alpha"),
        # slips of the hand
        ("sed", "seed"),
        ("optim.learning_rat", "optim.learning_rate"),
        ("optm.learning_rate", "optim.learning_rate"),
        ("prun.learning_rate", "prune.learning_rate"),
        ("train.bacth_size", "train.batch_size"),
        ("optim.rm", "optim.rms"),
        ("quant.bits", "quantize.bits"),
    ],
)
def test_the_key_that_was_meant_is_named(wrong, meant):
    assert did_you_mean(wrong, KEYS) == f"; did you mean config.{meant}?"
    with pytest.raises(ConfigError, match=rf"did you mean config\.{meant}\?"):
        configfile.override(default.get_config(), wrong, "1")


@pytest.mark.parametrize("wrong", ["qqq", "optim.xyz", "t_max", "", "optim.", "..", "quantize.zz"])
def test_nothing_is_suggested_for_what_is_like_nothing(wrong):
    assert did_you_mean(wrong, KEYS) == ""


def test_several_sections_with_such_a_key_are_all_named():
    assert did_you_mean("alpha", KEYS).count("config.augment.") == 2


def test_every_usual_name_leads_to_a_key():
    assert set(USUAL_KEYS.values()) <= set(KEYS)


@pytest.mark.parametrize(
    ("table", "wrong", "meant"),
    [
        (models.MODELS, "LeNet", "lenet5"),
        (models.MODELS, "ResNet-20", "resnet20"),
        (models.MODELS, "mnist-cnn", "mnist_cnn"),
        (optim.OPTIMIZERS, "AdamW", "adamw"),
        (optim.OPTIMIZERS, "adma", "adam"),
        (optim.OPTIMIZERS, "sgdm", "sgd"),
        (optim.OPTIMIZERS, "sdg", "sgd"),
        (optim.SCHEDULES, "cosine_annealing", "cosine"),
        (optim.SCHEDULES, "OneCycleLR", "one_cycle"),
        (losses.LOSSES, "ce", "cross_entropy"),
        (losses.LOSSES, "CrossEntropyLoss", "cross_entropy"),
        (data.AUGMENTATIONS, "hflip", "flip"),
        (data.AUGMENTATIONS, "random_crop", "crop"),
        (data.SOURCES, "cifar10", "tfds"),
        (data.SOURCES, "ImageFolder", "folder"),
        (STAGES, "quantization", "quantize"),
        (STAGES, "pruning", "prune"),
        (("learning_rate", "b1", "b2"), "lr", "learning_rate"),
        (("learning_rate", "b1", "b2"), "beta2", "b2"),
    ],
)
def test_the_name_that_was_meant_is_the_only_suggestion(table, wrong, meant):
    assert nearest(wrong, table) == [meant]


@pytest.mark.parametrize(
    ("table", "wrong"),
    [(optim.OPTIMIZERS, "zz"), (("rms",), "lr"), (losses.LOSSES, ""), (("in",), "ab")],
)
def test_a_name_that_is_like_none_has_no_suggestion(table, wrong):
    assert nearest(wrong, table) == []
