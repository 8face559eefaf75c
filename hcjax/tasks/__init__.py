"""Tasks: what networks are trained and scored for. A new one is one file and a line in `TASKS`."""

from __future__ import annotations

from hcjax.core import registry
from hcjax.errors import ConfigError
from hcjax.tasks.classification import classification
from hcjax.tasks.detection import detection
from hcjax.tasks.embedding import embedding
from hcjax.tasks.multilabel import multilabel
from hcjax.tasks.regression import regression, robust_regression
from hcjax.tasks.segmentation import segmentation
from hcjax.tasks.task import Shown, Task

TASKS: dict[str, Task] = {
    "classification": classification,
    "detection": detection,
    "embedding": embedding,
    "multilabel": multilabel,
    "regression": regression,
    "robust_regression": robust_regression,
    "segmentation": segmentation,
}


def get(task: Task | str) -> Task:
    """Returns a task, given itself or its name in `TASKS`.

    Raises:
      ConfigError: if there is none of that name, or it is no Task.

    Example:
      >>> get("regression").shown
      ('mse', 'mae', 'r2')
    """
    if isinstance(task, str):
        return registry.choose("task", TASKS, task)
    if not isinstance(task, Task):
        raise ConfigError(f"task must be a Task or its name, got {type(task).__name__}")
    return task


__all__ = [
    "TASKS",
    "Shown",
    "Task",
    "classification",
    "detection",
    "embedding",
    "get",
    "multilabel",
    "regression",
    "segmentation",
]
