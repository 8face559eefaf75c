"""Ops: what each kind computes, and the arithmetic of integers."""
