"""Bounds on time and batch: round numbers in, hand-computed numbers out."""

import pytest

from hcjax.training import bounds, chips

FACTS = {
    "compile_seconds": 1.0,
    "flops": 197e9,
    "bytes_accessed": 1e9,
    "hbm_bytes": 819e6 * 2,
    "arguments": 500,
    "results": 1,
    "temporaries": 1000,
    "program": 10,
    "collectives": [{"kind": "all-reduce", "size_bytes": 75_000_000, "group": 8, "groups": 1}],
}


def entry(**changes):
    held = {"parameters": 300, "optimizer": 100}
    return bounds.entry(FACTS | changes, held, chips.parse("v5e:2x4"), per_chip=16, devices=8)


def test_a_step_s_bound_is_the_slower_of_work_and_memory_then_the_all_reduce():
    found = entry()
    times = found["seconds"]
    # 197 GFLOP at 197 TFLOP/s; 2 × 819 MB at 819 GB/s; 2 · 7/8 · 75 MB at 150 GB/s
    assert times["compute"] == pytest.approx(1e-3)
    assert times["memory"] == pytest.approx(2e-3)
    assert times["all_reduce"] == pytest.approx(0.875e-3)
    assert times["bound"] == pytest.approx(2.875e-3)
    assert found["images_per_second"] == pytest.approx(8 * 16 / 2.875e-3)
    assert found["memory"]["batch_and_padding"] == 100
    assert found["memory"]["peak"] == 500 + 1 + 1000 + 10


def test_an_all_reduce_over_some_chips_or_another_collective_is_reported():
    part = {"kind": "all-reduce", "size_bytes": 4, "group": 4, "groups": 2}
    assert not entry(collectives=[part])["all_reduced_over_all_chips"]
    assert entry(collectives=[part | {"kind": "all-to-all"}])["other_collectives"] == ["all-to-all"]


def test_weak_scaling_loses_only_the_all_reduce():
    where = chips.parse("v5e:4x4")
    asked = []

    def compile_for(part, per_chip):
        asked.append((part.name, per_chip))
        return bounds.entry(FACTS, {}, part, per_chip=per_chip, devices=part.chips)

    here = compile_for(where, 16)
    rows = bounds.scaling(here, where, 16, compile_for)
    assert asked == [("v5e:4x4", 16), ("v5e:2x2", 16)]  # only one host is compiled anew
    assert [row["topology"] for row in rows] == ["v5e:2x2", "v5e:2x4", "v5e:4x4"]
    assert [row["compiled"] for row in rows] == [True, False, True]
    # 75 MB: 2·3/4 over 100 GB/s, 2·7/8 over 150, 2·15/16 over 200
    expected = [2e-3 + 1.125e-3, 2e-3 + 0.875e-3, 2e-3 + 0.703125e-3]
    assert [row["seconds"] for row in rows] == pytest.approx(expected)
    assert rows[2]["efficiency"] == pytest.approx(expected[0] / expected[2])


@pytest.mark.parametrize(("start", "fits"), [(16, 15_000), (12_000, 15_000)])
def test_the_largest_batch_is_found_by_a_line_and_tried(start, fits):
    where = chips.parse("v5e:2x4")
    each = where.chip.hbm_bytes / (fits + 8)

    def compile_for(part, per_chip):
        peak = 1000 + each * per_chip
        if peak > part.chip.hbm_bytes:
            raise bounds.TooLarge("too large")
        return {"memory": {"peak": peak}, "bytes_accessed": 4 * each * per_chip}

    found = bounds.largest_batch(compile_for(where, start), where, start, compile_for)
    assert found["per_chip"] == fits
    assert found["batch_size"] == 8 * fits
    assert found["predicted"] == pytest.approx(found["peak"], rel=1e-6)
    assert found["tried"][-1] == [fits, found["peak"]]
