"""Networks as C on boards that QEMU plays; a board whose tools are not here is skipped."""

import numpy as np
import pytest

from benchmarks import boards
from hcjax.export import examples
from tests.export import shipping
from tests.export.test_coded import sparse


def board(name):
    found = boards.BOARDS[name]
    if missing := found.missing():
        pytest.skip(f"{', '.join(missing)} not found")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_board_has_the_bits_of_int8(name):
    _, model, images = shipping.convolutional()
    given = examples.of(model, images, count=boards.COUNT)
    row = boards.run(board(name), model, given)
    assert row.equal == boards.COUNT
    assert 500 < row.code < 5000 and 32 <= row.stack < 2000
    assert row.constants > 1000 and row.arena > 784
    other = given.outputs[0].copy()
    other[3, 2] = np.nextafter(other[3, 2], np.float32(np.inf))
    given = given._replace(outputs=[other])
    assert boards.run(board(name), model, given, "-O3").equal == boards.COUNT - 1


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["plain", "coded"])
@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_board_has_the_bits_of_a_sparse_network(name, weights):
    model, images = sparse("a sum")
    given = examples.of(model, images, count=boards.COUNT)
    assert boards.run(board(name), model, given, weights=weights).equal == boards.COUNT


def test_a_board_without_its_tools_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(boards.shutil, "which", lambda tool: None)
    monkeypatch.setattr(boards, "network", None)
    assert boards.main([]) == 0
    said = capsys.readouterr().out.split("\n")
    assert len(said) == len(boards.BOARDS) + 1
    assert said[0] == (
        "Cortex-M4F: left out, arm-none-eabi-gcc, arm-none-eabi-size, qemu-system-arm not found"
    )
