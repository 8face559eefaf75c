"""Training on a GPU beside PyTorch on the same GPU, in one call.

    python benchmarks/gpu.py                         all three, bf16
    python benchmarks/gpu.py --only ResNet-50
    python benchmarks/gpu.py --platform cpu --batch 2 --size 32   a rehearsal without a GPU

Images are random and stay on the device; each racer has a process of its own, and they take turns.
PyTorch, where this Python has it, runs channels_last under bf16 autocast with torch.compile. The
fraction of peak is 3 forward passes of products by the device's own bf16 matrix-product rate.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent / "peers")]

from racer import Racer  # noqa: E402
from serve import answer  # noqa: E402

# hcjax's name, image size, batch
WORKS = {
    "LeNet-5": ("lenet5", (28, 28, 1), 1024),
    "ResNet-20": ("resnet20", (32, 32, 3), 1024),
    "ResNet-50": ("resnet50", (224, 224, 3), 128),
}
RACERS = ("hcjax", "torch")


def with_hcjax(work: str, batch: int, shape: tuple, platform: str):
    """Returns (run(count), facts) of hcjax's step, as `fit` takes it."""
    import jax

    jax.config.update("jax_platforms", platform)
    import jax.numpy as jnp
    import optax

    import hcjax
    from benchmarks import ours
    from hcjax.train import parallel

    network = hcjax.models.create(WORKS[work][0], input_shape=shape, dtype="bfloat16")
    params, state = network.init(jax.random.key(0))
    predict = hcjax.inference(network.apply, state)
    macs = hcjax.cost(hcjax.trace(predict, params, jnp.zeros((1, *shape)))).macs
    classes = jax.eval_shape(predict, params, jnp.zeros((1, *shape))).shape[-1]
    train = ours.trainer(network, shape, tx=optax.sgd(0.01, momentum=0.9), classes=classes)
    examples = jax.device_put(parallel.shard(ours.batch(shape, batch, classes)))

    def run(count):
        for _ in range(count):
            sums = train(examples)
        jax.block_until_ready(sums)

    a = jnp.ones((4096, 4096) if platform != "cpu" else (512, 512), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    begin = time.perf_counter()
    for _ in range(20):
        b = product(a)
    b.block_until_ready()
    peak = 20 * 2 * a.shape[0] ** 3 / (time.perf_counter() - begin)
    device = jax.devices()[0].device_kind
    return run, {"jax": jax.__version__, "device": device, "macs": macs, "peak": peak}


def with_torch(work: str, batch: int, shape: tuple, platform: str):
    """Returns (run(count), facts) of PyTorch's step."""
    import networks
    import torch
    import with_torch as peer
    from torch import nn

    device = "cuda" if platform != "cpu" else "cpu"
    model = resnet50(nn) if work == "ResNet-50" else peer.network(networks.WORKS[work])
    model = model.to(device, memory_format=torch.channels_last).train()
    classes = 1000 if work == "ResNet-50" else networks.CLASSES
    x = torch.randn(batch, shape[2], shape[0], shape[1], device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, classes, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
    forward = torch.compile(model, dynamic=False)

    def run(count):
        for _ in range(count):
            with torch.autocast(device, torch.bfloat16):
                loss = nn.functional.cross_entropy(forward(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return run, {"torch": torch.__version__}


def resnet50(nn):
    """Returns ResNet-50 with the stride in the 3 x 3 convolutions, as hcjax's."""

    class Bottleneck(nn.Module):
        def __init__(self, inputs, middle, stride):
            super().__init__()
            outputs = 4 * middle

            def unit(a, b, size, stride=1):
                conv = nn.Conv2d(a, b, size, stride, size // 2, bias=False)
                return nn.Sequential(conv, nn.BatchNorm2d(b))

            self.first, self.second = unit(inputs, middle, 1), unit(middle, middle, 3, stride)
            self.third = unit(middle, outputs, 1)
            changes = stride != 1 or inputs != outputs
            self.shortcut = unit(inputs, outputs, 1, stride) if changes else nn.Identity()
            self.relu = nn.ReLU()

        def forward(self, x):
            y = self.third(self.relu(self.second(self.relu(self.first(x)))))
            return self.relu(y + self.shortcut(x))

    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for n in range(count):
            layers.append(Bottleneck(inputs, 64 * 2**stage, 2 if stage and n == 0 else 1))
            inputs = 256 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def serve(racer: str, work: str, batch: int, shape: tuple, platform: str) -> None:
    """Answers each line with a number of seconds by images per second over about that long."""
    make = {"hcjax": with_hcjax, "torch": with_torch}[racer]
    run, facts = make(work, batch, shape, platform)
    run(3)
    answer(run, batch, facts)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--platform", default="cuda", choices=("cuda", "rocm", "cpu"))
    parser.add_argument("--batch", type=int, help="images per step, instead of each work's own")
    parser.add_argument("--size", type=int, help="ResNet-50's images, instead of 224")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()

    def settings(work):
        _, shape, batch = WORKS[work]
        if work == "ResNet-50" and options.size:
            shape = (options.size, options.size, 3)
        return options.batch or batch, shape, options.platform

    if options.child:
        racer, work = options.child
        serve(racer, work, *settings(work))
        return 0
    names = [r for r in RACERS if r == "hcjax" or importlib.util.find_spec("torch")]
    print("| work, bf16 | hcjax img/s | of peak | torch img/s | ratio |\n|---|---|---|---|---|")
    rows = []
    for work in options.only:
        batch = settings(work)[0]
        rates: dict[str, list[float]] = {name: [] for name in names}
        racers: dict[str, Racer] = {}
        try:
            for name in names:
                racers[name] = Racer([sys.executable, *sys.argv, "--child", name, work])
            for _ in range(options.rounds):
                for name, racer in racers.items():
                    rates[name].append(racer.round(options.seconds))
        except RuntimeError as error:
            print(f"{work} failed: {error}", file=sys.stderr)
            return 1
        finally:
            for racer in racers.values():
                racer.close()
        facts = {k: v for racer in racers.values() for k, v in racer.facts.items()}
        ours = statistics.median(rates["hcjax"])
        row = {"work": work, "batch": batch, "images_per_second": ours, **facts}
        row["of_peak"] = 6 * facts["macs"] * ours / facts["peak"]
        cells = ["not run", "not run"]
        if "torch" in rates:
            theirs = statistics.median(rates["torch"])
            ratios = [a / b for a, b in zip(rates["hcjax"], rates["torch"], strict=True)]
            row |= {"torch_images_per_second": theirs, "ratio": statistics.median(ratios)}
            cells = [f"{theirs:,.0f}", f"{row['ratio']:.2f}"]
        rows.append(row)
        print(
            f"| {work}, batch {batch} | {ours:,.0f} | {row['of_peak']:.0%} | {' | '.join(cells)} |",
            flush=True,
        )
    print(f"\n{facts['device']}, peak {facts['peak'] / 1e12:.1f} TFLOP/s, jax {facts['jax']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
