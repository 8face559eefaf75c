"""What a compressed model is worth, and where it answers otherwise."""
