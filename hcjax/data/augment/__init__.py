"""The table of augmentations, pure functions of (key, image) that are traced inside the step.

In: one image float32[H, W, C] in 0..1, not yet normalised; or int32[L] tokens, for those in
`TOKENS`. Out: the augmented one. `prepare` vmaps them over a batch, with a key for each example.

Why not dm-pix: of these it has flips, crops and colour, a line or two each; it has no cutout,
mixup, cutmix or noise; rotation, scale, shear, shift and elastic displacement would be several
resamplings, each of which blurs; and it imports chex.
"""

from __future__ import annotations

from collections.abc import Sequence

from hcjax.data.augment.appearance import color, cutmix, cutout, mixup, noise
from hcjax.data.augment.geometry import affine, crop, elastic, flip, shift
from hcjax.data.augment.words import forget

AUGMENTATIONS = {
    "shift": shift,
    "crop": crop,
    "flip": flip,
    "affine": affine,
    "elastic": elastic,
    "cutout": cutout,
    "noise": noise,
    "color": color,
    "mixup": mixup,
    "cutmix": cutmix,
    "forget": forget,
}
TOKENS = {"forget"}  # these are of tokens, all others of images
MOVES = ("shift", "crop", "flip", "affine", "elastic")  # masks are moved with the images
COVERS = ("cutout",)  # what is said of a place no longer fits
MIXES = ("mixup", "cutmix")  # these also take and return the target


def needs_partners(augment: Sequence[tuple[str, dict]]) -> bool:
    """Tells whether an augmentation mixes two examples, so that batches need partners.

    Args:
      augment: pairs (name, keyword arguments).

    Returns:
      True if there is a mixup or cutmix.

    Example:
      >>> needs_partners([("flip", {})]), needs_partners([("flip", {}), ("mixup", {})])
      (False, True)
    """
    return any(name in MIXES for name, _ in augment)
