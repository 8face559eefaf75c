"""The arithmetic of a plan: from the compiler's facts of a step to bounds on time and batch.

In: facts of compiled programs, a slice of chips. Out: the entries of a plan, and its text.
"""

from __future__ import annotations

from collections.abc import Callable

from hcjax.errors import ConfigError
from hcjax.train.plan import chips

MiB, GiB = 2**20, 2**30


STEP = 0.9  # from one batch that is tried to the next smaller one
# Examples per chip beyond which none is sought: nobody trains with more, and the compiler takes
# minutes for them.
LIMIT = 16_384


_QUICK = (
    "with less search: the program of the full search may move and hold far fewer bytes, so times "
    "by HBM bytes, and bounds, are of this program alone"
)


class TooLarge(ConfigError):
    """A program does not fit in a chip's memory.

    A compiler that refuses a program says so after seconds, before it looks for a good one, which
    takes minutes where the batch is large.

    Args:
      message: for the user.
      needed: bytes that would do, per chip; None if the compiler does not say.
    """

    def __init__(self, message: str, needed: float | None = None):
        super().__init__(message)
        self.needed = needed

    @property
    def outcome(self) -> str:
        """A few words for a line of progress."""
        return "does not fit" + (f", needs {self.needed / GiB:.1f} GiB" if self.needed else "")


def entry(
    facts: dict, held_bytes: dict, where: chips.Slice, *, per_chip: int, devices: int
) -> dict:
    """Returns one step's part of a plan: per chip, its work, memory, communication and bounds.

    Args:
      facts: of one compiled program, per device: flops, bytes_accessed, hbm_bytes, arguments,
        results, temporaries, program (bytes), collectives, compile_seconds.
      held_bytes: name -> bytes that stay in memory from step to step.
      where: the slice.
      per_chip: examples per chip.
      devices: the number of devices compiled for: one a chip, or two on v4.
    """
    cores = devices // where.chips
    held = {name: cores * size for name, size in held_bytes.items()}
    memory = {
        **held,
        "batch_and_padding": cores * facts["arguments"] - sum(held.values()),
        "activations": cores * facts["temporaries"],
        "results": cores * facts["results"],
        "program": cores * facts["program"],
    }
    memory["peak"] = sum(memory.values())
    memory["available"] = int(where.chip.hbm_bytes)
    communicated = facts["collectives"]
    reduced = [c for c in communicated if c["kind"] == "all-reduce"]
    over_all = all(c["group"] in (0, devices) and c["groups"] == 1 for c in reduced)
    work = {
        "compile_seconds": facts["compile_seconds"],
        "flops": cores * facts["flops"],
        "bytes_accessed": cores * facts["bytes_accessed"],
        "hbm_bytes": cores * facts["hbm_bytes"],
        "memory": memory,
        "collectives": communicated,
        "all_reduces": len(reduced),
        "all_reduce_bytes": sum(c["size_bytes"] for c in reduced),
        "all_reduced_over_all_chips": over_all,
        "other_collectives": sorted({c["kind"] for c in communicated} - {"all-reduce"}),
    }
    return work | _times(work, where, per_chip)


def scaling(
    here: dict, where: chips.Slice, per_chip: int, compile_for: Callable[[chips.Slice, int], dict]
) -> list[dict]:
    """Returns rows of weak scaling, the same batch per chip from one host to the whole slice.

    Args:
      here: the whole slice's entry.
      where: the whole slice.
      per_chip: examples per chip.
      compile_for: (slice, examples per chip) -> entry.

    Returns:
      One dict a slice: topology, chips, hosts, batch_size, seconds (the bound),
      images_per_second, efficiency (images per second and chip, over the first row's), and
      compiled: whether this row's own program was compiled; if not, its work is the whole
      slice's, with the all-reduce of its own size.
    """
    rows = []
    slices = where.smaller()
    for place, part in enumerate(slices):
        if part == where:
            row = here
        elif place == 0:
            row = compile_for(part, per_chip)
        else:
            row = here | _times(here, part, per_chip)
        images = row["images_per_second"]
        rows.append(
            {
                "topology": part.name,
                "chips": part.chips,
                "hosts": part.hosts,
                "batch_size": per_chip * part.chips,
                "seconds": row["seconds"]["bound"],
                "images_per_second": images,
                "efficiency": images / part.chips,
                "compiled": part == where or place == 0,
            }
        )
    first = rows[0]["efficiency"]
    return [row | {"efficiency": row["efficiency"] / first} for row in rows]


def largest_batch(
    here: dict, where: chips.Slice, per_chip: int, compile_for: Callable[[chips.Slice, int], dict]
) -> dict:
    """Returns the largest batch per chip that fits, up to `LIMIT`, sought from above.

    Args:
      here: the entry at `per_chip` examples, which fits.
      where: the slice.
      per_chip: examples per chip.
      compile_for: (slice, examples per chip) -> entry; raises TooLarge.

    Returns:
      per_chip, batch_size, peak (bytes; it was compiled and fits), bytes_per_example (the slope
      between that batch and the one at `per_chip`; 0 if that is the largest), room_for (examples
      per chip that this slope would leave room for, not compiled; None where a larger batch was
      refused) and tried, a list of [examples per chip, bytes that it needs or None, whether they
      are there].

    Note:
      What is refused costs least, so the first attempt is eight times what the memory of `per_chip`
      examples would allow: small batches say little, as they stay in on-chip memory, or waste it.
      If it is refused, a line says where memory would end. The compiler can do better, by computing
      again what it does not keep, so the search begins a third above and goes down by `STEP` until
      a batch fits: one compilation of a large batch that is not refused.
    """
    room, memory = where.chip.hbm_bytes, here["memory"]
    grows = sum(memory.get(name, 0) for name in ("batch_and_padding", "activations", "results"))
    tried = [[per_chip, memory["peak"], True]]

    def attempt(count):
        try:
            needed = compile_for(where, count)["memory"]["peak"]
            tried.append([count, needed, needed <= room])
        except TooLarge as error:
            tried.append([count, error.needed, False])
        return tried[-1]

    low, high = tried[0], None
    count = min(LIMIT, _round(8 * per_chip * (room - memory["peak"] + grows) / max(1, grows)))
    while low[0] < count:
        found = attempt(count)
        if found[2]:
            low, count = found, min(LIMIT, 4 * count)
            continue
        high, step = found, 0.5
        if high[1]:  # with this line
            crossing = low[0] + (room - low[1]) * (high[0] - low[0]) / (high[1] - low[1])
            count, step = min(count, 1.5 * crossing), STEP
        break
    while high and (count := _round(step * count)) > low[0]:
        found = attempt(count)
        if found[2]:
            low = found
            break
    (count, peak, _), (first, least, _) = low, tried[0]
    slope = (peak - least) / (count - first) if count > first else 0
    return {
        "per_chip": count,
        "batch_size": count * where.chips,
        "peak": peak,
        "bytes_per_example": int(slope),
        "room_for": _round(count + (room - peak) / slope) if slope > 0 and not high else None,
        "tried": tried,
    }


def text(plan: dict) -> str:
    """Returns a plan for reading.

    Args:
      plan: from `planner.plan`.
    """
    chip, hosts, versions = plan["chip"], plan["hosts"], plan["versions"]
    hbm = f"{chip['hbm_bytes'] / GiB:.2f} GiB"
    lines = [
        f"plan for {plan['topology']} ({plan['machine']}), chips: {plan['chips']}, hosts: {hosts}",
        f"compiled by libtpu {versions['libtpu']} under jax {versions['jax']}, not executed",
        *([_QUICK] if plan["quick"] else []),
        f"batch size {plan['batch_size']}, {plan['batch_per_chip']} per chip",
        f"one chip: {chip['peak_flops'] / 1e12:.0f} TFLOP/s in bfloat16, {hbm} of HBM at "
        + f"{chip['hbm_bandwidth'] / 1e9:.0f} GB/s",
        "",
        f"{'per chip and step':34}{'training':>14}{'evaluation':>14}",
    ]
    steps = [plan["train"], plan["eval"]]

    def row(name, read):
        values = "".join(f"{'' if step is None else read(step):>14}" for step in steps)
        lines.append(f"{name:34}{values}".rstrip())

    def size(name):
        return lambda step: f"{step['memory'].get(name, 0) / MiB:.1f} MiB"

    def seconds(name):
        return lambda step: f"{step['seconds'][name] * 1e6:.1f} us"

    row("GFLOP", lambda step: f"{step['flops'] / 1e9:.3f}")
    row("bytes moved (compiler's count)", lambda step: f"{step['bytes_accessed'] / MiB:.1f} MiB")
    row("  of these to or from HBM", lambda step: f"{step['hbm_bytes'] / MiB:.1f} MiB")
    for name in plan["train"]["memory"]:
        row(f"HBM: {name.replace('_', ' ')}", size(name))
    row("all-reduces", lambda step: str(step["all_reduces"]))
    row("bytes all-reduced", lambda step: f"{step['all_reduce_bytes']:,}")
    row("  over all chips", lambda step: "yes" if step["all_reduced_over_all_chips"] else "NO")
    row("other communication", lambda step: ", ".join(step["other_collectives"]) or "none")
    row("time: FLOPs / peak", seconds("compute"))
    row("time: HBM bytes / bandwidth", seconds("memory"))
    row("time: all-reduce", seconds("all_reduce"))
    row("bound on the step time", seconds("bound"))
    row("bound on images/s, all chips", lambda step: f"{step['images_per_second']:,.0f}")
    row("compiled in", lambda step: f"{step['compile_seconds']:.1f} s")
    most = plan["largest_batch"]
    if most:
        size = f"{most['peak'] / GiB:.2f} of {hbm}"
        if (slope := most["bytes_per_example"]) > 0:
            size += f", {slope / 1024:.1f} KiB per example"
        count = f"{most['per_chip']} per chip, {most['batch_size']} in all"
        lines += ["", f"largest batch that fits: {count}; compiled with less search: {size}"]
        if most["room_for"]:
            lines += [f"  more were not tried; at so much each, {most['room_for']:,} would fit"]
    if plan["scaling"]:
        lines += ["", "weak scaling, the same batch per chip (bounds; * its own program compiled)"]
        lines += [
            f"  {'topology':12}{'chips':>6}{'hosts':>6}{'step':>14}{'images/s':>14}{'eff.':>8}"
        ]
        lines += [
            f"{'*' if r['compiled'] else ' '} {r['topology']:12}{r['chips']:>6}{r['hosts']:>6}"
            f"{r['seconds'] * 1e6:>11.1f} us{r['images_per_second']:>14,.0f}{r['efficiency']:>8.1%}"
            for r in plan["scaling"]
        ]
    return "\n".join(lines)


def _times(work: dict, where: chips.Slice, per_chip: int) -> dict:
    """Returns the bounds of a step on a slice: seconds by cause, images per second."""
    seconds = {
        "compute": work["flops"] / where.chip.peak_flops,
        "memory": work["hbm_bytes"] / where.chip.hbm_bandwidth,
        "all_reduce": where.all_reduce_seconds(work["all_reduce_bytes"]),
    }
    seconds["bound"] = max(seconds["compute"], seconds["memory"]) + seconds["all_reduce"]
    return {"seconds": seconds, "images_per_second": per_chip * where.chips / seconds["bound"]}


def _round(count: float) -> int:
    """Returns a batch per chip rounded down to whole tiles of 8 rows, at least 8."""
    return max(8, int(count) // 8 * 8)
