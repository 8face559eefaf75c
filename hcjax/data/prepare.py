"""From pixels to the network's input: floats, augmented, normalised; and the training target.

`make_prepare` is pure and traced inside the jitted step, so that bytes and not floats travel to
the device. `normalise` is the same formula on the host, by NumPy. Both give
image = (pixel - mean) / std, pixel = byte / 255, or a float in 0..1 as it is, but not the same
bits: XLA multiplies by the reciprocal of a constant where NumPy divides. A place keeps the path
that its results were made by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import registry
from hcjax.data import arrays
from hcjax.data.augment import AUGMENTATIONS, COVERS, MIXES, MOVES, TOKENS, needs_partners
from hcjax.data.augment.masks import moved
from hcjax.errors import ConfigError, DataError


def normalise(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Normalises images on the host: (pixels - mean) / std, pixels in 0..1.

    Args:
      images: uint8[N, H, W, C], of which a pixel is value / 255; or floats in 0..1, which are used
        as they are, and other types as `arrays.pixels` takes them.
      mean: float32[C], in units where a pixel is 0..1, e.g. `dataset.mean`.
      std: float32[C], likewise, > 0.

    Returns:
      float32[N, H, W, C], as a network or a Model takes its images.

    Raises:
      DataError: if pixels are out of range or not finite, e.g. of images normalised before.

    Example:
      >>> images = np.full((1, 1, 1, 1), 255, np.uint8)
      >>> normalise(images, np.float32([0.5]), np.float32([0.5])).tolist()
      [[[[1.0]]]]
    """
    images = arrays.pixels(images)
    scaled = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    return (scaled - mean) / std


def make_prepare(
    *,
    mean: np.ndarray | None,
    std: np.ndarray | None,
    num_classes: int,
    augment: Sequence[tuple[str, dict]] = (),
) -> Callable[[dict, jax.Array | None], dict]:
    """Returns `prepare(batch, key) -> batch`, which augments and normalises a batch.

    image = (augment(pixels) - mean) / std, pixels = bytes / 255, or floats in 0..1 as they are.
    Augmentations run in the order given. Example p
    of the global batch uses the key fold_in(fold_in(key, p), i) in augmentation i, so an image
    depends on its position alone, never on the number of devices or hosts.

    Args:
      mean: float32[C] of the training set, in units where a pixel is 0..1; None for inputs that
        networks get as they are, and that are not augmented.
      std: float32[C], likewise, > 0.
      num_classes: K; 0 without classes, whose targets are not mixed.
      augment: pairs (name in `AUGMENTATIONS`, keyword arguments).

    Returns:
      A pure function. It takes a batch of `train_batches` with a key; for evaluation, any batch
      with `key=None`, which skips augmentation. It returns a new dict with the batch's entries
      (partners removed), "inputs" float32[n, H, W, C] and "target": the labels int32[n],
      or probabilities float32[n, K] where an augmentation mixes labels, or other targets; masks
      int32[n, H, W] are moved with their images, -1 where these show nothing, and are the labels
      too.

    Raises:
      ConfigError: if an augmentation or one of its arguments is unknown. The function it returns
        raises it if an augmentation needs partners and the batch has none, and DataError if images
        are neither uint8 nor floats (whose range cannot be checked here: it must be 0..1).

    Example:
      >>> prepare = make_prepare(mean=np.array([0.5]), std=np.array([0.5]), num_classes=2)
      >>> batch = {"inputs": np.full((1, 1, 1, 1), 255, np.uint8), "labels": np.array([1])}
      >>> prepare(batch, None)["inputs"].item()
      1.0
    """
    augment = [(name, dict(arguments)) for name, arguments in augment]
    for name, arguments in augment:
        registry.check(
            f"augmentation '{name}'",
            registry.choose("augmentation", AUGMENTATIONS, name),
            arguments,
        )
    mixing = needs_partners(augment)
    names = [name for name, _ in augment]
    if wrong := [name for name in names if (name in TOKENS) != (mean is None)]:
        legal = ", ".join(sorted(TOKENS))
        what = f"images; of tokens are {legal}" if mean is None else "tokens, and these are images"
        raise ConfigError(f"augmentation '{wrong[0]}' is of {what}")
    if mixing and not num_classes:
        raise ConfigError("mixup and cutmix mix labels, and these targets are none")
    if mean is None:
        return partial(_prepare_tokens, augment)
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def one(key, image, target, partner, partner_target):
        """Augments one example; `partner` is augmented too, with keys of its own."""
        partner_key = jax.random.fold_in(key, len(augment))
        for i, (name, arguments) in enumerate(augment):
            function, own_key = AUGMENTATIONS[name], jax.random.fold_in(key, i)
            if name in MIXES:
                image, target = function(
                    own_key, image, target, partner, partner_target, **arguments
                )
            else:
                image = function(own_key, image, **arguments)
                if name in MOVES and jnp.ndim(target) == 2:
                    target = moved(function, own_key, target, **arguments)
                if partner is not None:
                    other = jax.random.fold_in(partner_key, i)
                    partner = function(other, partner, **arguments)
        return image, target

    def prepare(batch: dict, key: jax.Array | None) -> dict:
        batch = dict(batch)
        partner = batch.pop("partner_inputs", None) if mixing and key is not None else None
        partner_label = batch.pop("partner_labels", None)
        batch.pop("partner_inputs", None)
        if key is not None:
            names = [name for name, _ in augment]
            _check_targets(batch["labels"], np.shape(batch["inputs"])[1:3], names)
        image, target = _scaled(batch["inputs"]), jax.tree.map(jnp.asarray, batch["labels"])
        if augment and key is not None:
            if mixing and partner is None:
                raise ConfigError(
                    "mixup and cutmix need batches with partners: train_batches(partners=True)"
                )
            keys = jax.vmap(lambda p: jax.random.fold_in(key, p))(jnp.asarray(batch["position"]))
            partner_target = None
            if mixing:
                target = jax.nn.one_hot(target, num_classes)
                partner, partner_target = (
                    _scaled(partner),
                    jax.nn.one_hot(partner_label, num_classes),
                )
            image, target = jax.vmap(one)(keys, image, target, partner, partner_target)
            if getattr(target, "ndim", 0) == 3:  # masks: scores of training are of the moved ones
                batch["labels"] = target
        # the second half of `normalise`, traced
        return batch | {"inputs": (image - mean) / std, "target": target}

    return prepare


def _prepare_tokens(augment: Sequence[tuple[str, dict]], batch: dict, key: Any) -> dict:
    """Prepares a batch whose inputs the network gets as they are, but for augmented tokens."""
    inputs = batch["inputs"]
    if augment and key is not None:
        if not hasattr(inputs, "dtype") or not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ConfigError(f"augmentation '{augment[0][0]}' is of tokens, and these are none")
        keys = jax.vmap(lambda p: jax.random.fold_in(key, p))(jnp.asarray(batch["position"]))
        for i, (name, arguments) in enumerate(augment):
            function = partial(AUGMENTATIONS[name], **arguments)
            own = jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys)
            inputs = jax.vmap(function)(own, jnp.asarray(inputs))
    return batch | {"inputs": inputs, "target": batch["labels"]}


def _check_targets(targets: Any, size: tuple[int, ...], names: Sequence[str]) -> None:
    """Raises ConfigError for augmentations that change what these targets say of an image.

    Labels [N] stay true of an image that is moved, masks [N, H, W] are moved with it.

    Args:
      targets: of a batch. size: (H, W) of its images. names: of the augmentations.
    """
    integers = hasattr(targets, "ndim") and targets.dtype.kind in "iu"
    if integers and targets.ndim == 1:
        return
    masks = integers and targets.shape[1:] == size
    refused = (*COVERS, *MIXES) if masks else (*MOVES, *COVERS, *MIXES)
    wrong = [name for name in names if name in refused]
    if wrong:
        reason = "moves" if wrong[0] in MOVES else "covers" if wrong[0] in COVERS else "mixes"
        what = (
            f"{reason} parts of images, and masks [N, H, W] cannot follow" if masks else
            f"{reason} images, and these targets are neither labels [N] nor masks [N, "
            f"{', '.join(map(str, size))}], integers: boxes and maps would not follow"
        )  # fmt: skip
        legal = ", ".join(name for name in AUGMENTATIONS if name not in (*refused, *TOKENS))
        raise ConfigError(f"augmentation '{wrong[0]}' {what}; legal are {legal}")


def _scaled(image: jax.Array) -> jax.Array:
    """Scales pixels to float32 in 0..1, traced: the first half of `normalise`."""
    image = jnp.asarray(image)
    if jnp.issubdtype(image.dtype, jnp.floating) or image.dtype == bool:
        return image.astype(jnp.float32)
    if image.dtype != np.uint8:
        raise DataError(
            f"images of a batch must be uint8 or floats in 0..1, found {image.dtype}: give "
            "images.astype('uint8') if 255 is white, or divide by what white is"
        )
    return image.astype(jnp.float32) / 255
