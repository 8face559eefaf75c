"""Whole channels taken out."""
