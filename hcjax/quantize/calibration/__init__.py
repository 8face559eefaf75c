"""Calibration: what the activations of a network are, and the integers that hold them."""
