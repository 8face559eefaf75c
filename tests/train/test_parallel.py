"""Sharded steps: the same numbers on 1, 2 and 8 devices, the same bits on the same number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hcjax.errors import ConfigError
from hcjax.train import parallel

HERE = Path(__file__).parent


def printed(*names):
    """Returns what `many_devices.py` prints of these parts; a process of its own has 8 devices."""
    program = [sys.executable, str(HERE / "many_devices.py"), *names]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=600, cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def few():
    """The parts that compile little."""
    return printed("class_weights", "norm_bits", "statistics", "keys", "counts")


@pytest.fixture(scope="module")
def many():
    """The parts that compile networks for each number of devices."""
    return printed("lenet", "resnet_sync", "bits", "connections")


# Sums of floats in another order: a few units in the last place of parameters around 0.1,
# carried through two steps. Dropping the division by the summed count moves them by 1e-2.
FLOAT_ROUNDING = 2e-6


@pytest.mark.slow
def test_lenet_with_augmentation_is_the_same_on_1_2_and_8_devices(many):
    assert many["lenet"]["moved"] > 1e-2  # it did train
    assert many["lenet"]["gap"] < FLOAT_ROUNDING


@pytest.mark.slow
def test_resnet_with_synchronised_batchnorm_is_the_same_on_1_2_and_8_devices(many):
    assert many["resnet_sync"]["moved"] > 1e-2
    assert many["resnet_sync"]["gap"] < FLOAT_ROUNDING


def test_gradients_are_divided_by_summed_weights_not_averaged_over_devices(few):
    assert few["class_weights"]["moved"] > 1e-2
    assert few["class_weights"]["gap"] < FLOAT_ROUNDING


@pytest.mark.slow
def test_the_same_number_of_devices_gives_the_same_bits_with_everything_on(many):
    first, second = many["bits"]
    assert first == second


def test_the_same_number_of_devices_gives_the_same_bits_with_batchnorm(few):
    first, second = few["norm_bits"]
    assert first == second


def test_running_statistics_are_the_mean_of_those_of_each_device(few):
    found, expected = few["statistics"]["found"], few["statistics"]["per_shard"]
    assert found == pytest.approx(expected, abs=2e-6)  # float32 sums of 6,272 pixels
    whole = few["statistics"]["whole"]  # as a synchronised BatchNorm would have them
    assert abs(whole["variance"] - expected["variance"]) > 1e-4


@pytest.mark.slow
def test_connections_move_alike_on_1_and_2_devices(many):
    found = many["connections"]
    assert found["moved"] and len(set(found["fingerprints"])) == 1
    assert len(set(found["weights"])) == 1


def test_devices_draw_different_dropout_masks(few):
    assert len({tuple(key) for key in few["keys"]}) == 8


def test_evaluation_counts_every_example_once(few):
    assert len(few["counts"]) == 3 * 3 * 2  # devices × sizes × batch sizes
    for row in few["counts"]:
        assert row["count"] == row["confusion"] == row["size"]
        assert row["correct"] == row["right"]  # as NumPy counts
        assert row["index"] == list(range(row["size"]))


def test_a_batch_that_cannot_be_divided_names_the_multiple():
    with pytest.raises(ConfigError, match=r"batch of 10 .* 4 devices"):
        parallel.shard({"labels": np.zeros(10)}, 4)
