import math

import pytest

from hcjax.report import canvas
from hcjax.report.layers import draw_layer_errors


def test_each_layer_has_a_bar_for_each_number():
    left, right = draw_layer_errors(["conv1", "fc"], [31.5, math.inf], [0.01, -0.002]).axes
    assert [bar.get_width() for bar in left.patches] == [31.5, 0.0]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([1.0, -0.2])
    assert [text.get_text() for text in left.get_yticklabels()] == ["conv1", "fc"]
    assert [text.get_text() for text in left.texts] == [" exact"]


def test_the_picture_is_a_png_and_numbers_must_be_as_many_as_names(tmp_path):
    figure = draw_layer_errors([f"layer{i}" for i in range(70)], [30] * 70, [0] * 70)
    path = canvas.save(figure, tmp_path / "a.png")
    assert path.read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="2 names, 1 SQNRs and 2 drops"):
        draw_layer_errors(["a", "b"], [1], [1, 2])
