"""Teachers' logits on disk: the same as in the step, found again, mended, refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax import distill
from hcjax.data.dataset import Split
from hcjax.errors import CheckpointError, ConfigError
from hcjax.train import parallel, teaching
from tests import tiny

STEPS = 3
AUGMENT = [("noise", {"std": 0.1}), ("shift", {"pixels": 1})]


def shown(images):
    """Returns two numbers that tell augmented images apart."""
    return jnp.stack([images.mean((1, 2, 3)), (images**2).mean((1, 2, 3))], -1)


@pytest.fixture(scope="module")
def dataset():
    images, labels = tiny.images(24)
    part = Split(images, (labels % 2).astype(np.int32))
    whole = hcjax.data.load("mnist", limit=1)
    none = Split(images[:0], part.labels[:0])
    facts = {"class_names": ("a", "b"), "train": part, "validation": none, "test": none}
    return type(whole)(**{**vars(whole), **facts})


def fitted(dataset, path, *, params=1.0, seed=0, **changes):
    def squared(logits, target):
        _, told = target
        return jnp.square(logits - told).sum(-1)

    done = hcjax.fit(
        lambda w, images: w * shown(images), jnp.float32(params), dataset, loss=squared,
        tx=optax.sgd(0.1), steps=STEPS, quiet=True, teacher=shown, teacher_logits=path,
        **{"accelerate": False, "augment": AUGMENT, "batch_size": 8,
           "key": jax.random.key(seed), **changes},
    )  # fmt: skip
    return float(done.params)


@pytest.fixture(scope="module")
def kept(dataset, tmp_path_factory):
    """Returns (what a student came to, what the file then held)."""
    path = tmp_path_factory.mktemp("kept") / "folder" / "logits"
    return fitted(dataset, path, params=0.5), path.read_bytes()


def test_the_teacher_sees_what_the_student_sees(dataset, kept, tmp_path):
    # only then is the loss 0, and nothing moves
    assert fitted(dataset, tmp_path / "logits") == pytest.approx(1, abs=1e-6)
    assert kept[0] > 0.5
    assert (tmp_path / "logits").read_bytes() == kept[1]  # whoever is taught
    assert len(kept[1]) == teaching.HEADER_BYTES + STEPS * (4 + 4 * 8 * 2)


def test_a_second_run_asks_no_teacher_and_ends_in_the_same_bits(
    dataset, kept, tmp_path, monkeypatch
):
    def absent(*_):
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(parallel, "teach", lambda step, **_: absent)
    path = tmp_path / "logits"
    path.write_bytes(kept[1])
    assert fitted(dataset, path, params=0.5) == kept[0]
    assert path.read_bytes() == kept[1]


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_what_is_damaged_is_computed_again(dataset, kept, tmp_path, damage):
    path, (first, whole) = tmp_path / "logits", kept
    at = teaching.HEADER_BYTES + 30
    flipped = whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :]
    path.write_bytes({"flipped": flipped, "cut": whole[:-70]}[damage])
    assert fitted(dataset, path, params=0.5) == first
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 1}, "key"), ({"augment": AUGMENT[:1]}, "augment"), ({"batch_size": 4}, "batch")],
)
def test_logits_of_another_training_are_refused(dataset, kept, tmp_path, changes, named):
    path = tmp_path / "logits"
    path.write_bytes(kept[1])
    with pytest.raises(ConfigError, match=f"{path} .* of another training: .*{named}.* is "):
        fitted(dataset, path, **changes)
    assert path.read_bytes() == kept[1]


def test_logits_of_other_pixels_and_of_other_random_numbers_are_refused(dataset, kept, tmp_path):
    path = tmp_path / "logits"
    path.write_bytes(kept[1])
    other = dataset.train._replace(inputs=255 - dataset.train.images)
    with pytest.raises(ConfigError, match="of another training: images_crc32 is"):
        fitted(type(dataset)(**{**vars(dataset), "train": other}), path)
    with pytest.raises(ConfigError, match=r"of another training: rng is .*fry.* there, .*rbg"):
        fitted(dataset, path, key=jax.random.key(0, impl="unsafe_rbg"))


def test_of_many_images_and_of_those_read_on_demand_some_are_compared(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (1000, 2, 2, 1), np.uint8)
    whole = teaching._images_checksum(images)
    monkeypatch.setattr(teaching, "TABLE_BYTES", 100)
    some = teaching._images_checksum(images)
    assert len({whole, some, teaching._images_checksum(images + 1)}) == 3


def test_losses_that_do_not_fit_the_teacher_say_so(dataset):
    def tried(loss, teacher, apply=lambda w, images: w * shown(images)):
        with pytest.raises(ConfigError) as found:
            hcjax.fit(apply, jnp.float32(1), dataset, loss=loss, tx=optax.sgd(0.1), steps=1,
                      key=jax.random.key(0), quiet=True, teacher=teacher, batch_size=8)  # fmt: skip
        return str(found.value)

    def seen(images):
        return shown(images), {"a": images}

    taught = distill.taught(hcjax.losses.cross_entropy)
    guided = distill.guided(taught, {"a": "a"})
    assert "teacher=, give it as `distill.taught" in tried(hcjax.losses.cross_entropy, shown)
    assert "give fit teacher=" in tried(taught, None)
    assert "give fit teacher=" in tried(guided, None)
    assert "taught reads a teacher's logits" in tried(taught, seen)
    activations = lambda w, images: (w * shown(images), {"a": images})
    assert "teacher= returns no such pair" in tried(guided, shown, activations)
    assert "the network returns no such pair" in tried(guided, seen)
    assert "a str cannot be" in tried(taught, "teacher.hcz")


@pytest.mark.parametrize("content", [b"my notes", b"{}", b"[1]" + 5000 * b" "])
def test_a_file_of_something_else_is_left_alone(dataset, tmp_path, content):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not hold a teacher's logits"):
        fitted(dataset, path)
    assert path.read_bytes() == content


def counted(dataset, monkeypatch, **changes):
    """Returns (what a student comes to, images that its teacher is shown before the steps)."""
    asked, told = [], parallel.teach

    def teach(step, **options):
        each = told(step, **options)
        return lambda n, batch, key: asked.append(batch["inputs"].size // 64) or each(n, batch, key)

    monkeypatch.setattr(parallel, "teach", teach)
    return fitted(dataset, None, params=0.5, **changes), sum(asked)


def test_images_that_nothing_moves_are_shown_to_the_teacher_once(dataset, monkeypatch):
    # 3 steps of 16 images are two epochs; the last batch that the teacher sees is half padding
    once, images = counted(dataset, monkeypatch, augment=(), batch_size=16)
    assert images == 32
    monkeypatch.setattr(teaching, "TABLE_BYTES", 0)
    assert once == pytest.approx(fitted(dataset, None, params=0.5, augment=(), batch_size=16))
    assert once > 0.5


@pytest.mark.parametrize("changes", [{"augment": AUGMENT}, {"batch_size": 4}])
def test_a_step_asks_the_teacher_where_that_is_less(changes, dataset, monkeypatch):
    assert counted(dataset, monkeypatch, **{"augment": (), **changes})[1] == 0


def test_a_folder_that_cannot_be_written_is_named(dataset, tmp_path):
    path = tmp_path / "logits"
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be kept in .*logits: Is a directory"):
        fitted(dataset, path)
