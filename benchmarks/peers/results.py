"""What a race came to: rows, tables and a chart."""

import statistics

import networks

MODES = ("training", "inference", "latency")
TITLES = {
    "training": f"training, batch {networks.BATCH}",
    "inference": f"inference, batch {networks.BATCH}",
    "latency": "latency, batch 1",
}


def row(ours, theirs):
    """Returns the numbers of hcjax beside one peer, each images per second round by round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "peer_images_per_second": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def table(mode, rows, works, peers):
    """Returns one way of running as a Markdown table of what was run; "" if nothing was.

    peers: names, and whether each is one of PyTorch's in float32.
    """
    here = [r for r in rows if r["mode"] == mode]
    works = [work for work in works if any(r["work"] == work for r in here)]
    peers = {name: torch for name, torch in peers.items() if any(r["peer"] == name for r in here)}
    if not works:
        return ""
    best = ["best torch float32"] if any(peers.values()) else []
    lines = [f"{TITLES[mode]}; images/s, in brackets hcjax / peer (from–to)", ""]
    lines.append("| " + " | ".join(["work", "hcjax", "floor", "of floor", *best, *peers]) + " |")
    lines.append("|" + "---|" * (4 + len(best) + len(peers)))
    for work in works:
        found = {r["peer"]: r for r in here if r["work"] == work}
        cells = _ours(found) + [_best(found, peers) for _ in best]
        cells += [_cell(found.get(name)) for name in peers]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def beside(found, torch):
    """Returns, as a Markdown table, the worst ratio to PyTorch's float32 of each race.

    found: name of a race -> its rows; a network and a way of running it are a row of the table.
    torch: the names of PyTorch's in float32.
    """
    lines = ["| work | mode | " + " | ".join(found) + " |", "|" + "---|" * (2 + len(found))]
    keys = dict.fromkeys((r["work"], r["mode"]) for rows in found.values() for r in rows)
    for work, mode in keys:
        cells = []
        for rows in found.values():
            least = _least(
                r for r in rows if (r["work"], r["mode"]) == (work, mode) and r["peer"] in torch
            )
            cells.append(
                f"{least['ours_images_per_second']:,.0f}, **{least['ratio']:.2f}** "
                f"({least['ratio_min']:.2f}–{least['ratio_max']:.2f}, {least['peer']})"
                if least
                else "not run"
            )
        lines.append(f"| {work} | {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _least(rows):
    """Returns the row of the fastest peer, or None where none came to an end."""
    return min((r for r in rows if "failed" not in r), key=lambda r: r["ratio"], default=None)


def _ours(found):
    """Returns the cells of hcjax's speed, of the floor's, and the one's part of the other."""
    first = next(iter(found.values()))
    ours, floor = first["ours_images_per_second"], f"{first['floor_images_per_second']:,.0f}"
    if ours is None:
        return ["failed", floor, "failed"]
    memory = max((r.get("ours_memory", 0) for r in found.values()), default=0)
    most = f", {memory / 2**20:,.0f} MiB" if memory else ""
    return [f"{ours:,.0f}{most}", floor, f"{first['fraction_of_floor']:.0%}"]


def _best(found, peers):
    """Returns the cell of the fastest of PyTorch's."""
    least = _least(r for name, r in found.items() if peers[name])
    return f"**{least['ratio']:.2f}** ({least['peer']})" if least else "not run"


def _cell(r):
    """Returns a peer's cell."""
    if r is None:
        return "not run"
    if "failed" in r:
        return "failed"
    spread = f"{r['ratio']:.2f}, {r['ratio_min']:.2f}–{r['ratio_max']:.2f}"
    most = f", {r['peer_memory'] / 2**20:,.0f} MiB" if "peer_memory" in r else ""
    return f"{r['peer_images_per_second']:,.0f} ({spread}){most}"


def chart(rows, path):
    """Writes the ratios as bars, a panel per way of running."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    modes = [m for m in MODES if any(r["mode"] == m for r in rows)]
    figure = Figure(figsize=(11, 3.2 * len(modes)), layout="constrained")
    # a peer has one colour in all panels; there are more of them than colours in a usual cycle
    peers = list(dict.fromkeys(r["peer"] for r in rows))
    colours = {name: colormaps["tab20"](2 * n % 20 + 2 * n // 20) for n, name in enumerate(peers)}
    for axes, mode in zip(figure.subplots(len(modes), squeeze=False)[:, 0], modes, strict=True):
        here = [r for r in rows if r["mode"] == mode]
        works = list(dict.fromkeys(r["work"] for r in here))
        names = list(dict.fromkeys(r["peer"] for r in here))
        width = 0.8 / len(names)
        for n, name in enumerate(names):
            mine = {r["work"]: r for r in here if r["peer"] == name}
            at = [i for i, work in enumerate(works) if work in mine]
            bars = [mine[works[i]] for i in at]
            spread = [
                [r["ratio"] - r["ratio_min"] for r in bars],
                [r["ratio_max"] - r["ratio"] for r in bars],
            ]
            left = [i - 0.4 + (n + 0.5) * width for i in at]
            heights = [r["ratio"] for r in bars]
            axes.bar(left, heights, width, yerr=spread, label=name, error_kw={"lw": 0.7},
                     color=colours[name])  # fmt: skip
        axes.axhline(1, color="black", lw=0.8)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.set_xticks(range(len(works)), works)
        axes.set_ylabel("hcjax / peer")
        axes.set_title(f"{TITLES[mode]}: above 1 hcjax is faster", fontsize=10)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
