import io
import math
import warnings

import numpy as np
import pytest

from hcjax import errors
from hcjax.report import canvas, curves, plots


def _is_png(path):
    from PIL import Image

    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.format == "PNG" and min(image.size) > 100


def _records(count, split="train", **numbers):
    return [{"step": s, "split": split} | numbers for s in range(1, count + 1)]


def test_every_picture_is_a_whole_png_and_nothing_else_is_left(tmp_path):
    names = [r"$\frac$", "お"]  # a broken formula, and a letter that the font does not have
    image = np.zeros((2, 8, 8, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [
            curves.draw_learning_curves(_records(3, loss=2.0), title="$"),
            plots.draw_confusion_matrix(np.eye(2, dtype=int), class_names=names),
            plots.draw_worst_mistakes(image, [0, 1], [1, 0], [1, 1], class_names=names),
            plots.draw_worst_mistakes(image[:0], [], [], []),
            plots.draw_filters(np.ones((3, 3, 1, 2))),
        ]
        for i, figure in enumerate(figures, 1):
            assert _is_png(canvas.save(figure, tmp_path / f"{i}.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i}.png" for i in range(1, 6)]


def test_the_curves_hold_the_records_and_the_best_point_is_named():
    records = _records(3, loss=2.0, accuracy=0.5, learning_rate=0.1)
    for step, loss, accuracy in ((1, 1.0, 0.7), (2, 0.5, 0.9), (3, 0.6, 0.8)):
        numbers = {"loss": loss, "accuracy": accuracy}
        records.append({"step": step, "split": "validation"} | numbers)
    records.append({"step": 3, "split": "test", "loss": 99.0})
    records.append({"step": 4, "split": "train", "loss": math.nan, "accuracy": None})
    figure = curves.draw_learning_curves(records)
    loss, accuracy = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2], [2, 2], [3, 2]]
    assert loss.lines[1].get_xydata().tolist() == [[1, 1], [2, 0.5], [3, 0.6]]
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [0.3, 0.1, 0.2])  # the error
    labels = [text.get_text() for ax in (loss, accuracy) for text in ax.get_legend().get_texts()]
    assert labels == [
        "train",
        "validation, best 0.5 at step 2",
        "train",
        "validation, best 90.00 % at step 2",
    ]


def test_many_points_are_drawn_under_their_running_mean():
    records = [
        {"step": s, "split": "train", "loss": 1.0 + s % 3, "accuracy": 1.0 if s % 3 else 0.97}
        for s in range(1, 90 + 1)
    ]
    figure = curves.draw_learning_curves(records)
    loss, accuracy = figure.axes
    points, mean = loss.lines
    assert (points.get_xdata().size, mean.get_xdata().size) == (90, 88)  # three points to a mean
    np.testing.assert_allclose(mean.get_ydata(), 2.0)
    np.testing.assert_allclose(mean.get_xdata(), np.arange(2, 90))
    # one in three has an error of 3 %: the mean is drawn at 1 %, though points reach 100 %
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), 0.01)


def test_a_mean_of_ones_is_one_in_spite_of_rounding():
    records = _records(300, accuracy=1.0)  # ten points to a mean, and ten times 0.1 is below 1
    figure = curves.draw_learning_curves(records)
    assert set(figure.axes[1].lines[1].get_ydata()) == {1e-3}


def test_the_loss_axis_is_logarithmic_only_for_a_large_fall_above_zero():
    figures = []
    for last in (0.1, 0.5, 0.0):
        records = [*_records(1, loss=1.0), {"step": 2, "split": "train", "loss": last}]
        figures.append(curves.draw_learning_curves(records))
    assert [figure.axes[0].get_yscale() for figure in figures] == ["log", "linear", "linear"]


def test_perfect_accuracy_is_labelled_100_and_lies_above_the_rest():
    records = [*_records(2, accuracy=0.98), {"step": 3, "split": "train", "accuracy": 1.0}]
    figure = curves.draw_learning_curves(records)
    ax = figure.axes[1]
    heights = ax.lines[0].get_ydata()
    labels = dict(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    assert labels[heights[2]] == "100"
    low, high = ax.get_ylim()
    assert low > heights[0] > heights[2] > high  # the axis is turned round


@pytest.mark.parametrize(
    "records",
    [
        [],
        _records(3, loss=math.nan, accuracy=None),
        _records(1, "validation", loss=0.0, accuracy=1.0),
        _records(100, loss=0.0, accuracy=0.0),
    ],
)
def test_runs_without_much_to_show_are_drawn_without_a_warning(tmp_path, records):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _is_png(canvas.save(curves.draw_learning_curves(records), tmp_path / "a.png"))


def test_rows_of_the_confusion_matrix_are_true_classes():
    confusion = np.array([[8, 2], [0, 0]])
    figure = plots.draw_confusion_matrix(confusion, class_names=["a", "b$"])
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array().filled(0), [[0.8, 0.2], [0, 0]])
    # position is (column, row)
    assert {t.get_position(): t.get_text() for t in ax.texts} == {(0, 0): "8", (1, 0): "2"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize(("classes", "numbers"), [(30, 30), (31, 0)])
def test_only_up_to_thirty_classes_have_numbers(classes, numbers):
    figure = plots.draw_confusion_matrix(5 * np.eye(classes, dtype=int))
    assert len(figure.axes[0].texts) == numbers


def test_an_empty_confusion_matrix_is_drawn_and_another_shape_refused(tmp_path):
    figure = plots.draw_confusion_matrix(np.zeros((2, 2), int))
    assert _is_png(canvas.save(figure, tmp_path / "a.png"))
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        plots.draw_confusion_matrix(np.zeros((2, 3), int))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mistakes_keep_their_order_and_say_what_was_taken_for_what(channels):
    images = np.arange(9 * 4 * 4 * channels, dtype=np.uint8).reshape(9, 4, 4, channels)
    labels, wrong = np.arange(9), np.arange(9) + 1
    names = [f"c{k}" for k in range(9)] + ["an endless name of a class"]
    figure = plots.draw_worst_mistakes(images, labels, wrong, np.full(9, 0.75), class_names=names)
    axes = figure.axes
    assert [ax.get_title() for ax in axes[:2]] == [
        "c0 taken for c1\n75.00 %",
        "c1 taken for c2\n75.00 %",
    ]
    assert axes[8].get_title() == "c8\ntaken for an endless na...\n75.00 %"
    expected = images[8] if channels == 3 else images[8, :, :, 0]
    np.testing.assert_array_equal(axes[8].images[0].get_array(), expected)
    assert not axes[9].images


def test_no_mistakes_are_a_picture_too():
    empty = np.zeros((0, 28, 28, 1), np.uint8)
    figure = plots.draw_worst_mistakes(empty, [], [], [])
    assert "no mistakes" in [t.get_text() for t in figure.texts]


def test_a_dense_kernel_is_shown_in_the_shape_of_the_images():
    kernel = np.arange(2 * 3 * 5, dtype=np.float32).reshape(6, 5)
    figure = plots.draw_filters(kernel, input_shape=(2, 3, 1))
    shown = figure.axes[4].images[0].get_array()
    np.testing.assert_array_equal(shown, [[4, 9, 14], [19, 24, 29]])


def test_colour_filters_have_grey_at_zero_and_one_scale():
    kernel = np.zeros((2, 2, 3, 2))
    kernel[..., 1] = -1.0
    figure = plots.draw_filters(kernel)
    zero, negative = (ax.images[0].get_array() for ax in figure.axes[:2])
    assert (zero == 0.5).all()
    assert (negative == 0.0).all()


def test_of_many_filters_the_largest_are_shown_in_their_order():
    kernel = np.ones((1, 1, 1, 70)) * np.arange(70)
    figure = plots.draw_filters(kernel)
    shown = [ax.images[0].get_array()[0, 0] for ax in figure.axes[:64]]
    assert shown == list(range(6, 70))


def test_filters_of_nothing_but_zero_or_nan_are_drawn(tmp_path):
    for value in (0.0, math.nan):
        figure = plots.draw_filters(np.full((3, 3, 1, 2), value))
        assert _is_png(canvas.save(figure, tmp_path / "a.png"))


def test_one_nan_does_not_hide_the_other_filters():
    kernel = np.full((3, 3, 1, 2), 0.5)
    kernel[0, 0, 0, 0] = math.nan
    figure = plots.draw_filters(kernel)
    assert figure.axes[1].images[0].get_clim() == (-0.5, 0.5)


def test_a_dense_kernel_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"got shape \(7, 5\) and input_shape \(2, 3, 1\)"):
        plots.draw_filters(np.ones((7, 5)), input_shape=(2, 3, 1))


def test_a_picture_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(errors.CheckpointError, match=r"cannot write .*a\.png: Is a directory"):
        canvas.save(plots.draw_filters(np.ones((3, 3, 1, 2))), tmp_path / "a.png")


def test_a_line_for_each_layer_against_what_was_done_to_it():
    accuracy = {"conv1/kernel": (0.99, 0.98, 0.5), "a$b": (0.99, 0.99, 0.97)}
    figure_a = curves.draw_layer_curves((0.0, 0.5, 0.9), accuracy, baseline=0.99)
    figure_b = curves.draw_layer_curves((8, 4, 2), accuracy, baseline=0.99, against="bits")
    ax = figure_a.axes[0]
    assert set(ax.lines[0].get_ydata()) == {1 - 0.99}  # the network as it is
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0, 0.01], [1, 0.02], [2, 0.5]])
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [0.01, 0.01, 0.03])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["as it is", "conv1/kernel", r"a\$b"]
    ticks = [[t.get_text() for t in f.axes[0].get_xticklabels()] for f in (figure_a, figure_b)]
    assert ticks == [["0.00 %", "50.00 %", "90.00 %"], ["8", "4", "2"]]


def test_mistakes_of_wide_images_leave_no_gaps_between_their_rows():
    high = {
        size: plots.draw_worst_mistakes(
            np.zeros((16, *size, 1)), [1] * 16, [2] * 16, [0.9] * 16
        ).get_figheight()
        for size in ((28, 28), (14, 28), (56, 28))
    }
    assert high[14, 28] == pytest.approx(high[28, 28] - 1.3)  # two rows, half of 1.3 inches each
    assert high[56, 28] == pytest.approx(high[28, 28] + 2.6)
