"""The data report: counts of a dataset and suspicious images, on one screen.

In: a `Dataset`. Out: a dict of counts and a text. The report reads every image and changes nothing;
a person decides whether a finding is an error.
"""

from __future__ import annotations

import hashlib

import numpy as np

from hcjax.data import overview
from hcjax.data.dataset import FORMS, Dataset, Split
from hcjax.data.statistics import readable

FAR = 1.5  # times as far from the own class's mean as from another's
_CHUNK = 1024
_MEANS_LIMIT = 2 * 10**7  # numbers in all class means
_LISTED = 5  # examples named per finding
_SPLITS = ("train", "validation", "test")


def report(dataset: Dataset) -> dict:
    """Counts examples per class and finds unreadable, equal, constant and mislabelled images.

    Duplicates are images with equal bytes (by hash). A label is suspicious if the same image has
    several labels, or if a training image is much nearer to another class's mean image than to its
    own: d_own > 1.5 d_other (`FAR`), d the Euclidean distance. The second test is only a hint. It
    flags 1 in 4,000 of MNIST's labels and would find 15 % of wrong ones; on sets with more varied
    images it flags many correct ones.

    Args:
      dataset: any; every image is read once (training images twice). Of other examples than
        labelled images see `overview`.

    Returns:
      A dict, ready for JSON:
      "name", "class_names", "image_shape" [H, W, C], "mean", "std", "statistics_examples";
      "counts": {split: [K numbers of examples]};
      "unreadable": {split: number of images that cannot be read; no other count includes them};
      "unreadable_messages": the errors of the first few;
      "duplicates": {split: number of images equal to an earlier image of the split};
      "shared": {"train/test": number of images of the second split that the first has too, ...};
      "conflicts": number of different images that have several labels;
      "constant": {split: number of images of a single value};
      "far_from_class": number of training images far from their class's mean; None if K times the
        number of pixels exceeds 2e7;
      "examples": {finding: the first few (the farthest), as "split[index]"}.

    Example:
      >>> images = np.zeros((2, 1, 1, 1), np.uint8)
      >>> split = Split(images, np.array([0, 1], np.int32))
      >>> found = report(Dataset("d", ("a", "b"), split, split, split, *[np.ones(1)] * 2, 2))
      >>> found["duplicates"]["train"], found["shared"]["train/test"], found["conflicts"]
      (1, 2, 1)
    """
    if dataset.form != FORMS[0]:
        return overview.overview(dataset)
    splits = {part: getattr(dataset, part) for part in _SPLITS}
    examples: dict[str, list[str]] = {}

    def note(finding: str, part: str, index: int) -> None:
        listed = examples.setdefault(finding, [])
        if len(listed) < _LISTED:
            listed.append(f"{part}[{index}]")

    labels_of: dict[bytes, set[int]] = {}  # hash of an image -> its labels
    digests: dict[str, set[bytes]] = {}  # of the images of each split
    duplicates, constant, shared, unreadable = {}, {}, {}, {}
    messages: list[str] = []
    for part, split in splits.items():
        digests[part], duplicates[part], constant[part], unreadable[part] = set(), 0, 0, 0
        shared |= {f"{earlier}/{part}": 0 for earlier in digests if earlier != part}
        for rows, images, errors in _chunks(split):
            unreadable[part] += len(errors)
            messages += [f"{part}[{i}]: {error}" for i, error in errors.items()]
            for i, image in zip(rows.tolist(), images, strict=True):
                digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
                if digest in digests[part]:
                    duplicates[part] += 1
                    note("duplicates", part, i)
                for earlier, others in digests.items():
                    if earlier != part and digest in others:
                        shared[f"{earlier}/{part}"] += 1
                        note("shared", part, i)
                digests[part].add(digest)
                labels = labels_of.setdefault(digest, set())
                if labels and int(split.labels[i]) not in labels:
                    note("conflicts", part, i)
                labels.add(int(split.labels[i]))
                if image.min() == image.max():
                    constant[part] += 1
                    note("constant", part, i)
    far = _far_from_class(dataset.train, dataset.num_classes)
    for i in () if far is None else far[:_LISTED]:
        note("far_from_class", "train", int(i))
    return {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "mean": [float(value) for value in dataset.mean],
        "std": [float(value) for value in dataset.std],
        "statistics_examples": dataset.statistics_examples,
        "counts": {
            part: np.bincount(split.labels, minlength=dataset.num_classes).tolist()
            for part, split in splits.items()
        },
        "unreadable": unreadable,
        "unreadable_messages": messages[:_LISTED],
        "duplicates": duplicates,
        "shared": shared,
        "conflicts": sum(len(labels) > 1 for labels in labels_of.values()),
        "constant": constant,
        "far_from_class": None if far is None else len(far),
        "examples": examples,
    }


def text(report: dict) -> str:
    """Formats a report as at most about 30 lines of text.

    Args:
      report: from `report`.

    Returns:
      Lines joined by newlines; of many classes the least and most frequent are shown.

    Example:
      >>> split = Split(np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int32))
      >>> found = report(Dataset("d", ("a",), split, split, split, *[np.ones(1)] * 2, 1))
      >>> text(found).splitlines()[0]
      'd: 1 class, 1 x 1 x 1; train 1, validation 1, test 1'
    """
    if "form" in report:
        return overview.lines(report)
    counts, names = report["counts"], report["class_names"]
    sizes = ", ".join(f"{part} {sum(counts[part]):,}" for part in _SPLITS)
    height, width, channels = report["image_shape"]
    classes = f"{len(names)} class{'es' * (len(names) > 1)}"
    statistics = f"mean {_numbers(report['mean'])}, std {_numbers(report['std'])} (a pixel is 0..1)"
    lines = [
        f"{report['name']}: {classes}, {height} x {width} x {channels}; {sizes}",
        f"{statistics}, from {report['statistics_examples']:,} training images",
        f"{'class':>20} {'train':>9} {'validation':>11} {'test':>9}",
    ]
    order = np.argsort(counts["train"], kind="stable")
    many = len(names) > 12
    for k in [*order[:5], None, *order[-5:]] if many else range(len(names)):
        if k is None:
            lines.append(f"{'...':>20} {len(names) - 10} classes between")
            continue
        row = [counts[part][k] for part in _SPLITS]
        lines.append(f"{names[k][:20]:>20} {row[0]:>9,} {row[1]:>11,} {row[2]:>9,}")
    lines.append(f"unreadable images: {_nonzero(report['unreadable'])}")
    lines += [f"  {message}" for message in report["unreadable_messages"]]
    far = report["far_from_class"]
    findings = {
        "duplicates": ("equal images within a part", _nonzero(report["duplicates"])),
        "shared": ("equal images across parts", _nonzero(report["shared"])),
        "conflicts": ("images with several labels", str(report["conflicts"])),
        "constant": ("constant images", _nonzero(report["constant"])),
        "far_from_class": (
            f"{FAR} x nearer another class's mean",
            "not computed" if far is None else f"{far:,}",
        ),
    }
    for key, (title, count) in findings.items():
        where = ", ".join(report["examples"].get(key, [])[:3])
        lines.append(f"{title}: {count}{f'  (e.g. {where})' if where else ''}")
    return "\n".join(lines)


def _numbers(values: list[float]) -> str:
    """Formats numbers with four decimals."""
    return " ".join(f"{value:.4f}" for value in values)


def _nonzero(counts: dict[str, int]) -> str:
    """Formats the counts that are not zero; "0" if all are."""
    return ", ".join(f"{part} {count:,}" for part, count in counts.items() if count) or "0"


def _chunks(split: Split):
    """Yields (rows, images, errors) over a split, as of `readable`, a thousand at a time."""
    for start in range(0, len(split.labels), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(split.labels)))
        yield readable(split.images, rows)


def _far_from_class(split: Split, num_classes: int) -> np.ndarray | None:
    """Returns indices of images much nearer to another class's mean, worst first; None if large."""
    size, pixels = len(split.labels), int(np.prod(split.images.shape[1:]))
    if num_classes * pixels > _MEANS_LIMIT:
        return None
    sums, counts = np.zeros((num_classes, pixels)), np.zeros(num_classes, np.int64)
    for rows, images, _ in _chunks(split):
        labels = split.labels[rows]
        counts += np.bincount(labels, minlength=num_classes)
        for k in np.unique(labels):
            sums[k] += images[labels == k].reshape(-1, pixels).sum(0)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    squares = np.where(counts > 0, (means**2).sum(1), np.inf)  # no distance to an empty class
    ratio = np.zeros(size)
    for rows, images, _ in _chunks(split):
        x = images.reshape(-1, pixels).astype(np.float32)
        distance = np.sqrt(np.maximum((x**2).sum(1)[:, None] - 2 * x @ means.T + squares, 0))
        cell = np.arange(len(x)), split.labels[rows]
        own = distance[cell]
        distance[cell] = np.inf
        ratio[rows] = own / np.maximum(distance.min(1), 1e-3)
    far = np.flatnonzero(ratio > FAR)
    return far[np.argsort(-ratio[far], kind="stable")]
