"""Kernels in C++ that XLA's programs call: built on this machine, kept, and never required."""
