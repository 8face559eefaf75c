import numpy as np
import pytest

from hcjax.data import split as splitting
from hcjax.data import statistics
from hcjax.data.dataset import LazyImages, Parts, Split
from hcjax.errors import ConfigError, DataError


def labelled(labels) -> Split:
    """Image i holds i."""
    labels = np.array(labels, np.int32)
    return Split(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)


def numbers(split: Split) -> list[int]:
    return split.images.reshape(-1).tolist()


def cut(parts, **changed):
    arguments = {"validation": 0.25, "test": 0.25, "seed": 0, "limit": None}
    return splitting.cut(parts, **(arguments | changed))


def sizes(splits) -> list[int]:
    return [len(split.labels) for split in splits]


def test_the_parts_are_disjoint_and_complete():
    parts = [numbers(split) for split in cut(Parts(("a", "b"), labelled([0, 1] * 20)))]
    assert [len(p) for p in parts] == [22, 8, 10]  # 40: test 10; of 30 validation 7.5 -> 8
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(40))


def test_classes_keep_their_shares():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    for seed in range(5):
        chosen = splitting.choose(labels, 20, seed=seed)
        assert np.bincount(labels[chosen]).tolist() == [12, 6, 2]


def test_a_class_of_one_example_stays_in_train():
    labels = np.array([0] * 50 + [1])
    assert all(50 not in splitting.choose(labels, 5, seed=seed) for seed in range(20))


def test_the_choice_is_of_the_right_size_for_any_classes():
    labels = np.random.default_rng(0).integers(0, 7, 53)
    for count in range(54):
        chosen = splitting.choose(labels, count, seed=1)
        assert len(set(chosen.tolist())) == count == len(chosen)


def test_the_seed_decides_the_choice():
    labels = np.zeros(100, np.int32)
    first, again, other = (splitting.choose(labels, 30, seed=s).tolist() for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_ready_parts_are_used_as_they_are():
    parts = Parts(("a",), labelled([0] * 8), labelled([0] * 3), labelled([0] * 2))
    assert sizes(cut(parts)) == [8, 3, 2]


def test_one_ready_part_is_the_test_and_validation_comes_from_train():
    ready = labelled([0] * 3)
    for parts in (
        Parts(("a",), labelled([0] * 8), ready, None),
        Parts(("a",), labelled([0] * 8), None, ready),
    ):
        splits = cut(parts)
        assert numbers(splits[2]) == [0, 1, 2]
        assert sizes(splits) == [6, 2, 3]


def test_validation_can_be_empty():
    splits = cut(Parts(("a",), labelled([0] * 8), None, labelled([0])), validation=0)
    assert sizes(splits) == [8, 0, 1]
    assert splits[1].images.shape == (0, 1, 1, 1)


def test_a_part_that_is_used_whole_is_not_copied():
    parts = Parts(("a",), labelled([0] * 8), None, labelled([0] * 3))
    train, _, test = cut(parts, validation=0)
    assert train.images is parts.train.images
    assert test.images is parts.test.images


def test_every_image_is_copied_once_at_most():
    copied = []

    class Counted(np.ndarray):
        def __getitem__(self, rows):
            copied.extend(np.asarray(self)[rows].reshape(-1).tolist())
            return super().__getitem__(rows)

    train = labelled([0] * 40)
    cut(Parts(("a",), train._replace(inputs=train.images.view(Counted))))
    assert sorted(copied) == list(range(40))


def test_limit_keeps_every_class():
    for part in cut(Parts(tuple("ab"), labelled([0] * 50 + [1] * 50)), limit=6):
        assert np.bincount(part.labels).tolist() == [3, 3]


def test_statistics_are_those_of_the_pixels(images):
    mean, std, count = statistics.statistics(images)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-6)
    assert (mean.dtype, std.dtype, count) == (np.float32, np.float32, 20)


def test_statistics_of_more_than_one_chunk_are_exact():
    images = np.random.default_rng(1).integers(0, 256, (1300, 2, 2, 1), dtype=np.uint8)
    mean, std, count = statistics.statistics(images)
    np.testing.assert_allclose([mean[0], std[0]], [(images / 255).mean(), (images / 255).std()])
    assert count == 1300


def test_a_constant_channel_has_std_one():
    _, std, _ = statistics.statistics(labelled([0]).images)
    assert std.tolist() == [1.0]


def test_statistics_of_a_streamed_set_come_from_a_sample():
    reads = []

    def read(row):
        reads.append(row)
        return np.full((1, 1, 1), row % 256, np.uint8)

    lazy = LazyImages(read, np.arange(6000), (1, 1, 1))
    mean, _, count = statistics.statistics(lazy)
    assert count == len(set(reads)) == statistics.STATISTICS_SAMPLE
    assert abs(mean[0] - 0.5) < 0.02  # sd of the mean 0.29 / 64 = 0.0045


def test_statistics_of_a_streamed_set_pass_over_what_cannot_be_read():
    def read(row):
        if row in unreadable:
            raise DataError(f"image {row}: unreadable")
        return np.full((1, 1, 1), 51 * row, np.uint8)

    unreadable = {0, 3}
    lazy = LazyImages(read, np.arange(4), (1, 1, 1))
    mean, _, count = statistics.statistics(lazy)
    np.testing.assert_allclose(mean, (0.2 + 0.4) / 2, rtol=1e-6)
    assert count == 2
    unreadable |= {1, 2}
    with pytest.raises(DataError, match="no training image can be read; the first: image 0"):
        statistics.statistics(lazy)


@pytest.mark.parametrize("amount", [-1, 1.0, 1.5, -0.1])
def test_an_impossible_amount_is_refused(amount):
    with pytest.raises(ConfigError, match="validation must be a number of examples"):
        splitting.carve(np.zeros(4, np.int32), amount, seed=0, what="validation")


def test_carving_nothing_is_always_possible():
    stay, carved = splitting.carve(np.zeros(0, np.int32), 0, seed=0, what="validation")
    assert (len(stay), len(carved)) == (0, 0)


def test_asking_for_more_than_there_is_says_how_many_there_are():
    with pytest.raises(DataError, match="asks for 5000 examples, but only 4 are there"):
        splitting.carve(np.zeros(4, np.int32), 5000, seed=0, what="validation")


def test_a_limit_of_zero_is_refused():
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        cut(Parts(("a",), labelled([0] * 8)), limit=0)
