"""Every table of the project is laid out by one function."""

import pytest

from hcjax.core import text


def test_cells_are_flush_right_behind_the_first_unless_told():
    lines = [("layer", "shape", "MACs"), ("fc", "(10,)", 1234567)]
    assert text.aligned(lines) == "layer  shape       MACs\nfc     (10,)  1,234,567"
    left = text.aligned(lines, [False, False, False]).split("\n")
    assert left == ["layer  shape  MACs", "fc     (10,)  1,234,567"]


def test_a_line_of_another_length_is_refused():
    with pytest.raises(ValueError, match="argument 2"):
        text.aligned([("a", "b"), ("c",)])
