"""Which examples a compressed model answers otherwise, counted and listed exactly."""

import dataclasses

import numpy as np
import pytest

from hcjax.data import Split
from hcjax.errors import DataError
from hcjax.prove.flips import changes
from tests.digits import data, models, predictions, scorecards


def changed(was, now, labels, class_names=("ant", "bee", "cat")):
    """Returns the changes between two rows of answers."""
    split = Split(np.zeros((len(labels), 28, 28, 1), np.uint8), np.asarray(labels, np.int32))
    dataset = dataclasses.replace(data(), train=split, test=split, class_names=class_names)
    card = scorecards()["float"]._replace(labels=split.labels)
    first = card._replace(name="float", predictions=np.asarray(was))
    return changes(first, card._replace(name="int8", predictions=np.asarray(now)), dataset)


def test_each_kind_of_change_is_counted_by_class_and_listed():
    found = changed([0, 1, 2, 0, 1, 1], [0, 2, 0, 1, 1, 2], [0, 1, 0, 1, 1, 0])
    assert found.index.tolist() == [1, 2, 3, 5]
    assert found.as_json() == {
        "before": "float",
        "after": "int8",
        "examples": 6,
        "changed": {"right -> wrong": [1], "wrong -> right": [2, 3], "wrong -> wrong": [5]},
        "per_class": {
            "right -> wrong": [0, 1, 0],
            "wrong -> right": [1, 1, 0],
            "wrong -> wrong": [1, 0, 0],
        },
        "class_names": ["ant", "bee", "cat"],
    }
    head, names, _, ant, bee, *listed = str(found).splitlines()
    assert head == (
        "int8 answers 4 of 6 test examples otherwise than float: 1 right -> wrong, "
        "2 wrong -> right, 1 wrong -> wrong"
    )
    assert names.split("  ")[0] == "class"
    assert ant.split() == ["ant", "3", "0", "1", "1"] and bee.split() == ["bee", "3", "1", "1", "0"]
    assert listed == [
        "right -> wrong: #1 bee -> cat",
        "wrong -> right: #2 cat -> ant, #3 ant -> bee",
        "wrong -> wrong: #5 bee -> cat",
    ]


def test_the_first_twenty_are_printed_and_all_are_kept():
    found = changed([0] * 25, [1] * 25, [0] * 25)
    assert found.as_json()["changed"]["right -> wrong"] == list(range(25))
    last = str(found).splitlines()[-1]
    assert last.count("ant -> bee") == 20 and last.endswith("#19 ant -> bee, and 5 more")


def test_equal_answers_are_no_change():
    found = changed([0, 1], [0, 1], [1, 1])
    assert str(found).startswith("int8 answers 0 of 2 test examples otherwise than float: 0 right")
    assert len(str(found).splitlines()) == 1


def test_the_changes_of_a_quantized_network_are_those_of_plain_numpy():
    was, now = predictions(models()["float"]), predictions(models()["int4"])
    found = changes(scorecards()["float"], scorecards()["int4"], data())
    label = data().test.labels
    kinds = found.as_json()["changed"]
    assert kinds["right -> wrong"] == np.flatnonzero((was == label) & (now != label)).tolist()
    assert kinds["wrong -> right"] == np.flatnonzero((was != label) & (now == label)).tolist()
    other = (was != label) & (now != label) & (was != now)
    assert kinds["wrong -> wrong"] == np.flatnonzero(other).tolist()
    assert len(found.index) == (was != now).sum() > 0
    assert found.examples.tolist() == np.bincount(label).tolist()


def test_cards_of_other_examples_are_refused():
    card = scorecards()["float"]
    with pytest.raises(DataError, match="float was scored on other examples"):
        changes(card, card._replace(labels=1 - card.labels), data())
