"""Structured pruning: removal of whole channels."""
