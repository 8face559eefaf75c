"""Bounds on time and batch: round numbers in, hand-computed numbers out."""

import pytest

from hcjax.train.plan import bounds, chips

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


def compiler(most, peak, *, moved):
    """Returns what stands for a compiler: `peak(n)` bytes, and at most `most` examples."""

    def compile_for(part, per_chip):
        if per_chip > most:
            raise bounds.TooLarge("too large")
        return {"memory": {"peak": peak(per_chip)}, "bytes_accessed": moved}

    return compile_for


@pytest.mark.parametrize("start", [16, 12_000])
@pytest.mark.parametrize("on_chip", [0, 5_000])
def test_the_largest_batch_is_found_by_a_line_and_tried(start, on_chip):
    """A chip with room for 15,000 examples, of which `on_chip` take no HBM in a small batch."""
    where = chips.parse("v5e:2x4")
    room = where.chip.hbm_bytes
    each = room / 15_008

    def compile_for(part, per_chip):
        peak = 1000 + each * (per_chip if per_chip > on_chip else 0)
        if peak > room:
            raise bounds.TooLarge("too large")
        return {"memory": {"peak": peak}, "bytes_accessed": 4 * each * per_chip}

    found = bounds.largest_batch(compile_for(where, start), where, start, compile_for)
    assert 0.95 * 15_000 <= found["per_chip"] <= 15_000
    assert found["batch_size"] == 8 * found["per_chip"]
    assert [found["per_chip"], found["peak"]] in found["tried"]
    assert len(found["tried"]) <= 5
    if on_chip == 0:
        assert found["per_chip"] == 15_000
        assert found["bytes_per_example"] == int(each)


def test_a_batch_that_the_line_promised_but_is_refused_is_made_smaller():
    where = chips.parse("v5e:2x4")
    room = where.chip.hbm_bytes

    # room for 10,004: no multiple of 8, so that the last bit of the line decides nothing
    compile_for = compiler(9_700, lambda n: room / 10_004 * n, moved=room / 2)
    found = bounds.largest_batch(compile_for(where, 1_000), where, 1_000, compile_for)
    assert found["tried"][2] == [10_000, None]
    assert found["per_chip"] == 9_496  # 95 % of what was refused, in eights


def test_a_line_through_two_batches_that_stay_on_the_chip_is_drawn_again():
    where = chips.parse("v5e:2x4")
    room = where.chip.hbm_bytes

    compile_for = compiler(
        15_000, lambda n: n * room / (400_000 if n < 500 else 15_000), moved=room / 12
    )
    found = bounds.largest_batch(compile_for(where, 16), where, 16, compile_for)
    assert found["tried"][1][0] < 500 and found["tried"][2][1] is None
    assert 0.9 * 15_000 <= found["per_chip"] <= 15_000
    assert len(found["tried"]) <= 8


def test_a_batch_that_is_already_the_largest_stays():
    where = chips.parse("v5e:2x4")

    def compile_for(part, per_chip):
        raise bounds.TooLarge("too large")

    here = {"memory": {"peak": 1e10}, "bytes_accessed": 1e11}
    assert bounds.largest_batch(here, where, 64, compile_for)["per_chip"] == 64
