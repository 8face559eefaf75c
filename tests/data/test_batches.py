import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcjax.data import batches
from hcjax.data.dataset import LazyImages, Split
from hcjax.errors import ConfigError, DataError


def lazy(split: Split, fail_at: int = -1) -> Split:
    """The same split, read on demand."""

    def read(row):
        if row == fail_at:
            raise DataError(f"image {row}: unreadable")
        return split.images[row]

    return Split(LazyImages(read, np.arange(len(split.labels)), split.images.shape[1:]), split[1])


@given(size=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_every_epoch_holds_each_example_once(size, batch_size, seed):
    steps = -(-3 * size // batch_size)
    sequence = np.concatenate(
        [batches.indices(seed=seed, step=s, batch_size=batch_size, size=size) for s in range(steps)]
    )
    assert len(sequence) == steps * batch_size
    for epoch in range(3):
        assert sorted(sequence[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(size=st.integers(1, 60), per_host=st.integers(1, 9), hosts=st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_evaluation_counts_each_example_once(size, per_host, hosts):
    split = Split(np.zeros((size, 1, 1, 1), np.uint8), np.arange(size, dtype=np.int32))
    shards = [
        list(batches.eval_batches(split, batch_size=per_host * hosts, shard=(h, hosts)))
        for h in range(hosts)
    ]
    assert len({len(shard) for shard in shards}) == 1  # every host takes part in every step
    every = [batch for shard in shards for batch in shard]
    assert all(len(batch["mask"]) == per_host for batch in every)
    labels = np.concatenate([batch["labels"][batch["mask"]] for batch in every])
    index = np.concatenate([batch["index"][batch["mask"]] for batch in every])
    assert sorted(labels) == sorted(index) == list(range(size))
    assert all((batch["index"][~batch["mask"]] == -1).all() for batch in every)


def test_evaluation_of_nothing_is_refused(numbered):
    with pytest.raises(DataError, match="the part has no examples"):
        batches.eval_batches(numbered(0), batch_size=0)


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_global_order_is_the_same_on_any_number_of_hosts(numbered, hosts):
    split = numbered(21)
    arguments = {"seed": 5, "batch_size": 16, "start": 2, "stop": 7, "partners": True}
    whole = list(batches.train_batches(split, **arguments))
    shards = [
        list(batches.train_batches(split, **arguments, shard=(h, hosts))) for h in range(hosts)
    ]
    for step, expected in enumerate(whole):
        for name, value in expected.items():
            joined = np.concatenate([shard[step][name] for shard in shards])
            np.testing.assert_array_equal(joined, value, err_msg=name)


def test_continuing_gives_the_tail(numbered):
    split = numbered(7)
    every = list(batches.train_batches(split, seed=1, batch_size=4, stop=9))
    tail = list(batches.train_batches(split, seed=1, batch_size=4, start=6, stop=9))
    assert [b["labels"].tolist() for b in tail] == [b["labels"].tolist() for b in every[6:]]


def test_a_batch_has_its_examples_and_positions(numbered):
    batch = next(batches.train_batches(numbered(30), seed=1, batch_size=8, shard=(1, 2)))
    rows = batches.indices(seed=1, step=0, batch_size=8, size=30)[4:]
    assert batch["labels"].tolist() == rows.tolist()
    assert batch["inputs"].reshape(-1).tolist() == rows.tolist()
    assert batch["position"].tolist() == [4, 5, 6, 7]
    assert (batch["labels"].dtype, batch["position"].dtype) == (np.int32, np.int32)


def test_the_partner_is_the_next_of_the_global_batch(numbered):
    batch = next(batches.train_batches(numbered(30), seed=1, batch_size=8, partners=True))
    assert batch["partner_labels"].tolist() == np.roll(batch["labels"], -1).tolist()
    np.testing.assert_array_equal(batch["partner_inputs"], np.roll(batch["inputs"], -1, 0))


def test_threads_change_nothing(numbered):
    split = numbered(50)
    arguments = {"seed": 3, "batch_size": 8, "start": 1, "stop": 12, "partners": True}
    plain = list(batches.train_batches(split, **arguments))
    for other in (
        batches.train_batches(split, **arguments, threads=4),
        batches.train_batches(lazy(split), **arguments),
    ):
        for a, b in itertools.zip_longest(plain, other):
            assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_lazy_evaluation_equals_evaluation_in_memory(numbered):
    split = numbered(11)
    plain = list(batches.eval_batches(split, batch_size=4))
    for a, b in itertools.zip_longest(plain, batches.eval_batches(lazy(split), batch_size=4)):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_reading_ahead_has_no_end_and_can_be_left(numbered):
    ahead = batches.train_batches(lazy(numbered(5)), seed=0, batch_size=2)
    first = [next(ahead)["labels"].tolist() for _ in range(100)]
    ahead.close()
    plain = batches.train_batches(numbered(5), seed=0, batch_size=2, stop=100)
    assert first == [b["labels"].tolist() for b in plain]


def test_no_more_is_read_ahead_than_the_limit_of_bytes(numbered, monkeypatch):
    monkeypatch.setattr(batches, "READ_AHEAD_BYTES", 3 * 4)  # three batches of 4 bytes
    read = []

    def note(row):
        read.append(row)
        return np.zeros((1, 1, 1), np.uint8)

    split = Split(LazyImages(note, np.arange(5), (1, 1, 1)), numbered(5).labels)
    ahead = batches.train_batches(split, seed=0, batch_size=4)
    for taken in range(1, 200):
        next(ahead)
        assert len(read) <= 4 * (taken + 3)
    ahead.close()


def test_the_images_of_one_batch_are_read_in_parallel():
    together = threading.Barrier(2, timeout=10)  # seconds; then the one that waits fails

    def read(row):
        together.wait()
        return np.full((1, 1, 1), row, np.uint8)

    split = Split(LazyImages(read, np.arange(2), (1, 1, 1)), np.zeros(2, np.int32))
    (batch,) = batches.eval_batches(split, batch_size=2, threads=2)
    assert batch["inputs"].reshape(-1).tolist() == [0, 1]


def test_an_unreadable_image_is_named_from_the_reading_thread(numbered):
    with pytest.raises(DataError, match="image 3: unreadable"):
        list(batches.train_batches(lazy(numbered(5), fail_at=3), seed=0, batch_size=5, stop=2))


def test_wrong_arguments_are_refused_before_the_first_batch(numbered):
    with pytest.raises(ConfigError, match="multiple of the 2 hosts, got 5"):
        batches.train_batches(numbered(9), seed=0, batch_size=5, shard=(0, 2))
    with pytest.raises(ConfigError, match="0 <= host < hosts"):
        batches.eval_batches(numbered(9), batch_size=4, shard=(2, 2))
    with pytest.raises(ConfigError, match="start <= stop"):
        batches.train_batches(numbered(9), seed=0, batch_size=3, start=4, stop=2)
    with pytest.raises(DataError, match="no example"):
        batches.train_batches(numbered(0), seed=0, batch_size=3)
