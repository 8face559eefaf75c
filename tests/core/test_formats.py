import math

import numpy as np

from hcjax.core import formats


def test_a_name_decides_the_unit():
    assert formats.value("test_accuracy", np.float32(0.5)) == "50.00 %"
    assert formats.value("peak_memory_bytes", 3 * 2**20) == "3.00 MiB"
    assert formats.value("seconds_to_first_step", 2.5) == "2.5 s"
    assert formats.value("seed", 12345) == "12345"
    assert formats.value("images_per_second", 41234.4) == "41,234"


def test_what_is_missing_and_what_is_not_finite_differ():
    assert formats.value("loss", None) == "-"
    assert formats.value("accuracy", math.nan) == "nan"
    assert formats.value("train_seconds", math.inf) == "inf"


def test_one_mistake_in_many_is_not_perfect():
    assert formats.percent(1 - 1e-6) == "99.99 %"
    assert formats.percent(1.0) == "100.00 %"


def test_durations_never_say_sixty():
    assert formats.duration(119.96) == "2 min 00 s"
    assert formats.duration(3599.6) == "1 h 00 min"
    assert formats.clock(59.6) == "1:00"
    assert formats.clock(math.inf) == "?"
