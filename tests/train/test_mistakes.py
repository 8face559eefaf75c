"""The worst mistakes: only mistakes, ordered by loss."""

import numpy as np

from hcjax.train import mistakes


def test_only_mistakes_are_listed_the_worst_first():
    rng = np.random.default_rng(0)
    each = {
        "index": np.arange(200),
        "label": rng.integers(0, 3, 200),
        "prediction": rng.integers(0, 3, 200),
        "loss": rng.uniform(size=200).astype(np.float32),
    }
    found = mistakes.worst(each, 7)
    by_loss = sorted(range(200), key=lambda i: -each["loss"][i])
    expected = [i for i in by_loss if each["label"][i] != each["prediction"][i]][:7]
    assert found["index"].tolist() == expected


def test_no_mistakes_are_no_rows():
    each = {k: np.arange(3) for k in ("index", "label", "prediction", "loss")}
    assert {len(v) for v in mistakes.worst(each).values()} == {0}
