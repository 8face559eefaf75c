"""Coupled channels of a network, and their removal."""
