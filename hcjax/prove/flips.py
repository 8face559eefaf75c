"""Prediction flips (churn): the test examples that two models classify differently."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hcjax.core import notebook, text
from hcjax.data import Dataset
from hcjax.errors import DataError
from hcjax.prove.cards import Scorecard

LISTED = 20  # examples of each kind that are printed


class Changes(NamedTuple):
    """The prediction flips between two models; printed as a table by class.

    before, after: names of the models. class_names: K names. examples: int[K], test examples of
    each class. index: int64[m], positions of the flips in the test set, ascending. label, was, now:
    int32[m], the label and both predictions of each flip.
    """

    before: str
    after: str
    class_names: tuple[str, ...]
    examples: np.ndarray
    index: np.ndarray
    label: np.ndarray
    was: np.ndarray
    now: np.ndarray

    _repr_html_ = notebook.to_html
    to_csv = notebook.to_csv
    to_latex = notebook.to_latex

    @property
    def grid(self) -> notebook.Grid:
        """A row for each class with flips, and their sums in words."""
        counts = self.per_class()
        rows = [
            (name, int(self.examples[k]), *(int(n[k]) for n in counts.values()))
            for k, name in enumerate(self.class_names)
            if any(n[k] for n in counts.values())
        ]
        total = ", ".join(f"{sum(n):,} {kind}" for kind, n in counts.items())
        head = f"{self.after} answers {len(self.index):,} of {self.examples.sum():,} test examples"
        caption = f"{head} otherwise than {self.before}: {total}"
        return notebook.Grid(("class", "examples", *counts), rows, caption)

    @property
    def kinds(self) -> dict[str, np.ndarray]:
        """Kind of flip -> bool[m]."""
        return {
            "right -> wrong": self.was == self.label,
            "wrong -> right": self.now == self.label,
            "wrong -> wrong": (self.was != self.label) & (self.now != self.label),
        }

    def per_class(self) -> dict[str, np.ndarray]:
        """Counts each kind of flip by class: kind -> int[K]."""
        count = len(self.class_names)
        return {k: np.bincount(self.label[m], minlength=count) for k, m in self.kinds.items()}

    def as_json(self) -> dict[str, Any]:
        """Converts the flips to a dict for JSON: every example, and the counts by class."""
        return {
            "before": self.before,
            "after": self.after,
            "examples": int(self.examples.sum()),
            "changed": {k: self.index[m].tolist() for k, m in self.kinds.items()},
            "per_class": {k: counts.tolist() for k, counts in self.per_class().items()},
            "class_names": list(self.class_names),
        }

    def __repr__(self) -> str:
        head, rows, caption = self.grid
        if not len(self.index):
            return caption
        lines = [caption, text.table([(text.cut(row[0], 16), *row[1:]) for row in rows], head)]
        for kind, member in self.kinds.items():
            flips = np.flatnonzero(member)
            shown = [self._example(i) for i in flips[:LISTED]]
            more = f", and {len(flips) - LISTED:,} more" if len(flips) > LISTED else ""
            lines += [f"{kind}: {', '.join(shown)}{more}"] if shown else []
        return "\n".join(lines)

    def _example(self, i: int) -> str:
        was, now = (text.cut(self.class_names[answers[i]], 16) for answers in (self.was, self.now))
        return f"#{self.index[i]} {was} -> {now}"


def changes(before: Scorecard, after: Scorecard, dataset: Dataset) -> Changes:
    """Finds the prediction flips between two models on the same test set.

    Args:
      before: card of the original model.
      after: card of the compressed model.
      dataset: the dataset of both cards.

    Raises:
      DataError: if the cards are of other examples.

    Example:
      >>> from hcjax.data import Split
      >>> from hcjax.prove.cards import Scorecard
      >>> def card(name, predictions):
      ...   blank = dict.fromkeys(Scorecard._fields)
      ...   own = {"name": name, "predictions": np.array(predictions), "labels": np.array([0, 1])}
      ...   return Scorecard(**blank | own)
      >>> split = Split(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1], np.int32))
      >>> one = np.ones(1, np.float32)
      >>> data = Dataset("tiny", ("cat", "dog"), split, split, split, one, one, 2)
      >>> print(changes(card("float", [0, 1]), card("int8", [1, 1]), data))
      int8 answers 1 of 2 test examples otherwise than float: 1 right -> wrong, 0 wrong -> right,
      0 wrong -> wrong
      class  examples  right -> wrong  wrong -> right  wrong -> wrong
      -----  --------  --------------  --------------  --------------
      cat           1               1               0               0
      right -> wrong: #0 cat -> dog
    """
    labels = dataset.test.labels
    for card in (before, after):
        if not np.array_equal(card.labels, labels):
            raise DataError(f"{card.name} was scored on other examples than those of the dataset")
    index = np.flatnonzero(before.predictions != after.predictions)
    return Changes(
        before.name,
        after.name,
        dataset.class_names,
        np.bincount(labels, minlength=dataset.num_classes),
        index,
        labels[index],
        before.predictions[index],
        after.predictions[index],
    )
