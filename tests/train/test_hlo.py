"""Readings of compiled programs: texts short enough to count by hand."""

import pytest

from hcjax.train.plan import hlo


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,1,2,3}}", (4, 1)),
        ("{{0,1},{2,3}}", (2, 2)),
        ("{}", (0, 1)),
        ("[1,8]<=[8]", (8, 1)),
        ("[4,2]<=[2,4]T(1,0)", (2, 4)),
        ("mesh['x'=2,'devices'=8] {'devices'}", (8, 2)),
    ],
)
def test_replica_groups_are_read_in_every_notation(groups, expected):
    line = (
        f"  ROOT %r = f32[2]{{0:T(128)S(1)}} all-reduce(%a), channel_id=1, replica_groups={groups}"
    )
    (found,) = hlo.collectives(line)
    assert (found.group, found.groups) == expected
    assert (found.kind, found.size_bytes) == ("all-reduce", 8)


def test_asynchronous_collectives_count_once_by_what_they_return():
    text = (
        "  %s = (bf16[4]{0}, bf16[8]{0}) all-gather-start(%a), replica_groups={{0,1}}\n"
        "  %d = bf16[8]{0} all-gather-done(%s)\n"
        "  %r = (f32[2]{0}, f32[]) all-reduce-start(%b, %c), replica_groups={{0,1}}\n"
        '  %p = f32[2]{0} fusion(%r), metadata={op_name="all-reduce(x)"}\n'
    )
    assert [(c.kind, c.size_bytes) for c in hlo.collectives(text)] == [
        ("all-gather", 16),
        ("all-reduce", 12),
    ]


def test_hbm_bytes_leave_out_what_stays_on_the_chip():
    text = """
ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  %d = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%s)
  %f = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%d), kind=kLoop, calls=%c
  ROOT %r = f32[3,100]{1,0:T(8,128)} fusion(%f, %p), kind=kLoop, calls=%c2
}
"""
    # The copy reads 4 KiB, the last operation reads the parameter and writes 3×100 padded to 8×128.
    assert hlo.hbm_bytes(text) == 3 * 4096
