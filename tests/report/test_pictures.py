"""Figures for notebooks, and that their parts stand where they can be read."""

import itertools
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.text import Text

import hcjax
from hcjax.report import canvas, curves, pictures
from tests.report.gallery import PICTURES


def boxes(figure):
    """Returns the extent of every text in the axes of a figure, in pixels."""
    renderer = canvas.laid_out(figure)
    texts = [text for ax in figure.axes for text in ax.texts]
    # of the words alone: that of an annotation holds its line, too
    return [Text.get_window_extent(text, renderer) for text in texts if text.get_text()]


def test_a_picture_is_a_figure_that_a_notebook_shows_and_the_writer_writes(tmp_path):
    records = [{"step": s, "split": "train", "loss": 1 / s, "accuracy": 0.9} for s in range(1, 9)]
    figure = hcjax.pictures.learning_curves(records)
    assert isinstance(figure, matplotlib.figure.Figure)
    shown = figure._repr_png_()
    assert shown == figure._repr_png_() == pictures.save(figure, tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("name", ["pareto-equal", "pareto-near", "pareto-dead", "pareto-12"])
def test_no_name_of_a_model_hides_another(name):
    found = boxes(PICTURES[name]())
    assert found and not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))


def test_equal_models_have_one_label_and_dead_ones_are_hollow_and_not_on_the_line():
    points = [("a", 1000, 0.01), ("b", 200, 0.02), ("c", 200, 0.02), ("d", 20, 0.9)]
    ax = pictures.pareto(points, dead=[3]).axes[0]
    assert sorted(text.get_text().split("\n")[0] for text in ax.texts) == ["a", "b, c", "d (dead)"]
    assert ax.lines[0].get_xdata().tolist() == [200, 1000]
    assert [line.get_markerfacecolor() == "white" for line in ax.lines[1:]] == [False] * 3 + [True]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_few_mistakes_fill_their_picture(count):
    figure = PICTURES[{1: "mistakes-1", 2: "mistakes-2-colour", 9: "mistakes-9"}[count]]()
    canvas.laid_out(figure)
    area = sum(ax.get_position().width * ax.get_position().height for ax in figure.axes[:count])
    assert area > 0.3


def test_points_that_average_fewer_steps_are_joined():
    points = {50: 2.0, 100: 1.0, 101: 9.0, 150: 1.0, 200: 1.0, 207: 8.0}
    lines = [{"step": step, "split": "train", "loss": loss} for step, loss in points.items()]
    (line,) = curves.draw_learning_curves(lines).axes[0].lines
    assert line.get_xdata().tolist() == [50, 100, 150, 207]
    np.testing.assert_allclose(line.get_ydata(), [2, 1, (9 + 49) / 50, (50 + 56) / 57])


def test_the_history_of_fit_has_both_curves_and_nll_is_the_loss_of_validation():
    history = [
        {"step": s, "train_loss": 2 / s, "train_accuracy": 0.5, "nll": 3 / s, "accuracy": 0.4}
        for s in (1, 2, 3)
    ]
    loss, accuracy = pictures.learning_curves(history).axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2, 1, 2 / 3], [3, 1.5, 1]]
    assert len(accuracy.lines) == 2


def test_a_loss_that_is_not_the_cross_entropy_is_drawn_beside_it():
    lines = [{"step": s, "split": "train", "loss": 2 / s, "nll": 1 / s} for s in (1, 2)]
    labels = [line.get_label() for line in pictures.learning_curves(lines).axes[0].lines]
    assert labels == ["train, cross-entropy", "train, loss"]


def test_one_mistake_among_a_thousand_classes_is_seen_and_named():
    confusion = 50 * np.eye(1000, dtype=int)
    confusion[123, 777] = 1
    figure = pictures.confusion_matrix(confusion)
    assert figure.axes[0].images[0].get_array().shape == (250, 250)
    assert figure.axes[0].images[0].get_array()[123 // 4, 777 // 4] == pytest.approx(1 / 51)
    assert "1  123 as 777" in figure.axes[1].texts[-1].get_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn(name, tmp_path):
    assert pictures.save(PICTURES[name](), tmp_path / "a.png").stat().st_size > 2000


def test_pictures_take_what_functions_return_whole():
    row = SimpleNamespace(path="conv1", accuracy=(0.9, 0.8))
    found = SimpleNamespace(rows=(row,), levels=(8, 4), accuracy=0.95, against="bits", score="iou")
    ax = hcjax.pictures.layer_curves(found).axes[0]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("iou (%)", "bits")
    assert ax.get_legend_handles_labels()[1] == ["as it is", "conv1"]
    with pytest.raises(ValueError, match="baseline="):
        hcjax.pictures.layer_curves((8, 4), {"conv1": (0.9, 0.8)})
    layer = SimpleNamespace(name="conv1", sqnr=31.5, drop=0.01)
    left, right = hcjax.pictures.layer_errors(SimpleNamespace(rows=(layer,))).axes
    assert left.patches[0].get_width() == 31.5 and right.patches[0].get_width() == 1.0
    cards = [SimpleNamespace(name=n, file_bytes=b, error=e, score="object_iou")
             for n, b, e in (("float", 100, 0.1), ("int8", 25, 0.2))]  # fmt: skip
    ax = hcjax.pictures.pareto(cards).axes[0]
    assert ax.lines[0].get_xdata().tolist() == [25, 100] and "object iou" in ax.get_ylabel()
