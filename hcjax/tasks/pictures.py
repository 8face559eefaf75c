"""What the pictures of a run show for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from hcjax.report import predictions

if TYPE_CHECKING:
    from hcjax.tasks.task import Shown

MASKS = 18  # images with their masks


def masks(shown: Shown) -> dict[str, Any]:
    """Returns the picture of the worst masks; of sequences, which are no pictures, none."""
    if np.ndim(shown.inputs) != 4 or np.ndim(shown.targets) != 3:
        return {}
    found = (np.asarray(x[:MASKS]) for x in (shown.inputs, shown.targets, shown.predictions))
    return {"masks": predictions.draw_masks(*found, class_names=shown.class_names)}


def numbers(shown: Shown) -> dict[str, Any]:
    """Returns the picture of predicted numbers over true ones."""
    pair = [jax.tree.leaves(x)[0] for x in (shown.targets, shown.predictions)]
    return {"predicted": predictions.draw_numbers(*pair, names=shown.class_names)}
