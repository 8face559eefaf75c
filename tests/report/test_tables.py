import math

import numpy as np
import pytest

from hcjax.core import text
from hcjax.report import tables


def test_columns_line_up_with_names_of_any_script():
    lines = tables.table([["お", 1], ["abc", 1000]], ["class", "count"]).split("\n")
    assert lines == ["class  count", "-----  -----", "お         1", "abc    1,000"]
    # a wide character takes two columns, so the line is one character shorter
    assert len(lines[2]) == len(lines[3]) - 1


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row has 1 cells, the table 2 columns"):
        tables.table([[1]], ["a", "b"])


def test_a_table_without_rows_has_its_head():
    assert tables.table([], ["a", "bc"], title="none") == "none\na  bc\n-  --"


def test_long_cells_are_cut_and_line_breaks_are_not_kept():
    shown = tables.table([["x" * 99], ["a\nb"]], ["name"]).split("\n")
    assert len(shown) == 4
    assert len(shown[2]) == text.MAX_CELL
    assert shown[3] == "a b"


def test_many_classes_show_the_ten_worst_that_have_examples():
    confusion = np.zeros((40, 40), int)
    for k in range(1, 40):  # class k is right k times in 40; class 0 has no examples
        confusion[k, k], confusion[k, 0] = k, 40 - k
    lines = tables.per_class(confusion).split("\n")
    assert lines[0] == "the 10 worst of 40 classes"
    assert [line.split()[0] for line in lines[3:]] == [str(k) for k in range(1, 11)]
    assert lines[3].split() == ["1", "2.50", "%", "40", "0", "(39)"]


def test_twenty_classes_are_shown_in_their_order_and_fit_a_screen():
    report = {name: 0.5 for name in ("test_accuracy", "nll", "ece", "parameters")}
    shown = tables.end_of_run(report, confusion=np.eye(20, dtype=int)).split("\n")
    assert len(shown) == 22
    assert max(map(len, shown)) <= 80
    assert [line.split()[-5] for line in shown[2:]] == [str(k) for k in range(20)]


def test_names_and_confusion_must_fit():
    with pytest.raises(ValueError, match="3 classes, class_names 2"):
        tables.per_class(np.eye(3), ["a", "b"])
    with pytest.raises(ValueError, match=r"int\[K, K\], got shape \(2, 3\)"):
        tables.per_class(np.ones((2, 3)))


def test_a_sweep_is_sorted_by_what_was_asked_and_failed_runs_come_last():
    runs = [
        ({"a.rate": 1, "b.rate": 1}, {"nll": math.nan}),
        ({"a.rate": 2, "b.rate": 1}, {"nll": 0.2}),
        ({"a.rate": 3, "b.rate": 1}, {}),
        ({"a.rate": 4, "b.rate": 1}, {"nll": np.float32(0.1)}),
    ]
    lines = tables.sweep(runs, best_by="nll").split("\n")
    assert lines[0].split() == ["a.rate", "b.rate", "nll"]
    assert [line.split()[0] for line in lines[2:]] == ["4", "2", "1", "3"]


def test_a_sweep_can_be_over_anything():
    shown = tables.sweep([({"widths": (16, 32), "bn": True}, {"validation_accuracy": 0.5})])
    assert shown.split("\n")[2].split() == ["(16,", "32)", "yes", "50.00", "%"]


def test_the_spread_is_that_of_a_sample():
    # 1, 2, 3, 4: mean 2.5, squared distances 2.25 + 0.25 + 0.25 + 2.25 = 5, over n - 1 = 3
    mean, std, n = tables.mean_std([1.0, 2.0, None, 3.0, 4.0, math.nan])
    assert (mean, n) == (2.5, 4)
    assert std == pytest.approx(math.sqrt(5 / 3), rel=1e-12)
    assert tables.mean_std([1.0]) == (1.0, None, 1)
    assert tables.mean_std([]) == (None, None, 0)


def test_seeds_end_with_mean_and_spread_and_leave_out_what_is_no_number():
    runs = [{"seed": s, "nll": 0.01 * s, "parameters": 54410, "sha": "ab"} for s in (1, 2, 3)]
    last = tables.seeds(runs).split("\n")[-1]
    assert last.split() == ["mean", "(n=3)", "0.020", "±", "0.010", "54,410"]
