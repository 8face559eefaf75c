"""Each rule of `hcjax.accelerate` on single operations: plain and rewritten, in turns.

    python benchmarks/rules.py                             all rules of a CPU
    python benchmarks/rules.py --only depthwise max_pool   some of them
    python benchmarks/rules.py --quick                     one operation, a moment

Operations are written as users write them, in the shapes of known networks, and both sides of a
row are compiled alike: `cpu` without options, `cpu+onednn` with those of `hcjax.jit`. By what
`explain` reads, the rule named must apply, and the results must agree, or the run ends. Times are
medians; above 1 the rule pays. A rule that keeps apart what XLA would fuse is timed with that.
`beyond`: the rule has a limit and leaves this alone; it is lifted here, to see what it is good for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # these are a CPU's rules
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hcjax.devices import allocator

allocator.keep_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

import hcjax  # noqa: E402
from benchmarks import operations as ops  # noqa: E402
from hcjax.accelerate import compiler  # noqa: E402
from hcjax.accelerate.accelerate import explanation  # noqa: E402
from hcjax.accelerate.rules import (  # noqa: E402
    RULES,
    convolution,
    dense,
    depthwise,
    gradients,
    integers,
    layers,
    native,
    pooling,
    sums,
)
from hcjax.native import onednn  # noqa: E402

TABLES = ("cpu", "cpu+onednn", "cpu+native")


class Entry(NamedTuple):
    """A rule, an operation that it is for, make() -> (function, arguments), and its tables.

    beyond: the name of a limit, in the rule's module, that is lifted to time this.
    """

    rule: Callable
    label: str
    make: Callable
    tables: tuple[str, ...] = TABLES[:2]
    beyond: str = ""


INT8 = {"dtype": np.int8, "preferred_element_type": jnp.int32}
NCHW = {"layout": ("NCHW", "OIHW", "NCHW")}
THIN = {"feature_group_count": 64}
VOLUMES = {"layout": ("NHWDC", "HWDIO", "NHWDC")}
CPU, ONEDNN, NATIVE = TABLES[:1], TABLES[1:2], TABLES[2:]
# fmt: off
# loops over convolutions are in CPU alone: `hcjax.jit` compiles them so, as the options hang there
ENTRIES = [
    Entry(native.native_convolution, "ResNet-20",
          partial(ops.forward, (128, 32, 32, 16), (3, 3, 16, 16)), NATIVE),
    Entry(native.native_convolution, "MobileNet, depthwise",
          partial(ops.forward, (32, 32, 32, 64), (3, 3, 1, 64), **THIN), NATIVE),
    Entry(native.native_convolution, "Equinox, channels first",
          partial(ops.forward, (32, 32, 32, 32), (32, 32, 3, 3), **NCHW), NATIVE),
    Entry(native.native_convolution, "three axes",
          partial(ops.forward, (1, 32, 32, 32, 16), (3, 3, 3, 16, 32), **VOLUMES), NATIVE),
    Entry(native.native_kernel_gradient, "three axes, value and both gradients",
          partial(ops.passes, (1, 32, 32, 32, 16), (3, 3, 3, 16, 32), **VOLUMES), NATIVE),
    Entry(native.native_convolution, "ResNet-20, int8",
          partial(ops.forward, (128, 32, 32, 16), (3, 3, 16, 16), **INT8), NATIVE),
    Entry(native.native_kernel_gradient, "ResNet-20",
          partial(ops.gradient, 1, (128, 32, 32, 16), (3, 3, 16, 16)), NATIVE),
    Entry(native.native_kernel_gradient, "LeNet-5, second",
          partial(ops.gradient, 1, (128, 12, 12, 20), (5, 5, 20, 50), padding="VALID"), NATIVE),
    Entry(native.native_kernel_gradient, "three axes",
          partial(ops.gradient, 1, (1, 32, 32, 32, 16), (3, 3, 3, 16, 32), **VOLUMES), NATIVE),
    Entry(native.native_transposed, "ResNet-20, by 2",
          partial(ops.gradient, 0, (128, 32, 32, 16), (3, 3, 16, 32), stride=2), NATIVE),
    Entry(native.native_transposed, "U-Net, up by 2",
          partial(ops.transposed, (32, 8, 8, 128), (2, 2, 128, 64), 2), NATIVE),
    Entry(layers.native_layer, "ResNet-20, end of a block",
          partial(ops.finished, (128, 32, 32, 16), (3, 3, 16, 16)), NATIVE),
    Entry(layers.native_layer, "AlexNet 32, one image, in use",
          partial(ops.in_use, (1, 8, 8, 256), (3, 3, 256, 256)), NATIVE),
    Entry(pooling.wide_max_pool, "ResNet-18, 3 x 3 by 2",
          partial(ops.pool, nn.max_pool, (32, 32, 32, 64), 3, 2), NATIVE),
    Entry(pooling.max_pool, "LeNet-5, 2 x 2",
          partial(ops.pool, nn.max_pool, (128, 24, 24, 20), 2, 2)),
    Entry(pooling.max_pool, "ResNet-18, 3 x 3 by 2",
          partial(ops.pool, nn.max_pool, (32, 32, 32, 64), 3, 2)),
    Entry(pooling.sum_pool, "average, 2 x 2",
          partial(ops.pool, nn.avg_pool, (128, 32, 32, 32), 2, 2)),
    Entry(pooling.max_pool_gradient, "LeNet-5, 2 x 2",
          partial(ops.pool_gradient, nn.max_pool, (128, 24, 24, 20), 2, 2)),
    Entry(pooling.max_pool_gradient, "ResNet-18, 3 x 3 by 2",
          partial(ops.pool_gradient, nn.max_pool, (32, 32, 32, 64), 3, 2)),
    Entry(sums.factored, "BatchNorm's gradients", partial(ops.norm_gradient, (128, 32, 32, 16))),
    Entry(sums.barred, "ResNet-20, last layer, mean",
          partial(ops.last_mean, (128, 8, 8, 64), (3, 3, 64, 64)), ONEDNN),
    Entry(dense.native_rows, "AlexNet 32, one image",
          partial(ops.product, (1, 4096), (4096, 1024)), NATIVE),
    Entry(dense.native_rows, "AlexNet 32, eight images",
          partial(ops.product, (8, 4096), (4096, 1024)), NATIVE, beyond="_MOST_ROWS"),
    Entry(dense.row_times_thin, "seed CNN, one image", partial(ops.product, (1, 5408), (5408, 10))),
    Entry(integers.exact_float, "seed CNN",
          partial(ops.forward, (128, 28, 28, 1), (3, 3, 1, 32), padding="VALID", **INT8)),
    Entry(integers.pixel_pairs, "ResNet-20",
          partial(ops.forward, (128, 32, 32, 16), (3, 3, 16, 16), **INT8)),
    Entry(depthwise.depthwise, "MobileNet",
          partial(ops.forward, (32, 32, 32, 64), (3, 3, 1, 64), **THIN)),
    Entry(depthwise.depthwise, "MobileNet, by 2",
          partial(ops.forward, (32, 32, 32, 64), (3, 3, 1, 64), stride=2, **THIN)),
    Entry(depthwise.depthwise, "ConvNeXt, 49 taps",
          partial(ops.forward, (32, 16, 16, 64), (7, 7, 1, 64), **THIN)),
    Entry(depthwise.depthwise, "121 taps",
          partial(ops.forward, (32, 16, 16, 64), (11, 11, 1, 64), **THIN), beyond="_MOST_TAPS"),
    Entry(depthwise.depthwise_kernel_gradient, "MobileNet",
          partial(ops.gradient, 1, (32, 32, 32, 64), (3, 3, 1, 64), **THIN)),
    Entry(depthwise.depthwise_kernel_gradient, "121 taps",
          partial(ops.gradient, 1, (32, 16, 16, 64), (11, 11, 1, 64), **THIN), beyond="_MOST_TAPS"),
    Entry(gradients.kernel_gradient_pointwise, "MobileNet",
          partial(ops.gradient, 1, (32, 16, 16, 128), (1, 1, 128, 128))),
    Entry(gradients.kernel_gradient_pointwise, "ResNet-50, by 2",
          partial(ops.gradient, 1, (32, 16, 16, 64), (1, 1, 64, 256), stride=2)),
    Entry(convolution.few_pixels, "ResNet-18, 2 x 2 pixels",
          partial(ops.forward, (32, 2, 2, 512), (3, 3, 512, 512))),
    Entry(gradients.kernel_gradient_columns, "LeNet-5, first",
          partial(ops.gradient, 1, (128, 28, 28, 1), (5, 5, 1, 20), padding="VALID")),
    Entry(gradients.kernel_gradient_columns, "seed CNN",
          partial(ops.gradient, 1, (128, 28, 28, 1), (3, 3, 1, 32), padding="VALID")),
    Entry(gradients.kernel_gradient_flat, "LeNet-5, second",
          partial(ops.gradient, 1, (128, 12, 12, 20), (5, 5, 20, 50), padding="VALID"), ONEDNN),
    Entry(gradients.kernel_gradient_flat, "ResNet-20, norm, relu",
          partial(ops.gradient_activated, (128, 32, 32, 16), (3, 3, 16, 16)), ONEDNN),
    Entry(gradients.kernel_gradient_barred, "ResNet-20, norm, relu",
          partial(ops.gradient_activated, (128, 32, 32, 16), (3, 3, 16, 16)), CPU),
    Entry(gradients.kernel_gradient_barred, "in a loop",
          partial(ops.looped, ops.gradient_activated, (32, 14, 14, 32), (3, 3, 32, 64)), CPU),
    Entry(gradients.kernel_gradient_barred, "dilated by 2",
          partial(ops.gradient_activated, (32, 16, 16, 64), (3, 3, 64, 64), rhs_dilation=(2, 2)),
          ONEDNN),
    Entry(gradients.input_gradient_phases, "ResNet-20, by 2",
          partial(ops.gradient, 0, (128, 32, 32, 16), (3, 3, 16, 32), stride=2)),
    Entry(gradients.input_gradient_phases, "U-Net, up by 2",
          partial(ops.transposed, (32, 8, 8, 128), (2, 2, 128, 64), 2)),
    Entry(gradients.input_gradient_phases, "up by 4: 16 phases",
          partial(ops.transposed, (32, 16, 16, 21), (8, 8, 21, 21), 4)),
    Entry(gradients.input_gradient_phases, "FCN, up by 8: 64 phases",
          partial(ops.transposed, (32, 8, 8, 21), (16, 16, 21, 21), 8), beyond="_MOST_PHASES"),
    Entry(convolution.canonical_in_loop, "Equinox",
          partial(ops.looped, ops.forward, (32, 32, 16, 16), (64, 32, 3, 3), **NCHW), CPU),
    Entry(convolution.canonical_in_loop, "image's gradient",
          partial(ops.looped, ops.gradient, 0, (32, 14, 14, 32), (3, 3, 32, 64)), CPU),
    Entry(convolution.barrier, "ResNet-20, norm, relu",
          partial(ops.forward_activated, (128, 32, 32, 16), (3, 3, 16, 16))),
]
# fmt: on


def applies(entry: Entry, fn: Callable, args: list, table: str) -> bool:
    """Returns whether the entry's rule is among those that `explain` says apply."""
    rows = explanation(fn, *args, table=RULES[table])
    return entry.rule.__name__ in {verdict.split(":")[0] for _, _, verdict in rows}


def agree(plain: object, fast: object) -> None:
    """Raises if two results differ by more than rounding."""
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(fast), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if np.abs(a - b).max() > 1e-4 * np.abs(a).max():
            raise RuntimeError(f"the results differ by {np.abs(a - b).max() / np.abs(a).max():.0e}")


def lifted(entry: Entry) -> AbstractContextManager:
    """Returns a context without the limit that the entry is beyond."""
    module = sys.modules[entry.rule.__module__]
    return mock.patch.object(module, entry.beyond, sys.maxsize) if entry.beyond else nullcontext()


def measure(entry: Entry, table: str, seconds: float) -> dict:
    """Returns a row of the table."""
    fn, args = entry.make()
    options = compiler.probed() if table == "cpu+onednn" else {}
    ways = (fn, hcjax.accelerate(fn, platform=table))
    runs = [partial(jax.jit(way, compiler_options=options), *args) for way in ways]
    within = applies(entry, fn, args, table)
    with lifted(entry), compiler.uncached():
        if not applies(entry, fn, args, table):
            raise RuntimeError(f"{entry.rule.__name__} does not apply: {entry.label}, {table}")
        agree(*(run() for run in runs))
    plain, fast = compiler.in_turns(runs, seconds)
    return {
        "table": table,
        "rule": entry.rule.__name__,
        "operation": entry.label,
        "beyond_the_limit": not within,
        "shapes": [list(x.shape) for x in args],
        "plain_seconds": plain,
        "rewritten_seconds": fast,
        "ratio": plain / fast,
    }


def line(row: dict) -> str:
    """Returns a row for people."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in row["shapes"])
    times = "".join(f"{1e3 * row[f'{side}_seconds']:11.3g}" for side in ("plain", "rewritten"))
    numbers = f"{times}{row['ratio']:8.2f}"
    label = row["operation"] + (" (beyond)" if row["beyond_the_limit"] else "")
    return f"{row['table']:11s}{row['rule']:26s}{numbers}  {label}: {shapes}"


def main() -> int:
    """Returns the exit code: 1 if a rule has no operation here."""
    rules = {rule.__name__: t for t in TABLES for found in RULES[t].values() for rule in found}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=rules, metavar="RULE", help=", ".join(rules))
    parser.add_argument("--seconds", type=float, default=1.0, help="that the plain side runs")
    parser.add_argument("--quick", action="store_true", help="one operation, a moment")
    parser.add_argument("--json", type=Path, help="write a list of all rows there")
    options = parser.parse_args()
    chosen = [e for e in ENTRIES if e.rule.__name__ in (options.only or rules)]
    if options.quick:
        chosen, options.seconds = chosen[:1], 0.05
    print(f"{'table':11s}{'rule':26s}{'plain ms':>11s}{'rewritten':>11s}{'ratio':>8s}  operation")
    rows = []
    for entry in chosen:
        for table in entry.tables:
            if table == "cpu+onednn" and not compiler.probed():
                continue
            if table == "cpu+native" and onednn.missing():
                continue
            rows.append(measure(entry, table, options.seconds))
            print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    missing = set(rules) - {entry.rule.__name__ for entry in ENTRIES}
    for name in sorted(missing):
        print(f"{name} has no operation here")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
