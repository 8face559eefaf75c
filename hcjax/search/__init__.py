"""Per-layer sensitivity, and the choice of each layer's sparsity or bits under a budget."""
