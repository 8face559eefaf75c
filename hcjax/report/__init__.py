"""Reports of a run for people: progress, metrics files, tables and pictures.

In come plain numbers and NumPy arrays; out go terminal text and files in the workdir. No file here
imports jax. The heavy libraries (tqdm, tensorboardX, matplotlib) are imported by the functions
that need them.
"""
