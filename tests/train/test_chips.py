"""Slices of TPU chips: names that are taken and refused, links and hosts by hand."""

import pytest

from hcjax.errors import ConfigError
from hcjax.train.plan import chips


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ("v5", "did you mean 'v5"),
        ("v7x:2x2x1", "v7x (asked for as 'v7x:2x2x1') is not supported"),
        ("tpu7x:2x2x1", "v7x"),
        ("v5e", "must be 2 positive numbers"),
        ("v5e:2x2x1", "v5e:AxB"),
        ("v4:2x2", "v4:AxBxC"),
        ("v5e:0x4", "must be 2 positive numbers"),
        ("v5e:2xtwo", "must be 2 positive numbers"),
        ("v5e:3x5", "whole hosts of 2x2"),
        ("v5e:32x32", "at most 256"),
    ],
)
def test_an_unknown_topology_is_refused_by_name_with_examples(topology, said):
    with pytest.raises(ConfigError, match="v5e") as error:
        chips.parse(topology)
    assert said in str(error.value)


def test_a_slice_knows_its_hosts_machine_and_links():
    assert [chips.parse(t).hosts for t in ("v5e:2x4", "v5e:1x1", "v5e:4x4")] == [1, 1, 4]
    assert [chips.parse(t).hosts for t in ("v4:2x2x1", "v5p:4x4x4")] == [1, 16]
    assert chips.parse("v5e:16x16").machine == "v5litepod-256"
    assert chips.parse("v5p:2x2x2").machine == "v5p-16"  # counted in cores, two a chip
    # One link along an axis of two chips, two along a longer one, at 50 GB/s each.
    assert chips.parse("v5e:2x2").bandwidth == 100e9
    assert chips.parse("v5e:4x4").bandwidth == 200e9
    assert chips.parse("v5e:2x4").all_reduce_seconds(150e9) == pytest.approx(2 * 7 / 8)
    assert chips.parse("v5e:1x1").all_reduce_seconds(1e9) == 0
