"""TPU chips and slices: published figures for the arithmetic of a plan, with their sources.

In: a topology's name, e.g. `v5e:2x4`. Out: the chip's published figures and the slice's shape.
Nothing here needs a TPU, libtpu or jax.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from hcjax.errors import ConfigError, unknown_name

EXAMPLES = "v4:2x2x1, v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:4x4"


class Chip(NamedTuple):
    """One TPU chip. GB is 10⁹ bytes and GiB 2³⁰.

    peak_flops: multiply and add counted apart, per second, in bfloat16; float32
    convolutions and products use bfloat16 too at jax's default precision on a TPU.
    hbm_bytes: limit of the compiler for a program, per chip. hbm_bandwidth: bytes per second.
    link_bandwidth: bytes per second of one interconnect link, one way.
    host: the chips of one host in a slice of several hosts. axes: dimensions of the torus.
    pod: the largest slice, in chips. machine: Cloud TPU's name of an accelerator of n units.
    """

    name: str
    peak_flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    host: tuple[int, ...]
    axes: int
    pod: int
    machine: str


GiB = 2**30

# Peaks, HBM bandwidths, pod sizes: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e, read 2026.
# HBM bytes: the same pages say 32 GiB, 16 GB, 95 GB, 32 GB; here what libtpu 0.0.52's compiler
#   names as available when a program is too large for it (v4: twice 15.25 GiB, one per core).
# Links: v5e, v5p and v6e are given as 400, 1200 and 800 GB/s a chip, both ways together, over
#   4, 6 and 4 ports: 50, 100 and 100 GB/s a link, one way. This agrees with "all-reduce bandwidth
#   per pod" on those pages (v5e: 51.2 TB/s over 256 chips = 200 GB/s = 4 links). For v4 only that
#   figure is given: 1.1 PB/s over 4096 chips and 6 links = 45 GB/s.
# Hosts: v4 and v5p have 4 chips; so have the hosts of v5e and v6e slices of more than 8 chips,
#   while a slice of 8 (2x4) is also offered as one host.
CHIPS = {
    "v4": Chip("v4", 275e12, 30.5 * GiB, 1200e9, 45e9, (2, 2, 1), 3, 4096, "v4-{cores}"),
    "v5e": Chip("v5e", 197e12, 15.75 * GiB, 819e9, 50e9, (2, 2), 2, 256, "v5litepod-{chips}"),
    "v5p": Chip("v5p", 459e12, 95.73 * GiB, 2765e9, 100e9, (2, 2, 1), 3, 8960, "v5p-{cores}"),
    "v6e": Chip("v6e", 918e12, 31.24 * GiB, 1638e9, 100e9, (2, 2), 2, 256, "v6e-{chips}"),
}


class Slice(NamedTuple):
    """Chips wired together: a chip's figures and how many there are along each axis."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The topology's name, e.g. `v5e:2x4`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.shape)

    @property
    def host(self) -> tuple[int, ...]:
        """The chips of one host along each axis."""
        single = self.chip.axes == 2 and sorted(self.shape) == [2, 4]
        return self.shape if single else tuple(map(min, self.shape, self.chip.host))

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return self.chips // math.prod(self.host)

    @property
    def machine(self) -> str:
        """Cloud TPU's name of this accelerator, e.g. `v5litepod-8`."""
        return self.chip.machine.format(chips=self.chips, cores=2 * self.chips)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that one chip sends over all links it has in this slice.

        Two links along an axis of three chips or more, one along an axis of two.
        """
        return self.chip.link_bandwidth * sum(min(2, size - 1) for size in self.shape)

    def all_reduce_seconds(self, size_bytes: float) -> float:
        """Returns the least time to add `size_bytes` over all chips, in seconds.

        seconds = 2 (n - 1) / n · size_bytes / bandwidth: the bytes that every chip must send in any
        algorithm, at the full speed of its links. Latency (about a microsecond a hop) and links
        that an algorithm leaves idle come on top.

        Example:
          >>> round(parse("v5e:16x16").all_reduce_seconds(100e6) * 1e6)
          996
        """
        n = self.chips
        return 0.0 if n == 1 else 2 * (n - 1) / n * size_bytes / self.bandwidth

    def smaller(self) -> list[Slice]:
        """Returns the slices from one host to this one, each twice the one before.

        Example:
          >>> [s.name for s in parse("v5e:4x8").smaller()]
          ['v5e:2x2', 'v5e:2x4', 'v5e:4x4', 'v5e:4x8']
        """
        shape, rows = list(self.host), []
        while tuple(shape) != self.shape:
            rows.append(self._replace(shape=tuple(shape)))
            growing = [a for a in range(len(shape)) if shape[a] < self.shape[a]]
            axis = min(growing, key=lambda a: (shape[a], -a))
            shape[axis] = min(2 * shape[axis], self.shape[axis])
        return [*rows, self]


def parse(topology: str) -> Slice:
    """Returns the slice of that name.

    Args:
      topology: chip and shape, `v5e:2x4`; v5e and v6e have two axes, v4 and v5p three.

    Raises:
      ConfigError: if the chip is not in `CHIPS`, or the shape is not one that it comes in.

    Example:
      >>> parse("v5p:4x4x4").chips
      64
    """
    name, _, sizes = topology.strip().lower().partition(":")
    if name in ("v7", "v7x", "tpu7x", "ironwood"):
        raise ConfigError(
            f"plan: TPU v7x (asked for as '{topology}') is not supported: the compiler refuses "
            f"it by that name and its figures are not in hcjax/train/plan/chips.py. "
            f"Examples of what is: {EXAMPLES}"
        )
    if name not in CHIPS:
        raise ConfigError(f"plan: {unknown_name('TPU chip', name, CHIPS)}. Examples: {EXAMPLES}")
    chip = CHIPS[name]
    shape = tuple(int(size) if size.isdecimal() else 0 for size in sizes.split("x"))
    if len(shape) != chip.axes or min(shape) < 1:
        form = "x".join("AxBxC"[::2][: chip.axes])
        raise ConfigError(
            f"plan: the shape of '{topology}' must be {chip.axes} positive numbers, "
            f"{name}:{form}. Examples: {EXAMPLES}"
        )
    part = Slice(chip, shape)
    if part.chips > chip.pod:
        raise ConfigError(
            f"plan: '{topology}' has {part.chips} chips; a {name} slice has at most {chip.pod}"
        )
    if any(size % host for size, host in zip(shape, part.host, strict=True)):
        raise ConfigError(
            f"plan: the shape of '{topology}' must be made of whole hosts of "
            f"{'x'.join(map(str, chip.host))} chips. Examples: {EXAMPLES}"
        )
    return part
