"""Training: the step, its devices, the loop around it, checkpoints and evaluation."""
