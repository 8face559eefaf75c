"""Layers replaced by thinner ones."""
