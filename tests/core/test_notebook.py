"""What a notebook's cell, a CSV file and LaTeX show of records, whatever their names hold."""

import csv
from html.parser import HTMLParser
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.core import notebook
from hcjax.errors import CheckpointError
from hcjax.prove.flips import Changes
from hcjax.quantize.error_analysis import ErrorAnalysis, LayerError
from hcjax.quantize.profiling import LayerSeconds, Profile
from hcjax.search.sensitivity import KernelSensitivity, Sensitivity

NAME = '<b>&_50%/"$x$"\n{~}'  # means something in HTML, LaTeX and CSV


class Cells(HTMLParser):
    """Reads the texts of a table, and the names of all tags."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th", "p"):
            self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


def model():
    params = {NAME: {"kernel": jnp.ones((4, 3))}}
    return hcjax.trace(lambda p, x: x @ p[NAME]["kernel"], params, jnp.ones((1, 4)))


ANSWERS = [np.array(v) for v in ([7], [0], [0], [1])]  # index, label, was, now
RECORDS = {
    "model": model,
    "cost": lambda: hcjax.cost(model()),
    "sensitivity": lambda: Sensitivity(
        "sparsity", (0.5, 0.9), (KernelSensitivity(NAME, NAME, 12, 12, (0.9, 1 / 3), (0.1, 1.0)),),
        0.95, 0.1, None,
    ),
    "profile": lambda: Profile((LayerSeconds(NAME, 1200, 1e-5, 3e-6),), (), 8, "1 x <cpu>"),
    "errors": lambda: ErrorAnalysis((LayerError(NAME, 8, np.inf, 0.1),), 0.9, 0.2, 100),
    "changes": lambda: Changes("a", NAME, (NAME, "c"), np.array([5, 5]), *ANSWERS),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_cell_shows_a_table_in_which_names_are_names(name):
    record = RECORDS[name]()
    shown = Cells(record._repr_html_())
    assert shown.tags <= {"table", "tr", "th", "td", "p"}
    head, rows, caption = record.grid
    assert len(shown.texts) == len(head) * (len(rows) + 1) + bool(caption)
    if name == "model":
        assert len(rows) < 12 and shown.texts[:4] == ["Model", "", "images", "float32[N, 4]"]
    else:
        assert NAME in shown.texts


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "model"])
def test_a_csv_file_has_every_row_with_all_digits(name, tmp_path):
    record = RECORDS[name]()
    path = record.to_csv(tmp_path / "new" / "a.csv")
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == list(record.grid.head)
    assert rows == [["" if x is None else str(x) for x in row] for row in record.grid.rows]
    assert rows[0][0] == NAME
    with pytest.raises(CheckpointError, match="cannot write"):
        record.to_csv(tmp_path)


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "model"])
def test_latex_has_every_row_and_no_command_of_a_name(name):
    record = RECORDS[name]()
    begin, *lines, end = record.to_latex().splitlines()
    assert begin.startswith("\\begin{tabular}{l") and end == "\\end{tabular}"
    assert lines.pop(1) == "\\hline" and len(lines) == len(record.grid.rows) + 1
    for line in lines:
        assert line.endswith(" \\\\")
        assert line.count(" & ") == len(record.grid.head) - 1
    escaped = '\\textless{}b\\textgreater{}\\&\\_50\\%/"\\$x\\$"'
    assert lines[1].startswith(escaped)


def test_numbers_keep_their_type_and_an_empty_table_is_one():
    class Record(NamedTuple):
        grid: notebook.Grid
        _repr_html_ = notebook.to_html

    record = Record(
        notebook.Grid(("a", "b"), [(np.float32(1 / 3), True), (np.int64(12_345), None)])
    )
    shown = Cells(record._repr_html_()).texts
    assert shown == ["a", "b", "0.3333", "True", "12,345", ""]
    empty = Record(notebook.Grid(("a", "b"), []))
    assert notebook.to_latex(empty).splitlines()[1] == r"a & b \\"
