"""Keras 3: `model.fit`, as the project's seed trained; the backend is the variant."""

import os
import sys

os.environ["KERAS_BACKEND"] = sys.argv[4]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import networks
import numpy as np
from keras import layers as L

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)


def block(x, outputs, stride):
    """ResNet's basic block; the shortcut takes every second pixel and appends zero channels."""
    inputs = x.shape[-1]
    y = x
    if stride != 1:  # Keras pads (0, 1) for "same" and the others (1, 1)
        y = L.ZeroPadding2D(1)(y)
    padding = "same" if stride == 1 else "valid"
    y = L.Conv2D(outputs, 3, stride, padding=padding, use_bias=False)(y)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(outputs, 3, padding="same", use_bias=False)(y))
    if stride != 1:
        x = L.AveragePooling2D(1, stride)(x)
        more = outputs - inputs
        x = keras.ops.pad(x, [(0, 0), (0, 0), (0, 0), (0, more)])
    return L.ReLU()(L.Add()([x, y]))


def network(work):
    """Returns the functional model."""
    start = x = keras.Input(work.shape)
    for kind, *args in work.layers:
        if kind == "conv":
            outputs, size, stride, padding, bias = args
            x = L.Conv2D(outputs, size, stride, padding=padding, use_bias=bias)(x)
        elif kind == "block":
            x = block(x, *args)
        elif kind in ("max_pool", "avg_pool"):
            pool = L.MaxPooling2D if kind == "max_pool" else L.AveragePooling2D
            x = pool(*args, padding="same" if args[0] == 3 else "valid")(x)
        else:
            made = {
                "norm": L.BatchNormalization,
                "relu": L.ReLU,
                "mean": L.GlobalAveragePooling2D,
                "flatten": L.Flatten,
                "dense": L.Dense,
                "dropout": L.Dropout,
            }[kind]
            x = made(*args)(x)
    return keras.Model(start, x)


def make(name, mode, variant):
    """Returns (run(count), images per call, facts)."""
    work = networks.WORKS[name]
    model = network(work)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    facts = {"keras": keras.__version__, "backend": variant, "parameters": trainable}
    images, labels = networks.ready(work.shape)
    if work.optimizer == "adam":
        optimizer = keras.optimizers.Adam(1e-3)
    else:
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])

    def epochs(count):  # how many images of each, for so many batches in all
        while count > 0:
            part = min(count, networks.IMAGES // networks.BATCH)
            yield part * networks.BATCH
            count -= part

    def train(count):
        for n in epochs(count):
            model.fit(images[:n], labels[:n], batch_size=networks.BATCH, epochs=1, verbose=0)

    def infer(count):
        for n in epochs(count):
            model.predict(images[:n], batch_size=networks.BATCH, verbose=0)

    one = images[:1]

    def latency(count):
        for _ in range(count):
            model.predict_on_batch(one)

    run = {"training": train, "inference": infer, "latency": latency}[mode]
    return run, 1 if mode == "latency" else networks.BATCH, facts
