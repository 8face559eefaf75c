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


def compiler(room, needs, *, fits=None, mute=False):
    """Returns what stands for a compiler, and the batches that it was asked for.

    needs: examples -> bytes. fits: the same, once it computes again what it does not keep.
    """
    asked = []

    def compile_for(part, per_chip):
        asked.append(per_chip)
        used = (fits or needs)(per_chip)
        if used > room:
            raise bounds.TooLarge("too large", None if mute else needs(per_chip))
        return {"memory": {"peak": used, "activations": used - 1000}}

    return compile_for, asked


WHERE = chips.parse("v5e:2x4")
ROOM = WHERE.chip.hbm_bytes


@pytest.mark.parametrize("start", [8, 16, 1000, 12_000, 15_000])
@pytest.mark.parametrize("on_chip", [0, 5_000])
def test_the_largest_batch_is_sought_from_above_and_compiled_once(start, on_chip):
    """A chip with room for 15,008 examples, of which `on_chip` take no HBM in a small batch."""
    each = ROOM / 15_008
    compile_for, asked = compiler(ROOM, lambda n: 1000 + each * (n if n > on_chip else 1))
    found = bounds.largest_batch(compile_for(WHERE, start), WHERE, start, compile_for)
    assert 0.87 * 15_000 <= found["per_chip"] <= 15_000
    assert found["batch_size"] == 8 * found["per_chip"]
    assert [found["per_chip"], found["peak"], True] in found["tried"]
    kept = [count for count, _, fits in found["tried"] if fits]
    assert len(kept) <= 2 and len(asked) <= 8  # what is not refused takes minutes
    if on_chip == 0 and found["per_chip"] > start:
        assert found["bytes_per_example"] == pytest.approx(each, abs=1)


def test_more_than_anybody_trains_with_is_not_sought():
    compile_for, asked = compiler(ROOM, lambda n: 1000 + n * ROOM / 100_000)
    found = bounds.largest_batch(compile_for(WHERE, 16), WHERE, 16, compile_for)
    assert found["per_chip"] == bounds.LIMIT and asked == [16, bounds.LIMIT]
    assert found["room_for"] == pytest.approx(100_000, abs=8)
    found = bounds.largest_batch(compile_for(WHERE, 20_000), WHERE, 20_000, compile_for)
    assert found["per_chip"] == 20_000 and found["room_for"] is None


def test_memory_that_the_compiler_saves_near_the_limit_is_used():
    each = ROOM / 10_000
    compile_for, asked = compiler(ROOM, lambda n: each * n, fits=lambda n: 0.8 * each * n)
    found = bounds.largest_batch(compile_for(WHERE, 100), WHERE, 100, compile_for)
    assert found["room_for"] is None
    assert 0.9 * 12_500 <= found["per_chip"] <= 12_500 and len(asked) <= 6


def test_a_compiler_that_does_not_say_what_it_needs_is_asked_for_half_again():
    compile_for, _ = compiler(ROOM, lambda n: ROOM / 10_000 * n, mute=True)
    found = bounds.largest_batch(compile_for(WHERE, 100), WHERE, 100, compile_for)
    assert 5_000 <= found["per_chip"] <= 10_000
    assert all(needed is None for _, needed, fits in found["tried"] if not fits)


def test_a_program_that_compiles_but_needs_more_than_there_is_does_not_fit():
    compile_for, _ = compiler(1.2 * ROOM, lambda n: ROOM / 10_000 * n)
    found = bounds.largest_batch(compile_for(WHERE, 100), WHERE, 100, compile_for)
    assert 0.87 * 10_000 <= found["per_chip"] <= 10_000


def test_a_batch_that_is_already_the_largest_stays():
    compile_for, _ = compiler(0, lambda n: n)
    here = {"memory": {"peak": 1e10, "activations": 1e9}}
    found = bounds.largest_batch(here, WHERE, 64, compile_for)
    assert found["per_chip"] == 64 and found["bytes_per_example"] == 0
