"""Every picture as a figure, for notebooks: each function returns one, and writes nothing.

A figure that is a cell's value is shown; `save(figure, path)` writes it as the launcher writes its
own, byte for byte.
"""

from hcjax.report import curves, layers, plots, predictions
from hcjax.report.canvas import save
from hcjax.report.pareto import draw_pareto

confusion_matrix = plots.draw_confusion_matrix
filters = plots.draw_filters
layer_curves = curves.draw_layer_curves
layer_errors = layers.draw_layer_errors
learning_curves = curves.draw_learning_curves
masks = predictions.draw_masks
numbers = predictions.draw_numbers
pareto = draw_pareto
worst_mistakes = plots.draw_worst_mistakes

__all__ = [
    "confusion_matrix",
    "filters",
    "layer_curves",
    "layer_errors",
    "learning_curves",
    "masks",
    "numbers",
    "pareto",
    "save",
    "worst_mistakes",
]
