import math

import pytest

from hcjax.report import canvas
from hcjax.report.pareto import draw_pareto, frontier

POINTS = [
    ("float", 1_724_320, 0.0045),
    ("int8", 310_000, 0.0046),
    ("pruned", 40_000, 0.0051),
    ("worse", 45_000, 0.0071),
    ("all of it", 5_900, 0.0064),
]


def test_no_point_of_the_line_is_beaten_and_every_other_is():
    best = frontier(POINTS)
    assert [POINTS[i][0] for i in best] == ["all of it", "pruned", "int8", "float"]

    def beaten(i):
        _, size, error = POINTS[i]
        return any(s <= size and e <= error and (s, e) != (size, error) for _, s, e in POINTS)

    assert [i for i in range(len(POINTS)) if not beaten(i)] == sorted(best)


def test_of_equal_points_the_first_is_on_the_line():
    assert frontier([("a", 10, 0.1), ("b", 10, 0.1), ("c", 10, 0.2), ("d", 11, 0.1)]) == [0]


def test_the_picture_holds_every_point_with_its_name_and_the_line_of_the_best():
    figure = draw_pareto(POINTS)
    (ax,) = figure.axes
    line, *points = ax.lines
    assert line.get_xdata().tolist() == [5_900, 40_000, 310_000, 1_724_320]
    assert line.get_ydata().tolist() == pytest.approx([0.64, 0.51, 0.46, 0.45])
    places = [(point.get_xdata()[0], point.get_ydata()[0]) for point in points]
    assert [x for x, _ in places] == [x for _, x, _ in POINTS]
    labels = [text.get_text() for text in ax.texts]
    assert [label.split("\n")[0] for label in labels] == [name for name, _, _ in POINTS]
    assert labels[4] == "all of it\n5,900 bytes, 0.64 %"
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"


def test_errors_that_differ_much_are_on_a_logarithmic_axis_unless_one_is_0():
    figure_a = draw_pareto([("a", 10, 0.5), ("b", 100, 0.004)])
    figure_b = draw_pareto([("a", 10, 0.5), ("b", 100, 0.0)])
    assert [figure.axes[0].get_yscale() for figure in (figure_a, figure_b)] == ["log", "linear"]
    assert all(math.isfinite(y) for y in figure_b.axes[0].get_ylim())


def test_one_model_is_a_picture_and_none_is_an_error(tmp_path):
    path = canvas.save(draw_pareto(POINTS[:1]), tmp_path / "a.png")
    assert path.read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="no models"):
        draw_pareto([])
