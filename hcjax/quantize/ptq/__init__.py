"""Better integers without training."""
