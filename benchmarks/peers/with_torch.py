"""PyTorch: eager NCHW, channels_last, torch.compile, and bf16 autocast."""

import contextlib

import networks
import torch
from torch import nn
from torch._inductor import config as inductor
from torch.nn import functional as F

torch.set_num_threads(2)


class Block(nn.Module):
    """ResNet's basic block; the shortcut takes every second pixel and appends zero channels."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(x + y)


class Mean(nn.Module):
    """The mean over the image."""

    def forward(self, x):
        return x.mean((2, 3))


def network(work):
    """Returns the network as nn.Sequential."""
    (height, _, channels), layers = work.shape, []
    for kind, *args in work.layers:
        if kind == "conv":
            outputs, size, stride, padding, bias = args
            pad = size // 2 if padding == "same" else 0
            layers.append(nn.Conv2d(channels, outputs, size, stride, pad, bias=bias))
            channels, height = outputs, (height + 2 * pad - size) // stride + 1
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(channels))
        elif kind == "relu":
            layers.append(nn.ReLU(inplace=True))
        elif kind in ("max_pool", "avg_pool"):
            pool = nn.MaxPool2d if kind == "max_pool" else nn.AvgPool2d
            layers.append(pool(*args, ceil_mode=True))
            height = -(-(height - args[0]) // args[1]) + 1
        elif kind == "block":
            layers.append(Block(channels, *args))
            channels, height = args[0], height // args[1]
        elif kind == "mean":
            layers.append(Mean())
        elif kind == "flatten":
            layers.append(nn.Flatten())
            channels *= height * height
        elif kind == "dense":
            layers.append(nn.Linear(channels, args[0]))
            channels = args[0]
        elif kind == "dropout":
            layers.append(nn.Dropout(args[0]))
    return nn.Sequential(*layers)


def make(name, mode, variant):
    """Returns (run(count), images per call, facts)."""
    torch.manual_seed(0)
    work = networks.WORKS[name]
    model = network(work)
    facts = {"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}
    memory = torch.contiguous_format if variant == "eager" else torch.channels_last
    model = model.to(memory_format=memory)
    images, labels = networks.ready(work.shape)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=memory)
    labels = torch.from_numpy(labels).long()
    half = variant == "bf16"

    def precision():
        return torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()

    if mode != "training":
        return *inference(model, images, mode, variant, precision), facts

    if work.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
    model.train()
    forward = torch.compile(model, dynamic=False) if variant == "compile" else model
    batches = networks.batches(torch.randperm)

    def run(count):
        for _ in range(count):
            index = next(batches)
            x, y = images[index], labels[index]
            with precision():
                loss = F.cross_entropy(forward(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return run, networks.BATCH, facts


def inference(model, images, mode, variant, precision):
    """Returns (run(count), images per call)."""
    model.eval()
    batch = networks.BATCH if mode == "inference" else 1
    x = images[:batch].clone(memory_format=torch.preserve_format)
    if variant == "compile":
        inductor.freezing = True  # BatchNorm folded, weights packed
        model = torch.compile(model, dynamic=False)
    elif variant == "jit":
        with torch.no_grad():
            traced = torch.jit.freeze(torch.jit.trace(model, x))
            model = torch.jit.optimize_for_inference(traced)
            model(x), model(x)

    def run(count):
        with torch.no_grad(), precision():
            for _ in range(count):
                model(x)

    return run, batch
