"""The tables that `benchmarks/glosses.py` makes of WordNet's files: what they hold."""

import hcjax
from benchmarks import glosses

LINES = [
    "  1 This software and database is being provided to you, the LICENSEE, by Princeton  ",
    '00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is; "it\'s | a thing"  ',
    "01800000 44 a 02 broken 0 burst 1 001 ! 00002312 a 0101 | not whole, as a cup  ",
]


def test_a_gloss_is_all_behind_the_bar_and_nothing_before_it():
    rows = glosses.read(LINES)
    assert rows == [
        ('that which is; "it\'s | a thing"', "noun.Tops"),
        ("not whole, as a cup", "adj.ppl"),
    ]
    assert len(set(glosses.CLASSES)) == 45 and glosses.CLASSES[6] == "noun.artifact"


def test_tables_are_the_same_bytes_for_the_same_rows_and_parts_share_none(tmp_path):
    rows = [(f"{gloss}, {i}", name) for i, (gloss, name) in enumerate(glosses.made_up(60))]
    for folder in ("one", "other"):
        glosses.write(rows, tmp_path / folder, 12)
    for part in ("train", "test"):
        one, other = ((tmp_path / f / f"{part}.csv").read_bytes() for f in ("one", "other"))
        assert one == other and b"\r" not in one
    data = hcjax.data.load("csv", path=str(tmp_path / "one"), target="class", text="gloss",
                           units="words", validation=8)  # fmt: skip
    assert (data.train.size, data.validation.size, data.test.size) == (40, 8, 12)
    vocabulary = data.about["text"]["vocabulary"]
    assert vocabulary == sorted(vocabulary) and "," in vocabulary
